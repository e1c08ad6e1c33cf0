"""ADE20K in the layout of the Scene Parsing benchmark, ADEChallengeData2016.

    root/images/training/ADE_train_00000001.jpg       and validation/ADE_val_...
    root/annotations/training/ADE_train_00000001.png  8 bits: 0 void, 1 to 150 the classes
    root/sceneCategories.txt                          "NAME SCENE" a line; for `subset`

The benchmark has no instances (they are a download of their own, in another format) and no depth.
Names are the first of objectInfo150.txt, colours those of the benchmark's color150. Written after
sceneparsing.csail.mit.edu and tested on replicas, not on the download itself.
"""

import dataclasses
import pathlib

import numpy as np

from sims_jax.data.listing import pair_files
from sims_jax.data.pairs import FilesBuilder, Pair, Splits
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.images import read_bytes
from sims_jax.labels import VOID, LabelSpace, read_coded_layout

# fmt: off
_CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing",
    "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink",
    "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case",
    "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind",
    "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)
# Hexadecimal, ten a line. Differs: the benchmark gives road and skyscraper one colour, 8C8C8C; here
# skyscraper is 8C8C8D.
_COLORS = """
    787878 B47878 06E6E6 503232 04C803 787850 8C8C8C CC05FF E6E6E6 04FA07
    E005FF EBFF07 96053D 787846 08FF33 FF0652 8FFF8C CCFF04 FF3307 CC4603
    0066C8 3DE6FA FF0633 0B66FF FF0747 FF09E0 0907E6 DCDCDC FF095C 7009FF
    08FFD6 07FFE0 FFB806 0AFF47 FF290A 07FFFF E0FF08 6608FF FF3D06 FFC207
    FF7A08 00FF14 FF0829 FF0599 0633FF EB0CFF A09614 00A3FF 8C8C8D FA0A0F
    14FF00 1FFF00 FF1F00 FFE000 99FF00 0000FF FF4700 00EBFF 00ADFF 1F00FF
    0BC8C8 FF5200 00FFF5 003DFF 00FF70 00FF85 FF0000 FFA300 FF6600 C2FF00
    008FFF 33FF00 0052FF 00FF29 00FFAD 0A00FF ADFF00 00FF99 FF5C00 FF00FF
    FF00F5 FF0066 FFAD00 FF0014 FFB8B8 001FFF 00FF3D 0047FF FF00CC 00FFC2
    00FF52 000AFF 0070FF 3300FF 00C2FF 007AFF 00FFA3 FF9900 00FF0A FF7000
    8FFF00 5200FF A3FF00 FFEB00 08B8AA 8500FF 00FF5C B800FF FF001F 00B8FF
    00D6FF FF0070 5CFF00 00E0FF 70E0FF 46B8A0 A300FF 9900FF 47FF00 FF00A3
    FFCC00 FF008F 00FFEB 85FF00 FF00EB F500FF FF007A FFF500 0ABED4 D6FF00
    00CCFF 1400FF FFFF00 0099FF 0029FF 00FFCC 2900FF 29FF00 AD00FF 00F5FF
    4700FF 7A00FF 00FFB8 005CFF B8FF00 0085FF FFD600 19C2C2 66FF00 5C00FF
"""
_GROUND = (
    "floor", "road", "grass", "sidewalk", "earth", "water", "sea", "rug", "field", "sand", "path",
    "runway", "river", "dirt track", "land", "lake", "swimming pool",
)
ADE20K = LabelSpace(
    name="ade20k",
    classes=_CLASSES,
    palette=tuple(tuple(bytes.fromhex(color)) for color in _COLORS.split()),
    thin=("pole", "streetlight", "traffic light", "flag"),
    planar=_GROUND,
    context=(
        *_GROUND, "wall", "building", "sky", "tree", "ceiling", "mountain", "plant", "curtain",
        "fence", "rock", "railing", "skyscraper", "hill", "stairs", "stairway", "bridge",
        "waterfall", "palm",
    ),
)
# fmt: on
_CODES = (VOID, *range(len(_CLASSES)))


@dataclasses.dataclass(frozen=True)
class Ade20kConfig:
    """Where ADE20K lies, and what of it is used.

    Args:
      root: folder that holds images and annotations.
      subset: file that lists what to keep, one a line: scenes as in sceneCategories.txt ("street"),
        or names of photos. The paper's outdoor photos are such a subset; its list was not published
        with it. "" keeps all.
    """

    root: str
    subset: str = ""


class Ade20kPair(Pair):
    """A photo and its annotation, whose values are the class ids plus one."""

    def read_map(self, field: str, path: pathlib.Path, labels: LabelSpace) -> np.ndarray:
        return read_coded_layout(path, _CODES)


class Ade20k(FilesBuilder):
    """ADE20K (Zhou et al. 2017), the benchmark's 150 classes."""

    LICENCE = (
        "ADE20K (Zhou et al. 2017): for non-commercial research and education, by the terms on "
        "its page; photos keep their owners' rights."
    )

    @classmethod
    def list_examples(
        cls, config: Ade20kConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train (training) and val (validation).

        Raises:
          InputError: a folder or the subset's file is missing or names what is not there, or
            (through `refuse`) a partner is missing.
        """
        root = pathlib.Path(config.root).expanduser()
        splits = {
            split: _list_split(root, folder, refuse)
            for split, folder in (("train", "training"), ("val", "validation"))
        }
        if config.subset:
            splits = _keep_subset(splits, root, pathlib.Path(config.subset).expanduser())
        return ADE20K, splits


def _list_split(root: pathlib.Path, folder: str, refuse: Refuse) -> tuple[Ade20kPair, ...]:
    files = pair_files(root / "images" / folder, root / "annotations" / folder, refuse=refuse)
    return tuple(
        Ade20kPair(id=name, photo=photo, layout=layout, video=name, frame=0)
        for name, (photo, layout) in files.items()
    )


def _keep_subset(splits: Splits, root: pathlib.Path, subset: pathlib.Path) -> Splits:
    wanted = set(_read_lines(subset))
    path = root / "sceneCategories.txt"
    scenes = dict(line.rsplit(maxsplit=1) for line in _read_lines(path) if " " in line)
    known = {pair.id for pairs in splits.values() for pair in pairs}
    if unknown := sorted(wanted - known - set(scenes.values())):
        raise InputError(
            f"{subset}: found {unknown[0]}, expected names of photos, or scenes as in {path}; "
            "correct the line"
        )
    kept = {
        split: tuple(p for p in pairs if p.id in wanted or scenes.get(p.id) in wanted)
        for split, pairs in splits.items()
    }
    if empty := [split for split, pairs in kept.items() if not pairs]:
        raise InputError(f"{subset}: found no photo of {empty[0]} in it, expected some; add some")
    return kept


def _read_lines(path: pathlib.Path) -> list[str]:
    try:
        lines = read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: found no text ({error}), expected a line each; save as UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip()]
