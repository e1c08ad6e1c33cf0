"""NYU Depth V2: the labelled photos of one .mat file, in the 40 classes of Gupta et al. 2013.

    root/nyu_depth_v2_labeled.mat   MATLAB v7.3, which is HDF5 with the axes turned around:
                                    images uint8 [N, 3, W, H], labels uint16 [N, W, H] (0 void),
                                    instances uint8 [N, W, H], depths float32 [N, W, H] metres,
                                    names (of the labels) and scenes, references to text
    root/splits.mat                 trainNdxs and testNdxs, counted from 1
    root/classMapping40.mat         mapClass [1, names]: the class, 1 to 40, of each label

The first two are on cs.nyu.edu/~silberman, the third comes with the code of Gupta et al. and with
the collection github.com/ankurhanda/nyuv2-meta-data. Instances are numbered within a label, so they
are numbered anew. Photos become PNGs in the prepared dataset. Written after the dataset's
documentation and tested on replicas, not on the download itself.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterator

import h5py
import numpy as np
import scipy.io
from PIL import Image

from sims_jax.data.example import Example
from sims_jax.data.pairs import FilesBuilder, Splits
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.labels import VOID, LabelSpace, spread_colors

_MAIN_FILE = "nyu_depth_v2_labeled.mat"
_SPLITS_FILE = "splits.mat"
_CLASSES_FILE = "classMapping40.mat"
_SPLIT_KEYS = {"train": "trainNdxs", "val": "testNdxs"}
_TYPES = {"images": "uint8", "labels": "uint16", "depths": "float32", "instances": "uint8"}
_INSTANCE_BITS = 8  # of `instances`

# fmt: off
_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "other structure", "other furniture", "other prop",
)
# fmt: on
NYU = LabelSpace(
    name="nyu",
    classes=_CLASSES,
    palette=spread_colors(len(_CLASSES)),  # the dataset states none
    planar=("floor", "floor mat"),
    context=("wall", "floor", "ceiling", "other structure"),
)


@dataclasses.dataclass(frozen=True)
class NyuConfig:
    """Where NYU Depth V2 lies: the folder that holds the three files."""

    root: str


@dataclasses.dataclass(frozen=True)
class NyuFrame:
    """One photo of the main file, with its labels, instances and depth.

    Args:
      codes: the class id of each label from 0 on, VOID for none.
    """

    id: str
    video: str
    frame: int
    path: pathlib.Path
    codes: tuple[int, ...] = dataclasses.field(repr=False)
    maps = ("instances", "depth")

    @property
    def files(self) -> dict[str, pathlib.Path]:
        return {"photo": self.path}

    def read(self, labels: LabelSpace, refuse: Refuse = refuse_at_once) -> Example:
        """Reads and checks one photo's arrays.

        Raises:
          InputError: (through `refuse`) they cannot be read, or a label has no class.
        """
        example: Example = {"id": self.id, "video": self.video, "frame": self.frame}
        try:
            with _open(self.path) as file:
                arrays = {name: file[name][self.frame].T for name in _TYPES}
            label = arrays["labels"]
            if label.max() >= len(self.codes):
                raise InputError(
                    f"{self.path}: found label {label.max()} in photo {self.id}, expected 0 to "
                    f"{len(self.codes) - 1}, as {_CLASSES_FILE} maps; restore the files"
                )
        except InputError as error:
            error.files = (self.path,)
            refuse(error)
            return example
        return example | {
            "photo": _encode_png(arrays["images"]),
            "layout": np.array(self.codes, np.uint8)[label],
            "instances": _number_instances(label, arrays["instances"]),
            "depth": np.nan_to_num(arrays["depths"], posinf=0, neginf=0),
        }


class Nyu(FilesBuilder):
    """NYU Depth V2 (Silberman et al. 2012), 1,449 photos, 40 classes; val is its standard test."""

    LICENCE = (
        "NYU Depth Dataset V2 (Silberman et al. 2012): published for research; its page states no "
        "further licence, so do not redistribute its photos."
    )

    @classmethod
    def list_examples(
        cls, config: NyuConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train and val.

        Raises:
          InputError: a file is missing, damaged or of another form.
        """
        root = pathlib.Path(config.root).expanduser()
        path = root / _MAIN_FILE
        with _open(path) as file:
            _check_arrays(path, file)
            count, num_labels = len(file["images"]), file["names"].size
            scenes = [_read_text(file, reference) for reference in file["scenes"][()].ravel()]
        codes = _read_codes(root / _CLASSES_FILE, num_labels)
        chosen = _read_splits(root / _SPLITS_FILE, count)
        splits = {
            split: tuple(NyuFrame(f"nyu_{i + 1:04d}", scenes[i], i, path, codes) for i in indices)
            for split, indices in chosen.items()
        }
        return NYU, splits


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read as MATLAB v7.3 ({reason}), expected NYU Depth V2's labelled "
            "photos; download it again from cs.nyu.edu/~silberman",
            [path],
        ) from error


def _check_arrays(path: pathlib.Path, file: h5py.File) -> None:
    count, channels, *size = file["images"].shape
    maps = (count, *size)
    shapes = {name: maps for name in _TYPES} | {"images": (count, channels, *size)}
    for name, dtype in _TYPES.items():
        found = (str(file[name].dtype), file[name].shape)
        if found != (dtype, shapes[name]) or channels != 3 or len(size) != 2:
            raise InputError(
                f"{path}: found {name} of {found[0]} {found[1]}, expected {dtype} as (photos, "
                "[3,] width, height), alike for all; download it again",
                [path],
            )
    if file["scenes"].size != count:
        raise InputError(
            f"{path}: found scenes of {file['scenes'].size} photos, expected {count}; download it "
            "again",
            [path],
        )


def _read_text(file: h5py.File, reference: h5py.Reference) -> str:
    """A MATLAB string: its characters as numbers."""
    return "".join(map(chr, file[reference][()].ravel()))


def _load_mat(path: pathlib.Path, *keys: str) -> list[np.ndarray]:
    """Arrays of whole numbers of a MATLAB file before v7.3, flat."""
    try:
        content = scipy.io.loadmat(path)
        return [content[key].ravel().astype(np.int64) for key in keys]
    except Exception as error:  # scipy raises whatever the damage leads it to
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read ({reason}), expected a MATLAB file with {', '.join(keys)}; "
            f"see sims_jax/data/nyu.py for where {path.name} comes from",
            [path],
        ) from error


def _read_codes(path: pathlib.Path, num_labels: int) -> tuple[int, ...]:
    [classes] = _load_mat(path, "mapClass")
    if classes.size != num_labels or classes.min() < 1 or classes.max() > NYU.num_classes:
        raise InputError(
            f"{path}: found {classes.size} labels of classes {classes.min()} to {classes.max()}, "
            f"expected {num_labels} of 1 to {NYU.num_classes}; restore the file",
            [path],
        )
    return (VOID, *(int(class_id) - 1 for class_id in classes))


def _read_splits(path: pathlib.Path, count: int) -> dict[str, list[int]]:
    indices = _load_mat(path, *_SPLIT_KEYS.values())
    every = np.concatenate(indices)
    if not all(one.size for one in indices) or every.min() < 1 or every.max() > count:
        raise InputError(
            f"{path}: found photos {every.min()} to {every.max()}, expected some for each split of "
            f"1 to {count}; restore the file",
            [path],
        )
    return {
        split: sorted((one - 1).tolist()) for split, one in zip(_SPLIT_KEYS, indices, strict=True)
    }


def _number_instances(label: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """uint16: 0 for none, else a number for each pair of label and instance."""
    pairs = (label.astype(np.int32) << _INSTANCE_BITS) + instance
    pairs = np.where((label == 0) | (instance == 0), 0, pairs)
    values = np.unique(np.append(pairs, 0))
    return np.searchsorted(values, pairs).astype(np.uint16)


def _encode_png(photo: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(photo)).save(data, "PNG")
    return data.getvalue()
