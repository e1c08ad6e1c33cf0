"""Puts a bank on the devices: its rows in tiles for retrieval, its photos for composition.

Photos are dealt out to the devices one by one, each with its rows: every device has about the same
number of rows of every class, and all that their scores ask for.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from sims_jax.bank.grid import BOX, describe_segments
from sims_jax.bank.search import BLOCK_TILES
from sims_jax.bank.store import Store
from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.types import BANK_AXIS, TILE, Bank, BankSpec, Photos, Rows

_BATCH = 16  # photos described at once
_MOST_NUMBERS = 2**31 - 1  # of rows: photo * N + component, int32
# How much rows differ: where their boxes lie, in frames, and how large they are, in logarithms.
_ALIKE_WEIGHTS = np.array([1.0, 1.5, 0.6, 0.6], np.float32)  # y, x, height, width

_describe = jax.jit(describe_segments, static_argnames="spec")


@dataclasses.dataclass(frozen=True)
class _Share:
    """Photos of one device, as a store has them."""

    number: Int[np.ndarray, "p"]
    photo: UInt8[np.ndarray, "p H W 3"]
    layout: UInt8[np.ndarray, "p H W"]
    component: Int[np.ndarray, "p H W"]
    class_id: Int[np.ndarray, "p N"]  # of each component, -1 where there is no row

    def tiles(self, num_classes: int) -> Int[np.ndarray, "C"]:
        """Tiles that each class fills."""
        rows = np.bincount(self.class_id[self.class_id >= 0], minlength=num_classes)
        return -(-rows // TILE)


def to_device(store: Store, devices: Sequence[jax.Device] | None = None) -> Bank:
    """Puts the bank on the devices (default: all), sharded over its photos.

    Several processes call this together, each with the whole store.

    Raises:
      InputError: there are more photos than rows can be numbered for.
    """
    if len(store.ids) * store.spec.max_segments > _MOST_NUMBERS:
        raise InputError(
            f"{store.folder}: found {len(store.ids)} photos of up to {store.spec.max_segments} "
            f"segments, expected no more than {_MOST_NUMBERS} numbers of rows; lower max_segments "
            "or take photos out"
        )
    devices = list(jax.devices() if devices is None else devices)
    shares = []
    for index in range(len(devices)):
        some = slice(index, None, len(devices))
        number = np.arange(len(store.ids), dtype=np.int32)[some]
        images = store.photo[some], store.layout[some], store.component[some]
        shares.append(_Share(number, *images, store.class_of(some)))
    return _put(shares, store.spec, devices)


def empty_bank(spec: BankSpec) -> Bank:
    """A bank without segments: one photo of void. It goes to whatever devices it is used on."""
    size = (1, *spec.image_size)
    share = _Share(
        number=np.zeros(1, np.int32),
        photo=np.zeros((*size, 3), np.uint8),
        layout=np.full(size, VOID, np.uint8),
        component=np.full(size, -1, np.int16),
        class_id=np.full((1, spec.max_segments), -1),
    )
    first_tile = np.zeros(spec.labels.num_classes + 1, np.int32)
    fields = jax.tree.map(jnp.asarray, _prepare(share, spec, first_tile, 1, 1))
    rows = Rows(**fields["rows"], spec=spec, class_tiles=BLOCK_TILES, mesh=None)
    return Bank(rows=rows, photos=Photos(**fields["photos"]))


def _put(shares: list[_Share], spec: BankSpec, devices: list[jax.Device]) -> Bank:
    """One share a device. All are padded to one size, that of the largest."""
    tiles = np.stack([share.tiles(spec.labels.num_classes) for share in shares])
    first_tile = np.pad(np.cumsum(tiles, axis=1), ((0, 0), (1, 0))).astype(np.int32)
    most_tiles = max(1, int(first_tile[:, -1].max()))
    most_photos = max(1, *(len(share.number) for share in shares))
    put = [
        jax.device_put(_prepare(share, spec, first, most_tiles, most_photos), device)
        for share, first, device in zip(shares, first_tile, devices, strict=True)
        if device.process_index == jax.process_index()
    ]
    mesh = None
    whole = put[0]
    if len(devices) > 1:
        mesh = jax.sharding.Mesh(np.array(devices), (BANK_AXIS,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(BANK_AXIS))

        def join(*parts: jax.Array) -> jax.Array:
            shape = (len(devices) * parts[0].shape[0], *parts[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

        whole = jax.tree.map(join, *put)
    class_tiles = -(-max(1, int(tiles.max())) // BLOCK_TILES) * BLOCK_TILES
    rows = Rows(**whole["rows"], spec=spec, class_tiles=class_tiles, mesh=mesh)
    return Bank(rows=rows, photos=Photos(**whole["photos"]))


def _prepare(
    share: _Share, spec: BankSpec, first_tile: Int[np.ndarray, "ends"], tiles: int, photos: int
) -> dict[str, dict[str, np.ndarray]]:
    """The fields of `Rows` and of `Photos` on one device."""
    values, labels = _describe_rows(share, spec)
    place = np.full((tiles, TILE), -1)
    for class_id, first in enumerate(first_tile[:-1]):
        rows = np.flatnonzero(values["class_id"] == class_id)
        boxes = values["outline"][rows, BOX : BOX + 4]
        # A class fills its tiles one after the other.
        place.reshape(-1)[first * TILE :][: rows.size] = rows[_alike_order(boxes, spec.grid)]
    outline = np.swapaxes(_take(values["outline"], place), 1, 2)
    rows = {
        "row": np.where(place >= 0, _take(values["row"], place), -1).astype(np.int32),
        "outline": _pad(np.ascontiguousarray(outline), tiles + BLOCK_TILES, 0),
        "sketch": _take(values["sketch"], place),
        "mask": _take(values["mask"], place),
        "labels": _pad(labels, photos, 0),
        "first_tile": first_tile[None],
    }
    images = {
        "photo": _pad(share.photo, photos, 0),
        "component": _pad(share.component, photos, -1),
    }
    return {"rows": rows, "photos": images}


def _describe_rows(share: _Share, spec: BankSpec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What retrieval knows of each row, in order of photo and component, and of each photo."""
    parts: list[dict[str, Any]] = []
    labels = []
    for start in range(0, max(1, len(share.number)), _BATCH):  # a share may have no photo
        some = slice(start, start + _BATCH)
        layout, component = share.layout[some], share.component[some].astype(np.int32)
        count = len(layout)
        grid = jax.device_get(
            _describe(_pad(component, _BATCH, -1), _pad(layout, _BATCH, VOID), spec=spec)
        )
        photo, number = np.nonzero(share.class_id[some] >= 0)
        parts.append({
            "row": share.number[some][photo] * spec.max_segments + number,
            "class_id": share.class_id[some][photo, number],
            **{name: getattr(grid, name)[photo, number] for name in ("outline", "sketch", "mask")},
        })  # fmt: skip
        labels.append(grid.labels[:count])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined, np.concatenate(labels)


def _alike_order(box_yx: Int[np.ndarray, "n 4"], grid: tuple[int, int]) -> Int[np.ndarray, "n"]:
    """An order in which any TILE consecutive rows lie alike: halved where they differ most."""
    y0, x0, y1, x1 = box_yx.astype(np.float32).T
    height, width = grid
    place = np.stack([(y0 + y1) / height, (x0 + x1) / width], axis=1)
    size = np.log1p(np.stack([y1 - y0, x1 - x0], axis=1))
    features = np.concatenate([place, size], axis=1) * _ALIKE_WEIGHTS

    def split(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= TILE:
            return [rows]
        values = features[rows]
        half = -(-len(rows) // (2 * TILE)) * TILE  # whole tiles
        order = np.argpartition(values[:, np.argmax(values.std(axis=0))], half)
        return split(rows[order[:half]]) + split(rows[order[half:]])

    return np.concatenate(split(np.arange(len(box_yx))))


def _take(values: np.ndarray, place: Int[np.ndarray, "T tile"]) -> np.ndarray:
    """values[place], and zeros where place is -1."""
    taken = np.zeros((*place.shape, *values.shape[1:]), values.dtype)
    taken[place >= 0] = values[place[place >= 0]]
    return taken


def _pad(array: np.ndarray, length: int, value: int) -> np.ndarray:
    if len(array) == length:
        return array
    missing = [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, missing, constant_values=value)
