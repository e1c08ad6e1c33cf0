"""Datasets of files: pairing, checks, the cache and what a reader gets."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from sims_jax import data
from sims_jax.data.coarse import draw_coarse
from sims_jax.data.folder import FolderConfig, label_space_from_json, list_folder
from sims_jax.data.listing import list_images
from sims_jax.data.scenes import draw_scene
from sims_jax.data.source import open_dataset
from sims_jax.errors import InputError
from sims_jax.images import decode_photo
from sims_jax.labels import CAMVID, LAYOUT_SUFFIXES, SCENES, VOID, read_layout

SIZE = (6, 8)
CLASSES = [
    {"name": "sky", "color": [1, 2, 3], "context": True},
    {"name": "road", "color": [4, 5, 6], "planar": True},
    {"name": "pole", "color": [7, 8, 9], "thin": True},
]


def draw_pair(photos, layouts, stem, seed=0, size=SIZE):
    """Writes a photo and a layout; returns their pixels."""
    random = np.random.default_rng([seed, *stem.encode()])
    photo = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    layout = random.integers(0, 3, size).astype(np.uint8)
    for folder, pixels in ((photos, photo), (layouts, layout)):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
    return photo, layout


@pytest.fixture
def camvid_copy(tmp_path):
    """A small folder in SegNet's layout: two videos in train, one of them also in val."""
    root = tmp_path / "camvid"
    for split, stems in {
        "train": ["0001TP_000030", "0001TP_000060", "0016E5_00390", "0016E5_00420"],
        "val": ["0016E5_00450"],
    }.items():
        for stem in stems:
            draw_pair(root / split, root / f"{split}annot", stem)
    return root


@pytest.fixture
def own_folder(tmp_path):
    root = tmp_path / "own"
    for index in range(8):
        draw_pair(root / "photos", root / "layouts", f"p{index}")
    (root / "labels.json").write_text(json.dumps({"classes": CLASSES, "void_ids": [3]}))
    return root


def open_camvid(root, **fields):
    return open_dataset({"name": "camvid", "root": str(root), **fields}, root.parent / "cache")


def open_folder(root, **fields):
    config = ConfigDict({"name": "folder", "root": str(root), **fields})
    return open_dataset(config, root.parent / "cache")


def message_of(call, *args, **fields):
    with pytest.raises(InputError) as caught:
        call(*args, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids_of(source):
    return [example["id"] for example in source]


def complete_caches(root):
    return sorted((root.parent / "cache").rglob("dataset_info.json"))


def test_real_camvid(camvid_root, tmp_path):
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        for folder, suffix in ((split, "jpg"), (f"{split}annot", "png")):
            (root / folder).mkdir(parents=True)
            for path in sorted((camvid_root / folder).glob(f"*.{suffix}"))[:3]:
                (root / folder / path.name).symlink_to(path.resolve())
    dataset = open_camvid(root)
    assert dataset.labels is CAMVID and dataset.name == "camvid" and "research" in dataset.licence
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {
        "train": 3,
        "val": 3,
    }
    first = dataset.splits["train"][0]
    path = sorted((root / "train").iterdir())[0]
    assert (first["id"], first["video"], first["frame"]) == (path.stem, "0001TP", 6690)
    np.testing.assert_array_equal(first["photo"], decode_photo(path.read_bytes(), path))
    annotation = root / "trainannot" / f"{path.stem}.png"
    np.testing.assert_array_equal(first["layout"], read_layout(annotation, CAMVID))
    assert first["photo"].shape == (360, 480, 3) and first["photo"].dtype == np.uint8
    assert first["layout"].dtype == np.uint8 and VOID in first["layout"]


def test_examples_keep_order_and_pickle(camvid_copy):
    train = open_camvid(camvid_copy).splits["train"]
    assert ids_of(train) == sorted(ids_of(train)) and len(train) == 4
    assert train[-1]["id"] == train[3]["id"]
    with pytest.raises(IndexError):
        train[4]
    again = pickle.loads(pickle.dumps(train))
    for one, other in zip(train, again, strict=True):
        assert one.keys() == other.keys() == {"id", "photo", "layout", "video", "frame"}
        np.testing.assert_array_equal(one["photo"], other["photo"])
    photo, layout = draw_pair(camvid_copy / "a", camvid_copy / "b", "0001TP_000060")
    np.testing.assert_array_equal(train[1]["photo"], photo)
    np.testing.assert_array_equal(train[1]["layout"], layout)


def test_videos_are_held_out(camvid_copy):
    splits = open_camvid(camvid_copy, holdout_videos=("0016E5",)).splits
    assert {example["video"] for example in splits["train"]} == {"0001TP"}
    assert ids_of(splits["val"]) == ["0016E5_00390", "0016E5_00420"]
    shutil.rmtree(camvid_copy / "val")
    assert len(open_camvid(camvid_copy, holdout_videos=["0016E5"]).splits["val"]) == 2
    assert f"{camvid_copy / 'val'}: found no such folder" in message_of(open_camvid, camvid_copy)
    for videos, found in [
        (("0001TP", "0016E5"), "no photo outside"),
        (("0006R0",), "some of 0001TP, 0016E5"),
    ]:
        assert found in message_of(open_camvid, camvid_copy, holdout_videos=videos)


def test_optional_test_split_and_frame_names(camvid_copy):
    draw_pair(camvid_copy / "test", camvid_copy / "testannot", "Seq05VD_f00030")
    example = open_camvid(camvid_copy).splits["test"][0]
    assert (example["video"], example["frame"]) == ("Seq05VD", 30)
    draw_pair(camvid_copy / "test", camvid_copy / "testannot", "street")
    assert "street.png: found the name street" in message_of(open_camvid, camvid_copy)


def test_mispaired_names_are_counted(camvid_copy):
    (camvid_copy / "trainannot" / "0001TP_000030.png").unlink()
    draw_pair(camvid_copy / "spare", camvid_copy / "trainannot", "0001TP_000090")
    message = message_of(open_camvid, camvid_copy)
    assert "1 file (0001TP_000030.png) without" in message and "0001TP_000090.png" in message
    assert not complete_caches(camvid_copy)


def test_zero_pairs_and_double_names(camvid_copy):
    photo = camvid_copy / "train" / "0001TP_000030.png"
    shutil.copy(photo, photo.with_suffix(".jpg"))
    assert "one file a name" in message_of(open_camvid, camvid_copy)
    photo.with_suffix(".jpg").unlink()
    for folder in ("val", "valannot"):
        for path in (camvid_copy / folder).iterdir():
            path.unlink()
    assert f"{camvid_copy / 'val'}: found no image" in message_of(open_camvid, camvid_copy)
    draw_pair(camvid_copy / "val", camvid_copy / "valannot", "0001TP_000030")
    assert "splits train and val" in message_of(open_camvid, camvid_copy)


def test_hidden_and_foreign_files_are_no_photos(camvid_copy):
    (camvid_copy / "train" / "._0001TP_000030.png").write_bytes(b"resource fork")
    (camvid_copy / "train" / "Thumbs.db").write_bytes(b"thumbnails")
    assert len(open_camvid(camvid_copy).splits["train"]) == 4


def test_a_jpeg_where_layouts_alone_are_is_named(camvid_copy):
    folder = camvid_copy / "trainannot"
    Image.new("L", SIZE[::-1]).save(folder / "0016E5_00421.jpg")
    with pytest.raises(InputError, match=r"00421\.jpg: found a \.jpg file, expected a PNG"):
        list_images(folder, suffixes=LAYOUT_SUFFIXES)


def spoil_size(root):
    Image.new("L", (4, 4)).save(root / "trainannot" / "0016E5_00420.png")
    return "found 4x4 pixels, expected 6x8"


def spoil_ids(root):
    Image.new("L", SIZE[::-1], 12).save(root / "trainannot" / "0016E5_00420.png")
    return "found ids 12, expected 0 to 10"


def spoil_layout(root):
    path = root / "trainannot" / "0016E5_00420.png"
    path.write_bytes(path.read_bytes()[:60])
    return "unusable image"


def spoil_photo(root):
    (root / "train" / "0016E5_00420.png").write_bytes(b"")
    return "0 bytes"


@pytest.mark.parametrize("spoil", [spoil_size, spoil_ids, spoil_layout, spoil_photo])
def test_bad_file_is_named_and_nothing_is_cached(camvid_copy, spoil):
    found = spoil(camvid_copy)
    for _ in range(2):
        message = message_of(open_camvid, camvid_copy)
        assert "0016E5_00420.png: " in message and found in message
        assert not complete_caches(camvid_copy)
    draw_pair(camvid_copy / "train", camvid_copy / "trainannot", "0016E5_00420")
    assert len(open_camvid(camvid_copy).splits["train"]) == 4


def test_interrupted_preparation_is_no_cache(camvid_copy, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sims_jax.data.pairs.Pair.read", interrupt)
        open_camvid(camvid_copy)
    assert len(open_camvid(camvid_copy).splits["train"]) == 4


def test_changed_folder_is_read_again(camvid_copy, monkeypatch):
    before = open_camvid(camvid_copy).splits["train"][0]["photo"]
    with monkeypatch.context() as patch:
        patch.setattr("sims_jax.data.pairs.Pair.read", None)  # The cache answers.
        open_camvid(camvid_copy)
    photo, _ = draw_pair(camvid_copy / "train", camvid_copy / "trainannot", "0001TP_000030", seed=1)
    os.utime(camvid_copy / "train" / "0001TP_000030.png", ns=(1, 1))
    after = open_camvid(camvid_copy).splits["train"][0]["photo"]
    assert (before != photo).any()
    np.testing.assert_array_equal(after, photo)


def test_terminal_stays_quiet(camvid_copy, capfd):
    open_camvid(camvid_copy)
    assert capfd.readouterr() == ("", "")


def test_folder(own_folder):
    dataset = open_folder(own_folder, val_frac=0.3)
    labels = dataset.labels
    assert labels.classes == ("sky", "road", "pole") and labels.name == "own"
    assert (labels.context, labels.planar, labels.thin) == (("sky",), ("road",), ("pole",))
    assert labels.void_ids == (3,) and labels.palette[2] == (7, 8, 9)
    train, val = (ids_of(dataset.splits[split]) for split in ("train", "val"))
    assert sorted(train + val) == [f"p{index}" for index in range(8)] and val
    assert dataset.splits["train"][0]["video"] == train[0]
    # Photos that are added later move none of the others.
    for index in range(8, 30):
        draw_pair(own_folder / "photos", own_folder / "layouts", f"p{index}")
    more = list_folder(FolderConfig(str(own_folder), val_frac=0.3))
    assert set(train) <= {pair.id for pair in more["train"]}
    assert set(open_folder(own_folder, val_frac=0.0).splits) == {"train"}


def test_folder_keeps_videos_together(tmp_path):
    root = tmp_path / "own"
    (root / "photos").mkdir(parents=True)
    (root / "labels.json").write_text(json.dumps({"classes": CLASSES}))
    for video in "abcd":
        for frame in range(3):
            draw_pair(root / "photos", root / "layouts", f"{video}_{frame}")
    splits = list_folder(FolderConfig(str(root), val_frac=0.3, video_frames=True))
    videos = [{pair.video for pair in pairs} for pairs in splits.values()]
    assert videos[0] and videos[1] and not videos[0] & videos[1]


def test_folder_instances(own_folder):
    (own_folder / "instances").mkdir()
    ids = np.arange(48, dtype=np.uint16).reshape(SIZE) * 1000
    for index in range(8):
        Image.fromarray(ids).save(own_folder / "instances" / f"p{index}.png")
    example = open_folder(own_folder).splits["train"][0]
    assert example["instances"].dtype == np.uint16
    np.testing.assert_array_equal(example["instances"], ids)
    (own_folder / "instances" / "p3.png").unlink()
    assert "1 file (p3.png) without a partner" in message_of(open_folder, own_folder)


def test_a_coarse_polygon_is_of_what_most_of_its_segment_is():
    layout = np.full((40, 60), 5, np.uint8)  # a tree
    layout[:3, :3] = 0  # begins with a speck of sky, which smooth segments do not have
    coarse = draw_coarse(layout, np.zeros(layout.shape, int))
    assert set(np.unique(coarse)) == {5, VOID} and (coarse == 5).mean() > 0.5
    assert (coarse[layout == 0] == VOID).all()


def test_folder_depth_and_coarse_layouts(own_folder):
    steps = np.arange(48, dtype=np.uint16).reshape(SIZE) * 1000
    for folder, pixels in (("depth", steps), ("coarse", np.full(SIZE, 3, np.uint8))):
        (own_folder / folder).mkdir()
        for index in range(8):
            Image.fromarray(pixels).save(own_folder / folder / f"p{index}.png")
    assert 'found "depth_unit_m" None' in message_of(open_folder, own_folder)
    labels = {"classes": CLASSES, "void_ids": [3], "depth_unit_m": 0.002}
    (own_folder / "labels.json").write_text(json.dumps(labels))
    example = open_folder(own_folder).splits["train"][0]
    np.testing.assert_allclose(example["depth"], steps * 0.002, rtol=1e-6)
    assert example["depth"].dtype == np.float32 and (example["coarse"] == VOID).all()


def test_folder_layouts_may_be_npy(own_folder):
    layout = np.arange(48).reshape(SIZE) % 3
    (own_folder / "layouts" / "p0.png").unlink()
    np.save(own_folder / "layouts" / "p0.npy", layout)
    examples = [e for source in open_folder(own_folder).splits.values() for e in source]
    [found] = [example["layout"] for example in examples if example["id"] == "p0"]
    np.testing.assert_array_equal(found, layout)


def test_folder_split_file(own_folder):
    names = [f"p{index}" for index in range(8)]
    split = own_folder / "split.json"
    split.write_text(json.dumps({"train": names[2:], "val": names[:2]}))
    assert ids_of(open_folder(own_folder).splits["val"]) == ["p0", "p1"]
    for content, found in [
        ({"train": names[1:], "val": []}, "without empty lists"),
        ({"train": names[1:]}, "photos it does not list: 1 (first: p0)"),
        ({"train": [*names, "p9"]}, "names without a photo: 1 (first: p9)"),
        ({"train": names, "val": ["p0"]}, "names in train and in val: 1 (first: p0)"),
        ({"train": [*names, "p0"]}, "names listed twice: 1 (first: p0)"),
        (
            {"train": names, "validation": ["p0"]},
            "found key validation, expected train, val; correct",
        ),
        ({"training": names, "val": ["p0"]}, "found key training, expected train, val"),
        ({"val": names}, "found no key train"),
        ([], "no JSON object"),
    ]:
        split.write_text(json.dumps(content))
        assert found in message_of(open_folder, own_folder)


@pytest.mark.parametrize(
    "content, found",
    [
        ("{", "no valid JSON"),
        ({}, "no key classes"),
        ({"classes": CLASSES, "palette": []}, "found key palette"),
        (
            {"clases": CLASSES},
            "found key clases, expected classes, depth_unit_m, name, void_ids",
        ),
        ({"classes": [{"name": "sky"}]}, "class 0: found no key color"),
        ({"classes": [{"name": "sky", "color": [1, 2]}]}, "color [1, 2]"),
        ({"classes": [{"name": "sky", "color": [1, 2, 300]}]}, "(1, 2, 300)"),
        ({"classes": [{"name": 3, "color": [1, 2, 3]}]}, "name 3"),
        ({"classes": [{"name": "sky", "color": [1, 2, 3], "thin": 1}]}, "thin 1"),
        ({"classes": [*CLASSES, CLASSES[0]]}, "sky is used twice"),
        ({"classes": CLASSES, "void_ids": [0]}, "void ids 0"),
        ({"classes": CLASSES, "void_ids": "3"}, '"void_ids" 3'),
        ({"classes": {}}, "no list"),
    ],
)
def test_bad_label_files(tmp_path, content, found):
    path = tmp_path / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    message = message_of(label_space_from_json, path)
    assert message.startswith(f"{path}: ") and found in message


@pytest.mark.parametrize(
    "config, found",
    [
        (
            {"name": "imagenet"},
            "expected one of ade20k, camvid, cityscapes, coco_stuff, folder, nyu, scenes;",
        ),
        ({}, "config.data.name: found None"),
        ({"name": "camvid"}, "found no 'root'"),
        ({"name": "camvid", "root": "/nowhere", "roots": ()}, "roots: found an unknown key; did"),
        ({"name": "camvid", "root": "/nowhere"}, "/nowhere/train: found no such folder"),
        ({"name": "folder", "root": "/nowhere"}, "/nowhere/photos: found no such folder"),
    ],
)
def test_bad_configs(tmp_path, config, found):
    assert found in message_of(open_dataset, config, tmp_path / "cache")


def test_val_frac_is_checked(own_folder):
    assert "val_frac: found 1.0" in message_of(open_folder, own_folder, val_frac=1.0)


def test_scenes_open_like_files(tmp_path):
    config = {"name": "scenes", "image_size": [48, 64], "num_train": 2, "num_val": 1}
    dataset = open_dataset(config, tmp_path)
    assert dataset.labels is SCENES and {*dataset.splits} == {"train", "val"}
    example = dataset.splits["train"][1]
    drawn = draw_scene(0, 1, "train", (48, 64))
    assert example.keys() == drawn.keys()
    for name, value in drawn.items():
        np.testing.assert_array_equal(example[name], value, err_msg=name)


# The package's own __init__ offers synthesis, so jax: data/ is imported here without it.
BARE_PACKAGE = """
import sys, types
package = types.ModuleType("sims_jax")
package.__path__ = [sys.argv[1]]
sys.modules["sims_jax"] = package
"""
LIST_FRAMEWORKS = """
import sys
import sims_jax.data.source
print([name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize(
    "prepare, frameworks",
    [("", ("tensorflow", "torch")), (BARE_PACKAGE, ("tensorflow", "torch", "jax"))],
    ids=["package", "data alone"],
)
def test_data_needs_no_framework(prepare, frameworks):
    package = pathlib.Path(data.__file__).parents[1]
    command = [sys.executable, "-c", prepare + LIST_FRAMEWORKS, str(package), *frameworks]
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == "[]", result.stderr
