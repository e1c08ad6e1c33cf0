"""Every builder: a replica of its folder makes a bank for all networks, and then a photo."""

import functools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from replicas import NUM_TRAIN, NUM_VAL, SIZE, WRITERS, draw, save

from sims_jax.bank.build import build_bank
from sims_jax.bank.store import open_bank
from sims_jax.config import make
from sims_jax.data.ade20k import ADE20K
from sims_jax.data.cityscapes import Cityscapes, CityscapesConfig
from sims_jax.data.coco_stuff import COCO_STUFF
from sims_jax.data.nyu import NYU
from sims_jax.data.source import DATASETS, open_dataset
from sims_jax.errors import InputError
from sims_jax.model import assemble
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks
from sims_jax.training.settings import BankConfig

BATCH = 2
LEARNING_RATE = 1e-3
# Whose steps the suite compiles: with the most classes and instances; with neither instances nor
# depth. `scenes` has all there is, and other tests train on it.
COMPILED = ("coco_stuff", "ade20k")


def test_every_dataset_of_files_has_a_replica():
    assert set(WRITERS) == set(DATASETS) - {"scenes"}


@pytest.fixture(scope="module", params=WRITERS)
def prepared(request, tmp_path_factory):
    """(what was drawn, the dataset that was read)"""
    root = tmp_path_factory.mktemp(request.param)
    config, drawn = WRITERS[request.param](root / "data")
    return drawn, open_dataset(config, root / "cache")


def test_what_was_drawn_is_read(prepared):
    drawn, dataset = prepared
    sizes = {split: len(source) for split, source in dataset.splits.items()}
    assert sizes == {"train": NUM_TRAIN, "val": NUM_VAL} and dataset.licence
    for example in (*dataset.splits["train"], *dataset.splits["val"]):
        expected = drawn.pop(example["id"])
        for field in example.keys() - {"id", "video", "frame", "depth", "instances"}:
            np.testing.assert_array_equal(example[field], expected[field], err_msg=field)
        if "depth" in example:
            assert example["depth"].dtype == np.float32
            np.testing.assert_allclose(example["depth"], expected["depth"], rtol=0.02)
        if "instances" in example:  # numbers may differ, what they part may not
            found, drawn_ids = example["instances"], expected["instances"]
            pairs = set(zip(found.ravel().tolist(), drawn_ids.ravel().tolist(), strict=True))
            assert len(pairs) == len(np.unique(found)) == len(np.unique(drawn_ids))
            assert found.dtype == np.uint16
    assert not drawn


def test_a_map_of_one_split_alone_is_refused(tmp_path):
    config, _ = WRITERS["coco_stuff"](tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val_inst")
    with pytest.raises(InputError, match=r"found no instances in the split val"):
        open_dataset(config, tmp_path / "cache")


@pytest.fixture(scope="module")
def banks(prepared, tiny_config, tmp_path_factory):
    """(config, bank, held-out bank) of what was read"""
    _, dataset = prepared
    folder, config = tmp_path_factory.mktemp("banks"), shrink(tiny_config)
    spec = make(BankConfig, config.bank, "config.bank").spec(dataset.labels)
    for split, source in dataset.splits.items():
        build_bank(source, spec, folder / split, source_name=split, licence=dataset.licence)
    return config, open_bank(folder / "train"), open_bank(folder / "val")


def test_a_bank_from_which_every_network_can_learn(banks):
    """Two things of one class that touch are two segments where instances part them."""
    config, store, heldout = banks
    rows = np.bincount(store.row_class)
    assert rows.max() == (1 if store.instances is None else 2) * NUM_TRAIN
    tasks = invent_tasks(config, store, heldout)
    batches = draw_batches(tasks)
    for array in jax.tree.leaves(batches):
        assert array.dtype.kind != "f" or np.isfinite(array).all()
    _, losses, _ = jax.eval_shape(make_step(tasks), jax.random.key(0), batches)
    assert {loss.shape for loss in losses.values()} == {()} and losses.keys() == tasks.keys()


@pytest.mark.parametrize(
    "prepared",
    [pytest.param(n, marks=[] if n in COMPILED else [pytest.mark.slow]) for n in WRITERS],
    indirect=True,
)
def test_every_network_learns_and_a_photo_is_made(prepared, banks):
    (_, dataset), (config, store, heldout) = prepared, banks
    tasks = invent_tasks(config, store, heldout)
    step = jax.jit(make_step(tasks))
    params, losses, slopes = jax.device_get(step(jax.random.key(0), draw_batches(tasks)))
    assert all(np.isfinite(loss) for loss in losses.values()), losses
    assert all(slope > 0 for slope in slopes.values()), slopes

    networks = {name: one for name, one in params.items() if name != "features"}
    model = assemble(config, store, networks)
    example = dataset.splits["val"][0]
    result = model.synthesize(example["layout"], instances=example.get("instances"))
    assert result.photo.shape == (*SIZE, 3) and np.isfinite(result.photo).all()
    assert any(segment.used for segment in result.segments)
    thing = dataset.labels.classes[np.bincount(store.row_class).argmax()]
    things = [segment.class_name for segment in result.segments].count(thing)
    assert things == (1 if store.instances is None else 2)


def mean_loss_of(task, batch, keys, params):
    return task.loss(params, batch, keys)[0].mean()


def draw_batches(tasks):
    return {
        name: next(iterate_batches(task, seed=0, batch_size=BATCH, first_step=0))
        for name, task in tasks.items()
    }


def make_step(tasks):
    """A step of every network's training: parameters after it, losses, norms of gradients.

    In one program: nearly all of the time is compilation, which differs with the number of classes.
    """

    def step(key, batches):
        params, losses, slopes = {}, {}, {}
        for name, task in tasks.items():
            batch, position = batches[name]
            keys = example_keys(key, jnp.int32(0), position)
            first = task.init(key)
            mean_loss = functools.partial(mean_loss_of, task, batch, keys)
            losses[name], gradient = jax.value_and_grad(mean_loss)(first)
            params[name] = jax.tree.map(lambda x, g: x - LEARNING_RATE * g, first, gradient)
            slopes[name] = optax.tree.norm(gradient)
        return params, losses, slopes

    return step


def shrink(config):
    """The tiny config at the replicas' size."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.bank.update(image_size=SIZE, grid=(12, 16), max_segments=8, min_area_frac=0.01)
        config.pipeline.update(candidates=2, max_pairs=8, chunk=8)
        for stage in ("transformer", "ordering"):
            config[stage].net.update(widths=(8,), convs=(1,))
        config.densifier.net.widths = (8,)
        config.synthesis.net.update(encoder_widths=(8,), encoder_convs=(1,), decoder_widths=(8, 8))
    return config


def message_of(name, root, **fields):
    with pytest.raises(InputError) as caught:
        open_dataset({"name": name, "root": str(root), **fields}, root.parent / "cache")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cityscapes_train_extra_has_coarse_layouts_alone(tmp_path):
    WRITERS["cityscapes"](tmp_path)
    for number in range(2):
        name = f"bayreuth_{number:06d}_000019"
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", draw(number, 10, 0, 13, 11)["photo"]),
            ("gtCoarse", "gtCoarse_labelIds", np.full(SIZE, 26, np.uint8)),
            ("gtCoarse", "gtCoarse_instanceIds", np.full(SIZE, 26, np.uint16)),
            ("disparity", "disparity", np.zeros(SIZE, np.uint16)),
        ):
            save(tmp_path / kind / "train_extra" / "bayreuth" / f"{name}_{ending}.png", pixels)
    splits = {}
    for extra in (False, True):
        config = CityscapesConfig(str(tmp_path), train_extra=extra)
        splits[extra] = Cityscapes.list_examples(config)[1]
    assert splits[True]["val"] == splits[False]["val"]
    added = splits[True]["train"][len(splits[False]["train"]) :]
    assert [one.id for one in added] == ["bayreuth_000000_000019", "bayreuth_000001_000019"]
    example = added[0].read(None)
    assert (example["layout"] == 13).all() and (example["coarse"] == 13).all()
    assert not example["instances"].any() and not example["depth"].any()
    assert (added[0].video, added[0].frame) == ("bayreuth_000000", 19)


def test_ade20k_keeps_a_subset_of_scenes_or_photos(tmp_path):
    WRITERS["ade20k"](tmp_path / "data")
    subset = tmp_path / "outdoor.txt"
    subset.write_text("street\nADE_val_00000004\n")
    config = {"name": "ade20k", "root": str(tmp_path / "data"), "subset": str(subset)}
    splits = open_dataset(config, tmp_path / "cache").splits
    assert [e["id"] for e in splits["train"]] == ["ADE_train_00000001", "ADE_train_00000003"]
    assert [e["id"] for e in splits["val"]] == ["ADE_val_00000004", "ADE_val_00000005"]
    subset.write_text("street\nmoon\n")
    assert "found moon" in message_of("ade20k", tmp_path / "data", subset=str(subset))
    subset.write_text("ADE_train_00000001\n")
    assert "no photo of val" in message_of("ade20k", tmp_path / "data", subset=str(subset))


def test_label_spaces_are_the_published_ones():
    assert ADE20K.num_classes == 150 and ADE20K.classes[149] == "flag"
    assert ADE20K.palette[0] == (120, 120, 120) and ADE20K.palette[149] == (92, 0, 255)
    assert COCO_STUFF.num_classes == 182
    # labels.txt: 1 person, 92 banner, 149 road, 182 wood.
    places = {name: COCO_STUFF.classes.index(name) + 1 for name in ("person", "banner", "road")}
    assert places == {"person": 1, "banner": 92, "road": 149} and COCO_STUFF.classes[-1] == "wood"
    assert NYU.num_classes == 40 and (NYU.classes[0], NYU.classes[21]) == ("wall", "ceiling")
    assert COCO_STUFF.palette[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))  # as Pascal VOC's


def lose_partner(name, root):
    pattern = {"cityscapes": "gtFine/train/*/*labelIds.png", "ade20k": "annotations/training/*",
               "coco_stuff": "train_label/*"}[name]  # fmt: skip
    path = sorted(root.glob(pattern))[0]
    path.unlink()
    return r"1 file \(.*\) without a partner"


def lose_folder(name, root):
    folder = {"cityscapes": "leftImg8bit", "ade20k": "images/training", "coco_stuff": "val_img"}
    shutil.rmtree(root / folder[name])
    return "found no"


def exceed_ids(name, root):
    pattern = {"cityscapes": "gtFine/val/*/*labelIds.png", "ade20k": "annotations/validation/*",
               "coco_stuff": "val_label/*"}[name]  # fmt: skip
    path = sorted(root.glob(pattern))[0]
    Image.fromarray(np.full(SIZE, 200, np.uint8)).save(path)
    return f"{re.escape(str(path))}: found (ids|values) 200, expected 0 to"


@pytest.mark.parametrize("spoil", [lose_partner, lose_folder, exceed_ids])
@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "coco_stuff"])
def test_what_is_wrong_is_one_line(name, spoil, tmp_path):
    root = tmp_path / "data"
    WRITERS[name](root)
    found = spoil(name, root)
    assert re.search(found, message_of(name, root))


@pytest.mark.parametrize("file", ["nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"])
def test_nyu_names_the_file_that_is_missing_or_damaged(file, tmp_path):
    root = tmp_path / "data"
    WRITERS["nyu"](root)
    path = root / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert message_of("nyu", root).startswith(f"{path}: ")
    path.unlink()
    assert message_of("nyu", root).startswith(f"{path}: cannot be read")


def test_a_config_is_given_another_dataset_by_its_name_alone(tmp_path):
    """Keys of the config's own dataset may stay where they are not set."""
    config, _ = WRITERS["coco_stuff"](tmp_path / "data")
    others = {"holdout_videos": (), "train_extra": False, "subset": ""}
    assert open_dataset(others | config, tmp_path / "cache").name == "coco_stuff"
    with pytest.raises(InputError, match="train_extra: found an unknown key"):
        open_dataset(others | config | {"train_extra": True}, tmp_path / "cache")
