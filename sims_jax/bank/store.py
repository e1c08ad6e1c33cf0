"""A finished bank: read from disk, verified, and put on the devices.

Photos are sorted by id and rows by (class, photo, component); both orders are part of the
score's contract (ties).
"""

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sims_jax.bank.build import (
    BANK_FILE,
    FORMAT,
    OPTIONAL_FIELDS,
    PARTS_FOLDER,
    digest_bank,
)
from sims_jax.bank.parts import TEMPORARY_PREFIX, read_json, read_part
from sims_jax.bank.segments import grid_masks
from sims_jax.errors import InputError
from sims_jax.labels import VOID, LabelSpace
from sims_jax.ops.resize import resize_labels
from sims_jax.types import Bank, BankSpec, Photos, Rows

BANK_AXIS = "bank"
_WORD_BITS = 32
_MASK_BATCH = 16
# Reading waits for the disk and decompresses without the interpreter's lock.
_READ_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Store:
    """A bank in host memory; P photos, R rows (no padding), letters as in `sims_jax.types`."""

    folder: pathlib.Path
    spec: BankSpec
    digest: str
    ids: tuple[str, ...]
    videos: tuple[str, ...]
    frames: np.ndarray  # int32 [P]
    photo: np.ndarray  # uint8 [P, H, W, 3]
    layout: np.ndarray  # uint8 [P, H, W]
    component: np.ndarray  # int16 [P, H, W], -1 where there is no row
    instances: np.ndarray | None  # uint16 [P, H, W], 0 where there is none
    depth: np.ndarray | None  # float32 [P, H, W], metres, 0 unknown
    coarse: np.ndarray | None  # uint8 [P, H, W], void 255
    row_photo: np.ndarray  # int32 [R]
    row_component: np.ndarray  # int32 [R]
    row_class: np.ndarray  # int32 [R]
    row_area_px: np.ndarray  # int32 [R]
    row_box_yx: np.ndarray  # int32 [R, 4]
    row_color_mean: np.ndarray  # float32 [R, 3]
    row_color_cov: np.ndarray  # float32 [R, 3, 3]
    row_depth_m: np.ndarray  # float32 [R], median, 0 unknown
    row_of: np.ndarray  # int32 [P, N], row of a photo's component, -1 none

    def cut(self, row: np.ndarray) -> np.ndarray:
        """Masks [n, H, W] of n rows, in the frames of their photos."""
        return self.component[self.row_photo[row]] == self.row_component[row][:, None, None]


def open_bank(folder: str | pathlib.Path) -> Store:
    """Reads a finished bank into host memory and verifies every byte of it.

    Raises:
      InputError: there is no bank, it is unfinished, or a file is missing or damaged (the
        message names it).
    """
    folder = pathlib.Path(folder)
    description = _read_description(folder)
    try:
        spec = spec_from_json(description["spec"])
        digest, count = description["digest"], description["photos"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder / BANK_FILE}: found a description without {error}, expected a bank's; "
            "delete the bank's folder and build it again"
        ) from error
    paths = _part_folders(folder / PARTS_FOLDER)
    _check_parts(folder, "photos", len(paths), count)
    fields, rows, metas = _read_parts(paths, spec)
    found = digest_bank(spec, {meta["id"]: meta["digest"] for meta in metas})
    _check_parts(folder, "as their digest", found, digest)
    return Store(
        folder=folder,
        spec=spec,
        digest=digest,
        ids=tuple(meta["id"] for meta in metas),
        videos=tuple(meta["video"] for meta in metas),
        frames=np.array([meta["frame"] for meta in metas], np.int32),
        **fields,
        **rows,
    )


def spec_from_json(values: dict[str, Any]) -> BankSpec:
    """Inverse of `sims_jax.bank.build.spec_to_json`."""
    return BankSpec(**{**_to_tuples(values), "labels": LabelSpace(**_to_tuples(values["labels"]))})


def _to_tuples(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _to_tuples(value) for key, value in values.items()}
    return tuple(map(_to_tuples, values)) if isinstance(values, list) else values


def _read_description(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / BANK_FILE
    if not path.exists():
        raise InputError(f"{path}: found no such file, expected a bank; run the stage `bank`")
    description = read_json(path)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{path}: found format {description.get('format')}, expected {FORMAT}; "
            "delete the bank's folder and build it again"
        )
    if description.get("complete") is not True:
        raise InputError(
            f"{path}: found an unfinished bank, expected a finished one; run the stage `bank` "
            "again, it continues"
        )
    return description


def _part_folders(parts: pathlib.Path) -> list[pathlib.Path]:
    """The complete parts, sorted by photo id."""
    found = [path for path in parts.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)]
    return sorted(found, key=lambda path: urllib.parse.unquote(path.name))


def _check_parts(folder: pathlib.Path, what: str, found: int | str, expected: int | str) -> None:
    if found != expected:
        raise InputError(
            f"{folder / PARTS_FOLDER}: found {found} {what}, expected {expected}; delete the "
            "bank's folder and build it again"
        )


def _read_parts(
    paths: list[pathlib.Path], spec: BankSpec
) -> tuple[dict[str, np.ndarray | None], dict[str, np.ndarray], list[dict[str, Any]]]:
    """The images of all parts, stacked, their rows, sorted, and their metadata."""
    images: dict[str, np.ndarray | None] = dict.fromkeys(
        ("photo", "layout", "component", *OPTIONAL_FIELDS)
    )
    geometry, appearance, metas = [], [], []
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for photo, (arrays, meta) in enumerate(pool.map(read_part, paths)):
            for field in images:
                if field in arrays:
                    if photo == 0:
                        shape = (len(paths), *arrays[field].shape)
                        images[field] = np.empty(shape, arrays[field].dtype)
                    images[field][photo] = arrays[field]
            rows = arrays["row_geometry"]
            geometry.append(np.insert(rows, 0, photo, axis=1))
            appearance.append(arrays["row_appearance"])
            metas.append(meta)
    rows = sort_rows(np.concatenate(geometry), np.concatenate(appearance), len(paths), spec)
    return images, rows, metas


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


def to_device(store: Store, devices: Sequence[jax.Device] | None = None) -> Bank:
    """Puts the bank on the devices (default: all), its rows and its photos sharded evenly.

    Both are padded to a multiple of the device count, rows with class -1. Several processes
    call this together, each with the whole store.
    """
    devices = list(jax.devices() if devices is None else devices)
    mask, area, box_yx = _row_masks(store)
    count = len(devices)
    rows = {
        "photo": _pad(store.row_photo, count, 0),
        "component": _pad(store.row_component, count, 0),
        "class_id": _pad(store.row_class, count, -1),
        "area": _pad(area, count, 0),
        "box_yx": _pad(box_yx, count, 0),
        "mask": _pad(mask, count, 0),
        "layouts": _pad(resize_labels(store.layout, store.spec.grid), count, VOID),
    }
    photos = {
        "photo": _pad(store.photo, count, 0),
        "component": _pad(store.component.astype(np.int32), count, -1),
    }
    return Bank(
        rows=Rows(**_shard(rows, devices), spec=store.spec),
        photos=Photos(**_shard(photos, devices)),
    )


def empty_bank(spec: BankSpec) -> Bank:
    """A bank without segments: one padding row, one photo of void."""
    words = -(-spec.grid[0] * spec.grid[1] // _WORD_BITS)
    rows = {
        "photo": np.zeros(1, np.int32),
        "component": np.zeros(1, np.int32),
        "class_id": np.full(1, -1, np.int32),
        "area": np.zeros(1, np.int32),
        "box_yx": np.zeros((1, 4), np.int32),
        "mask": np.zeros((1, words), np.uint32),
        "layouts": np.full((1, *spec.grid), VOID, np.uint8),
    }
    photos = {
        "photo": np.zeros((1, *spec.image_size, 3), np.uint8),
        "component": np.full((1, *spec.image_size), -1, np.int32),
    }
    return Bank(
        rows=Rows(**jax.tree.map(jnp.asarray, rows), spec=spec),
        photos=Photos(**jax.tree.map(jnp.asarray, photos)),
    )


def _row_masks(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask, area and box of every row on the grid, computed a batch of photos at a time."""
    compute = jax.jit(grid_masks, static_argnames="spec")
    photos = len(store.ids)
    parts = []
    for start in range(0, photos, _MASK_BATCH):
        batch = _pad(store.component[start : start + _MASK_BATCH], _MASK_BATCH, -1)
        in_batch = (store.row_photo >= start) & (store.row_photo < start + _MASK_BATCH)
        index = (store.row_photo[in_batch] - start, store.row_component[in_batch])
        masks = jax.device_get(compute(batch.astype(np.int32), spec=store.spec))
        parts.append((np.flatnonzero(in_batch), *(values[index] for values in masks)))
    order = np.argsort(np.concatenate([part[0] for part in parts]))
    mask, area, box_yx = (np.concatenate([part[i] for part in parts])[order] for i in (1, 2, 3))
    return mask, area, box_yx


def _pad(array: np.ndarray, multiple: int, value: int) -> np.ndarray:
    """Pads the first axis to a multiple, and to one entry at least."""
    missing = -len(array) % multiple if len(array) else multiple
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])


def _shard(arrays: dict[str, np.ndarray], devices: list[jax.Device]) -> dict[str, Array]:
    if len(devices) == 1:
        return jax.device_put(arrays, devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), (BANK_AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(BANK_AXIS))
    return {
        name: jax.make_array_from_callback(array.shape, sharding, lambda index, a=array: a[index])
        for name, array in arrays.items()
    }
