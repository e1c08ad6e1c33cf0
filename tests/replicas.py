"""Small exact replicas of the datasets' folders: their names, modes and bit depths, tiny pictures.

Every writer draws three training and two held-out pictures and returns config.data, and what was
drawn by id: the example that must be read.
"""

import json

import h5py
import numpy as np
import scipy.io
from PIL import Image

from sims_jax.labels import VOID

SIZE = (24, 32)
NUM_TRAIN, NUM_VAL = 3, 2
# From cityscapesScripts, helpers/labels.py: trainId of some labelIds.
LABEL_IDS = {0: 7, 5: 17, 10: 23, 11: 24, 13: 26}
CLASSES = [
    {"name": "sky", "color": [1, 2, 3], "context": True},
    {"name": "road", "color": [4, 5, 6], "planar": True},
    {"name": "car", "color": [7, 8, 9]},
    {"name": "house", "color": [10, 11, 12]},
]


def draw(seed, sky, ground, thing, other):
    """A picture of four classes: two touching things of one class before another, void below.

    Returns:
      photo, layout, instances (labelled 1 and 2 in the two things) and depth in metres, 0 unknown.
    """
    rng = np.random.default_rng(seed)
    layout = np.full(SIZE, sky, np.uint8)
    layout[SIZE[0] // 2 :] = ground
    layout[6:14, 2:20] = other
    x = 4 + seed % 3
    layout[10:18, x : x + 18] = thing
    layout[-1] = VOID
    instances = np.zeros(SIZE, np.uint16)
    instances[10:18, x : x + 8], instances[10:18, x + 8 : x + 18] = 1, 2
    depth = np.select(
        [layout == sky, layout == other, instances > 0], [0, 20, 5 * instances.astype(int)], 8
    )
    color = rng.integers(0, 256, (VOID + 1, 3))[layout + instances]
    photo = np.clip(color + rng.integers(-9, 10, (*SIZE, 3)), 0, 255).astype(np.uint8)
    return {"photo": photo, "layout": layout, "instances": instances, "depth": depth}


def pictures(*classes):
    """(split, number, picture): the training pictures, then the held-out ones."""
    for number in range(NUM_TRAIN + NUM_VAL):
        yield ("train" if number < NUM_TRAIN else "val"), number, draw(number, *classes)


def save(path, pixels):
    """Writes a picture in the mode and depth of its array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_cityscapes(root):
    names = {i: LABEL_IDS.get(i, 0) for i in range(VOID + 1)}
    to_label = np.array([names[i] for i in range(VOID + 1)], np.uint8)
    drawn = {}
    for split, number, picture in pictures(10, 0, 13, 11):
        city = "bad-honnef" if split == "train" else "frankfurt"
        name = f"{city}_{number:06d}_000019"
        labels = to_label[picture["layout"]]
        numbered = labels.astype(np.uint16)
        things = picture["instances"] > 0
        numbered[things] = labels[things] * np.uint16(1000) + picture["instances"][things] - 1
        codes = np.where(picture["depth"] > 0, 1 + 256 * 0.209313 * 2262.52 / (
            np.maximum(picture["depth"], 1)), 0)  # fmt: skip
        coarse = np.where(things, labels, 0).astype(np.uint8)

        def path(kind, ending, split=split, city=city, name=name):
            return root / kind / split / city / f"{name}_{ending}.png"

        save(path("leftImg8bit", "leftImg8bit"), picture["photo"])
        save(path("gtFine", "gtFine_labelIds"), labels)
        save(path("gtFine", "gtFine_instanceIds"), numbered)
        save(path("gtFine", "gtFine_color"), np.zeros((*SIZE, 4), np.uint8))  # RGBA, not read
        path("gtFine", "gtFine_polygons").with_suffix(".json").write_text("{}")
        save(path("gtCoarse", "gtCoarse_labelIds"), coarse)
        save(path("disparity", "disparity"), codes.round().astype(np.uint16))
        drawn[name] = picture | {
            "instances": np.where(things, numbered, 0),
            "coarse": np.where(things, picture["layout"], VOID),
        }
    return {"name": "cityscapes", "root": str(root)}, drawn


def write_ade20k(root):
    drawn, scenes = {}, []
    for split, number, picture in pictures(2, 6, 20, 1):
        name = f"ADE_{split}_{number + 1:08d}"
        folder = {"train": "training", "val": "validation"}[split]
        path = root / "images" / folder / f"{name}.jpg"
        save(path, picture["photo"])
        codes = np.where(picture["layout"] == VOID, 0, picture["layout"] + 1)
        save(root / "annotations" / folder / f"{name}.png", codes.astype(np.uint8))
        scenes.append(f"{name} {'street' if number % 2 == 0 else 'bedroom'}")
        drawn[name] = read_back(path) | {"layout": picture["layout"]}
    (root / "sceneCategories.txt").write_text("\n".join(scenes) + "\n")
    return {"name": "ade20k", "root": str(root)}, drawn


def write_coco_stuff(root):
    drawn = {}
    for split, number, picture in pictures(156, 148, 2, 95):
        name = f"{number:012d}"
        photo = picture["photo"] if number else picture["photo"][..., 0]  # some of COCO's are grey
        path = root / f"{split}_img" / f"{name}.jpg"
        save(path, photo)
        save(root / f"{split}_label" / f"{name}.png", picture["layout"])
        numbered = np.where(picture["instances"] > 0, picture["instances"], picture["layout"])
        save(root / f"{split}_inst" / f"{name}.png", numbered.astype(np.uint8))
        maps = {"layout": picture["layout"], "instances": numbered}
        drawn[name] = read_back(path) | maps
    return {"name": "coco_stuff", "root": str(root)}, drawn


def write_nyu(root):
    """894 labels in the original; here seven, two of which are of one class."""
    root.mkdir(parents=True, exist_ok=True)
    classes = [22, 2, 5, 7, 5, 1, 40]  # 1 to 40, of labels 1 to 7
    drawn, arrays = {}, {name: [] for name in ("images", "labels", "instances", "depths")}
    for _, number, picture in pictures(21, 1, 4, 6):
        label = np.select([picture["layout"] == c for c in (21, 1, 6)], [1, 2, 4], 0) + np.where(
            picture["layout"] == 4, np.where(picture["instances"] == 1, 3, 5), 0
        )
        instances = (picture["instances"] > 0).astype(np.uint8)  # numbered within a label
        depths = picture["depth"].astype(np.float32)
        for name, array in zip(
            arrays, (picture["photo"], label.astype(np.uint16), instances, depths), strict=True
        ):
            arrays[name].append(array.T)  # as MATLAB's column order reads back
        drawn[f"nyu_{number + 1:04d}"] = picture
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, some in arrays.items():
            file[name] = np.stack(some)
        for name, texts in (
            ("names", [f"label {i}" for i in range(len(classes))]),
            ("scenes", [f"kitchen_{n // 2:04d}" for n in range(len(drawn))]),
        ):
            references = file.create_dataset(name, (1, len(texts)), h5py.ref_dtype)
            for index, text in enumerate(texts):
                stored = file.create_dataset(
                    f"#refs#/{name}{index}", data=np.array([[ord(c)] for c in text], np.uint16)
                )
                references[0, index] = stored.ref
    numbers = np.arange(1, len(drawn) + 1, dtype=np.uint16)[:, None]
    splits = {"trainNdxs": numbers[:NUM_TRAIN], "testNdxs": numbers[NUM_TRAIN:]}
    scipy.io.savemat(root / "splits.mat", splits)
    scipy.io.savemat(root / "classMapping40.mat", {"mapClass": np.array([classes], np.uint8)})
    return {"name": "nyu", "root": str(root)}, drawn


def write_camvid(root):
    drawn = {}
    for split, number, picture in pictures(0, 3, 8, 1):
        name = f"0001TP_{number:06d}"
        save(root / split / f"{name}.png", picture["photo"])
        layout = np.where(picture["layout"] == VOID, 11, picture["layout"]).astype(np.uint8)
        save(root / f"{split}annot" / f"{name}.png", layout)
        drawn[name] = {"photo": picture["photo"], "layout": picture["layout"]}
    return {"name": "camvid", "root": str(root)}, drawn


def write_folder(root, classes=CLASSES):
    """With instances, and depths in millimetres."""
    drawn, splits = {}, {"train": [], "val": []}
    for split, number, picture in pictures(0, 1, 2, 3):
        name = f"straße {number}"  # spaces and other letters than ASCII are fine
        save(root / "photos" / f"{name}.png", picture["photo"])
        save(root / "layouts" / f"{name}.png", picture["layout"])
        save(root / "instances" / f"{name}.png", picture["instances"])
        save(root / "depth" / f"{name}.png", (picture["depth"] * 1000).astype(np.uint16))
        splits[split].append(name)
        drawn[name] = picture
    (root / "labels.json").write_text(json.dumps({"classes": classes, "depth_unit_m": 0.001}))
    (root / "split.json").write_text(json.dumps(splits))
    return {"name": "folder", "root": str(root)}, drawn


def read_back(path):
    """The photo that a lossy file holds."""
    return {"photo": np.asarray(Image.open(path).convert("RGB"))}


WRITERS = {
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "coco_stuff": write_coco_stuff,
    "folder": write_folder,
    "nyu": write_nyu,
}
