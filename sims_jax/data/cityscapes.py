"""Cityscapes in the folders of its downloads, read by its original annotations.

    root/leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png      photos
    root/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png       layouts, ids 0 to 33
    ..._gtFine_instanceIds.png                     if there: instances, 16 bits
    root/gtCoarse/SPLIT/..._gtCoarse_labelIds.png  if there: coarse layouts
    root/disparity/SPLIT/..._disparity.png         if there: depth, 16 bits

SPLIT is train, val and, if asked for, train_extra, which has coarse layouts alone. `test` has no
public annotations. Written after the dataset's documentation (github.com/mcordts/cityscapesScripts:
README.md, helpers/labels.py) and tested on replicas, not on the download itself.
"""

import dataclasses
import pathlib

import numpy as np

from sims_jax.data.listing import PHOTO_TAIL, add_partners, pair_files, parse_frames
from sims_jax.data.pairs import FilesBuilder, Pair, Splits
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.images import read_instances, read_numbers
from sims_jax.labels import CITYSCAPES, VOID, LabelSpace, read_coded_layout

# The labelId of each of the 19 train ids, in their order.
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CODES = tuple(_LABEL_IDS.index(i) if i in _LABEL_IDS else VOID for i in range(_LABEL_IDS[-1] + 1))
_FIRST_INSTANCE = 1000  # an instance's number is labelId * 1000 + count; what is less is none
_DISPARITY_STEPS = 256  # a pixel p > 0 is a disparity of (p - 1) / 256 pixels
# Focal length (pixels) times baseline (metres) of most cameras; others differ by some percent.
_FOCAL_BASELINE = 2262.52 * 0.209313


@dataclasses.dataclass(frozen=True)
class CityscapesConfig:
    """Where Cityscapes lies, and what to train on.

    Args:
      root: folder that holds leftImg8bit, gtFine, ...
      train_extra: train also on the 19,998 photos of train_extra, whose layouts are coarse.
    """

    root: str
    train_extra: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class CityscapesPair(Pair):
    """A photo and its annotations."""

    def read_map(self, field: str, path: pathlib.Path, labels: LabelSpace) -> np.ndarray:
        """As `Pair`. Depth is as if by one camera for all cities: it is compared within a photo."""
        if field == "instances":
            ids = read_instances(path)
            return np.where(ids < _FIRST_INSTANCE, 0, ids).astype(np.uint16)
        if field == "depth":
            return _to_depth(read_numbers(path, "disparities"))
        return read_coded_layout(path, _CODES)


class Cityscapes(FilesBuilder):
    """Cityscapes (Cordts et al. 2016), its 19 training classes."""

    LICENCE = (
        "Cityscapes (Cordts et al. 2016): for non-commercial research and teaching, by the terms "
        "on cityscapes-dataset.com; do not redistribute its photos."
    )

    @classmethod
    def list_examples(
        cls, config: CityscapesConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train and val.

        Raises:
          InputError: a folder is missing or (through `refuse`) an annotation is.
        """
        root = pathlib.Path(config.root).expanduser()
        if not (root / "leftImg8bit").is_dir():
            raise InputError(
                f"{root}: found no folder leftImg8bit, expected it beside gtFine, as "
                "leftImg8bit_trainvaltest.zip unpacks; check config.data.root"
            )
        splits = {split: _list_split(root, split, "gtFine", refuse) for split in ("train", "val")}
        if config.train_extra:
            splits["train"] += _list_split(root, "train_extra", "gtCoarse", refuse)
        return CITYSCAPES, splits


def _list_split(
    root: pathlib.Path, split: str, annotation: str, refuse: Refuse
) -> tuple[CityscapesPair, ...]:
    files = pair_files(
        root / "leftImg8bit" / split,
        root / annotation / split,
        photo_tail=PHOTO_TAIL,
        map_tail=f"_{annotation}_labelIds",
        nested=True,
        refuse=refuse,
    )
    folders = {
        "instances": (annotation, f"_{annotation}_instanceIds"),
        "depth": ("disparity", "_disparity"),
        "coarse": ("gtCoarse", "_gtCoarse_labelIds"),
    }
    maps = {
        field: add_partners(files, root / folder / split, tail=tail, nested=True, refuse=refuse)
        for field, (folder, tail) in folders.items()
    }
    frames = parse_frames({name: photo for name, (photo, _) in files.items()}, refuse)
    return tuple(
        CityscapesPair(
            id=name, photo=files[name][0], layout=files[name][1], video=video, frame=frame,
            **{field: found.get(name) for field, found in maps.items()},
        )
        for name, (video, frame) in frames.items()
    )  # fmt: skip


def _to_depth(codes: np.ndarray) -> np.ndarray:
    """float32 metres, 0 where nothing was measured; disparity 0 counts as the least above 0."""
    steps = np.maximum(codes.astype(np.float32) - 1, 1)
    return np.where(codes == 0, 0, _FOCAL_BASELINE * _DISPARITY_STEPS / steps).astype(np.float32)
