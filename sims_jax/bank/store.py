"""A finished bank, read from disk and verified: whole, or its images when they are asked for.

Photos are sorted by id, which is part of the score's contract: ties go to the smaller photo, then
to the smaller component. Rows are sorted by (class, photo, component).
"""

import dataclasses
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sims_jax.bank.description import (
    PARTS_FOLDER,
    digest_bank,
    read_finished,
    refuse_another,
    spec_to_json,
)
from sims_jax.bank.parts import list_parts, read_arrays, read_meta, read_part
from sims_jax.bank.photo import image_fields
from sims_jax.errors import InputError
from sims_jax.types import BankSpec

# Reading waits for the disk and decompresses without the interpreter's lock.
_READ_THREADS = 8
_READ_AT_ONCE = 64  # images, more of which would only be held twice


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """One field of all photos, on disk: `field[index]` reads, as of an array, what is indexed.

    Each photo's is verified by its own checksum when it is read.
    """

    paths: tuple[pathlib.Path, ...]  # of its array in each part
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Reads.

        Raises:
          InputError: a file is missing or damaged; the message names it.
        """
        photos = np.arange(len(self.paths))[index]
        paths = [self.paths[photo] for photo in photos.ravel()]
        shape = self.shape[1:]
        values = np.empty((len(paths), *shape), self.dtype)
        for start in range(0, len(paths), _READ_AT_ONCE):
            some = paths[start : start + _READ_AT_ONCE]
            values[start : start + len(some)] = read_arrays(some, shape=shape, dtype=self.dtype)
        return values.reshape(*photos.shape, *shape)


Images = np.ndarray | OnDisk


@dataclasses.dataclass(frozen=True)
class Store:
    """A bank in host memory; P photos, R rows (no padding), letters as in `sims_jax.types`.

    Images may be `OnDisk`.
    """

    folder: pathlib.Path
    spec: BankSpec
    digest: str
    ids: tuple[str, ...]
    videos: tuple[str, ...]
    frames: np.ndarray  # int32 [P]
    photo: Images  # uint8 [P, H, W, 3]
    layout: Images  # uint8 [P, H, W]
    component: Images  # int16 [P, H, W], -1 where there is no row
    instances: Images | None  # uint16 [P, H, W], 0 where there is none
    depth: Images | None  # float32 [P, H, W], metres, 0 unknown
    coarse: Images | None  # uint8 [P, H, W], void 255
    row_photo: np.ndarray  # int32 [R]
    row_component: np.ndarray  # int32 [R]
    row_class: np.ndarray  # int32 [R]
    row_area_px: np.ndarray  # int32 [R]
    row_box_yx: np.ndarray  # int32 [R, 4]
    row_color_mean: np.ndarray  # float32 [R, 3]
    row_color_cov: np.ndarray  # float32 [R, 3, 3]
    row_depth_m: np.ndarray  # float32 [R], median, 0 unknown
    row_of: np.ndarray  # int32 [P, N], row of a photo's component, -1 none

    def class_of(self, photo: np.ndarray | slice) -> np.ndarray:
        """Classes int32 [p, N] of the components of p photos, -1 where there is no row."""
        row = self.row_of[photo]
        classes = np.full(row.shape, -1, np.int32)
        classes[row >= 0] = self.row_class[row[row >= 0]]
        return classes

    def cut(self, row: np.ndarray) -> np.ndarray:
        """Masks [n, H, W] of n rows, in the frames of their photos."""
        return self.component[self.row_photo[row]] == self.row_component[row][:, None, None]


def open_bank(
    folder: str | pathlib.Path, spec: BankSpec | None = None, *, images: str = "memory"
) -> Store:
    """Reads a finished bank into host memory and verifies what it reads.

    Args:
      folder: where the bank is.
      spec: what the bank must be of; anything if left out.
      images: "memory" reads every byte of the bank; "disk" its rows alone, in memory that does not
        depend on the size of its photos, and images when they are asked for. Then every array is
        verified by its own checksum, and the digests of the parts against the bank's.

    Raises:
      InputError: there is no bank, it is unfinished, being edited or of another spec, or a file
        is missing or damaged (the message names it).
    """
    folder = pathlib.Path(folder)
    description, found_spec = read_finished(folder)
    if spec is not None:
        refuse_another(folder, description, {"spec": spec_to_json(spec)})
    paths = list(list_parts(folder / PARTS_FOLDER).values())
    _check_parts(folder, "photos", len(paths), description.get("photos"))
    read = {"memory": _read_parts, "disk": _read_rows}[images]
    fields, geometry, appearance, metas = read(paths, found_spec)
    digest = digest_bank(found_spec, {meta["id"]: meta["digest"] for meta in metas})
    _check_parts(folder, "as their digest", digest, description.get("digest"))
    geometry = [np.insert(rows, 0, photo, axis=1) for photo, rows in enumerate(geometry)]
    return Store(
        folder=folder,
        spec=found_spec,
        digest=digest,
        ids=tuple(meta["id"] for meta in metas),
        videos=tuple(meta["video"] for meta in metas),
        frames=np.array([meta["frame"] for meta in metas], np.int32),
        **fields,
        **sort_rows(np.concatenate(geometry), np.concatenate(appearance), len(paths), found_spec),
    )


def _check_parts(folder: pathlib.Path, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise InputError(
            f"{folder / PARTS_FOLDER}: found {found} {what}, expected {expected}; delete the "
            "bank's folder and build it again"
        )


_Parts = tuple[dict[str, Images | None], list[np.ndarray], list[np.ndarray], list[dict[str, Any]]]


def _read_parts(paths: list[pathlib.Path], spec: BankSpec) -> _Parts:
    """The images of all parts, stacked; their rows, part by part; their metadata."""
    images: dict[str, np.ndarray | None] = dict.fromkeys(image_fields(spec))
    geometry, appearance, metas = [], [], []
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for photo, (arrays, meta) in enumerate(pool.map(read_part, paths)):
            for field in images:
                if field in arrays:
                    if photo == 0:
                        shape = (len(paths), *arrays[field].shape)
                        images[field] = np.empty(shape, arrays[field].dtype)
                    images[field][photo] = arrays[field]
            geometry.append(arrays["row_geometry"])
            appearance.append(arrays["row_appearance"])
            metas.append(meta)
    return images, geometry, appearance, metas


def _read_rows(paths: list[pathlib.Path], spec: BankSpec) -> _Parts:
    """As `_read_parts`, with the images left on disk."""
    names = ("row_geometry", "row_appearance")
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        metas = list(pool.map(read_meta, paths))
        rows = list(pool.map(lambda path: read_arrays([path / name for name in names]), paths))
    stored = metas[0]["arrays"] if metas else ()
    images = {
        field: OnDisk(tuple(path / field for path in paths), (len(paths), *shape), np.dtype(dtype))
        if field in stored
        else None
        for field, (shape, dtype) in image_fields(spec).items()
    }
    geometry, appearance = zip(*rows, strict=True)
    return images, list(geometry), list(appearance), metas


def sort_rows(
    geometry: np.ndarray, appearance: np.ndarray, photos: int, spec: BankSpec
) -> dict[str, np.ndarray]:
    """Row arrays of a `Store` from (photo, component, class, area, box) and appearance."""
    photo, component, class_id, area_px = geometry[:, :4].T
    order = np.lexsort((component, photo, class_id))
    row_of = np.full((photos, spec.max_segments), -1, np.int32)
    row_of[photo[order], component[order]] = np.arange(order.size, dtype=np.int32)
    return {
        "row_photo": photo[order],
        "row_component": component[order],
        "row_class": class_id[order],
        "row_area_px": area_px[order],
        "row_box_yx": geometry[order, 4:],
        "row_color_mean": appearance[order, :3],
        "row_color_cov": appearance[order, 3:12].reshape(-1, 3, 3),
        "row_depth_m": appearance[order, 12],
        "row_of": row_of,
    }
