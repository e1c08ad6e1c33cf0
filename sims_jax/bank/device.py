"""Puts a bank on the devices: its rows in tiles for retrieval, its photos for composition.

Photos are dealt out to the devices one by one, each with its rows: every device has about the same
number of rows of every class, and all that their scores ask for.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from sims_jax.bank.choose import photo_light
from sims_jax.bank.grid import AREA, BOX, CONTEXT, LABELLED, describe_segments
from sims_jax.bank.store import Images, Store
from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.types import BANK_AXIS, TILE, Bank, BankSpec, Photos, Rows

# Increased whenever rows that were prepared before can no longer be read, or mean something else.
ROWS_FORMAT = 3
_BATCH = 16  # photos described at once
_MOST_NUMBERS = 2**31 - 1  # of rows: photo * N + component, int32
# How much rows differ: where their boxes lie, in frames, and how large they are, in logarithms.
_ALIKE_WEIGHTS = np.array([1.0, 1.5, 0.6, 0.6], np.float32)  # y, x, height, width

_describe = jax.jit(describe_segments, static_argnames="spec")


@dataclasses.dataclass(frozen=True)
class Share:
    """Photos of one device; their images are read when they are needed."""

    layout: Images  # of all photos of the store
    component: Images
    photos: range  # those of the share
    first: int  # the photo whose rows are numbered 0 to N - 1
    class_id: Int[np.ndarray, "p N"]  # of each component, -1 where there is no row

    def tiles(self, num_classes: int) -> Int[np.ndarray, "C"]:
        """Tiles that each class fills."""
        rows = np.bincount(self.class_id[self.class_id >= 0], minlength=num_classes)
        return -(-rows // TILE)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What shares are padded to: of equal sizes, they go through one program."""

    tiles: int
    class_tiles: int
    photos: int


def deal(store: Store, photos: range, count: int) -> list[Share]:
    """Deals photos of a store out to `count` devices; rows are numbered from the first of them on.

    Raises:
      InputError: there are more photos than rows can be numbered for.
    """
    if len(store.ids) * store.spec.max_segments > _MOST_NUMBERS:
        raise InputError(
            f"{store.folder}: found {len(store.ids)} photos of up to {store.spec.max_segments} "
            f"segments, expected no more than {_MOST_NUMBERS} numbers of rows; lower max_segments "
            "or take photos out"
        )
    return [
        Share(store.layout, store.component, some, photos.start, store.class_of(_to_slice(some)))
        for some in (photos[index::count] for index in range(count))
    ]


def fit(shares: Iterable[Share], num_classes: int) -> Sizes:
    """The sizes of the largest shares."""
    tiles, class_tiles, photos = 1, 1, 1
    for share in shares:
        own = share.tiles(num_classes)
        tiles, class_tiles = max(tiles, int(own.sum())), max(class_tiles, int(own.max()))
        photos = max(photos, len(share.photos))
    return Sizes(tiles, class_tiles, photos)


def to_device(store: Store, devices: Sequence[jax.Device] | None = None) -> Bank:
    """Puts the bank on the devices (default: all), sharded over its photos.

    Several processes call this together, each with the whole store.

    Raises:
      InputError: there are more photos than rows can be numbered for.
    """
    devices = list(jax.devices() if devices is None else devices)
    shares = deal(store, range(len(store.ids)), len(devices))
    most = -(-len(store.ids) // len(devices))

    def prepare_photos(index: int) -> dict[str, np.ndarray]:
        some = _to_slice(shares[index].photos)
        photo, component = _pad(store.photo[some], most, 0), _pad(store.component[some], most, -1)
        return {"photo": photo, "component": component}

    rows, photos = _put_shares(shares, store.spec, devices), put(prepare_photos, devices)
    light = put_everywhere(photo_light(store), rows.mesh or devices[0])
    return Bank(rows=rows, photos=Photos(**photos), light=light)


def rows_to_device(store: Store, devices: Sequence[jax.Device] | None = None) -> Rows:
    """As `to_device`, without the photos."""
    devices = list(jax.devices() if devices is None else devices)
    shares = deal(store, range(len(store.ids)), len(devices))
    return _put_shares(shares, store.spec, devices)


def empty_bank(spec: BankSpec) -> Bank:
    """A bank without segments: one photo of void. It goes to whatever devices it is used on."""
    size = (1, *spec.image_size)
    component = np.full(size, -1, np.int16)
    share = Share(
        layout=np.full(size, VOID, np.uint8),
        component=component,
        photos=range(1),
        first=0,
        class_id=np.full((1, spec.max_segments), -1),
    )
    sizes = fit([share], spec.labels.num_classes)
    fields = jax.tree.map(jnp.asarray, prepare_rows(share, spec, sizes))
    on_cpu = jax.default_backend() == "cpu"
    rows = Rows(**fields, spec=spec, class_tiles=sizes.class_tiles, mesh=None, on_cpu=on_cpu)
    photo = jnp.zeros((*size, 3), jnp.uint8)
    photos = Photos(photo=photo, component=jnp.asarray(component))
    return Bank(rows=rows, photos=photos, light=jnp.zeros((1, 3), jnp.int32))


def _put_shares(shares: list[Share], spec: BankSpec, devices: list[jax.Device]) -> Rows:
    sizes = fit(shares, spec.labels.num_classes)
    return put_rows(lambda index: prepare_rows(shares[index], spec, sizes), spec, sizes, devices)


def put_rows(
    prepared: Callable[[int], dict[str, np.ndarray]],
    spec: BankSpec,
    sizes: Sizes,
    devices: Sequence[jax.Device],
) -> Rows:
    """Rows of what `prepare_rows` has made, or will make, of the share of each device."""
    return Rows(
        **put(prepared, devices),
        spec=spec,
        class_tiles=sizes.class_tiles,
        mesh=mesh_of(devices),
        on_cpu=devices[0].platform == "cpu",
    )


def put(
    prepared: Callable[[int], dict[str, np.ndarray]], devices: Sequence[jax.Device]
) -> dict[str, jax.Array]:
    """One share a device, of one size: asked for by its index, put, and joined with the others."""
    here = [
        jax.device_put(prepared(index), device)
        for index, device in enumerate(devices)
        if device.process_index == jax.process_index()
    ]
    mesh = mesh_of(devices)
    if mesh is None:
        return here[0]
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(BANK_AXIS))

    def join(*parts: jax.Array) -> jax.Array:
        shape = (len(devices) * parts[0].shape[0], *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

    return jax.tree.map(join, *here)


def put_everywhere(tree: Any, where: jax.sharding.Mesh | jax.Device) -> Any:
    """Puts arrays on a device, or whole on every device of a mesh."""
    if isinstance(where, jax.sharding.Mesh):
        where = jax.sharding.NamedSharding(where, jax.sharding.PartitionSpec())
    return jax.device_put(tree, where)


def mesh_of(devices: Sequence[jax.Device]) -> jax.sharding.Mesh | None:
    """The mesh a bank is sharded over, None for one device."""
    return jax.sharding.Mesh(np.array(devices), (BANK_AXIS,)) if len(devices) > 1 else None


def prepare_rows(share: Share, spec: BankSpec, sizes: Sizes) -> dict[str, np.ndarray]:
    """The fields of `Rows` on one device."""
    values, labels = _describe_rows(share, spec)
    first_tile = np.cumsum([0, *share.tiles(spec.labels.num_classes)], dtype=np.int32)
    place = np.full((sizes.tiles, TILE), -1)
    for class_id, first in enumerate(first_tile[:-1]):
        rows = np.flatnonzero(values["class_id"] == class_id)
        boxes = values["outline"][rows, BOX : BOX + 4]
        # A class fills its tiles one after the other.
        place.reshape(-1)[first * TILE :][: rows.size] = rows[_alike_order(boxes, spec.grid)]
    outline, mask_parts, context_parts = (
        np.ascontiguousarray(np.swapaxes(_take(values[name], place), 1, 2))
        for name in ("outline", "mask_parts", "context_parts")
    )
    return {
        "row": np.where(place >= 0, _take(values["row"], place), -1).astype(np.int32),
        "envelope": _envelope(outline, place >= 0, sizes),
        "outline": outline,
        "mask_parts": mask_parts,
        "context_parts": context_parts,
        "mask": _take(values["mask"], place),
        "labels": _pad(labels, sizes.photos, 0),
        "first_tile": first_tile[None],
    }


def _describe_rows(share: Share, spec: BankSpec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What retrieval knows of each row, in order of photo and component, and of each photo."""
    num_rows = int((share.class_id >= 0).sum())
    values: dict[str, np.ndarray] = {}
    labels = []
    done = 0
    for start in range(0, max(1, len(share.photos)), _BATCH):  # a share may have no photo
        some = slice(start, start + _BATCH)
        photos = _to_slice(share.photos[some])
        layout, component = share.layout[photos], share.component[photos].astype(np.int32)
        count = len(layout)
        grid = jax.device_get(
            _describe(_pad(component, _BATCH, -1), _pad(layout, _BATCH, VOID), spec=spec)
        )
        photo, number = np.nonzero(share.class_id[some] >= 0)
        place = np.asarray(share.photos[some], np.int32)[photo] - share.first
        described = {
            "row": place * spec.max_segments + number,
            "class_id": share.class_id[some][photo, number],
            "outline": grid.outline[photo, number],
            "mask_parts": grid.mask_parts[photo, :, number],
            "context_parts": grid.context_parts[photo, :, number],
            "mask": grid.mask[photo, number],
        }
        for name, new in described.items():
            if name not in values:  # all at once: pieces, joined at the end, would be held twice
                values[name] = np.empty((num_rows, *new.shape[1:]), new.dtype)
            values[name][done : done + photo.size] = new
        done += photo.size
        labels.append(grid.labels[:count])
    return values, np.concatenate(labels)


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


def _envelope(
    outline: Int[np.ndarray, "T 10 tile"], there: Bool[np.ndarray, "T tile"], sizes: Sizes
) -> Int[np.ndarray, "12 _T"]:
    """For masks, then contexts: of a tile the smallest and the largest area, and the hull of boxes.

    Padded, so that any tile is followed by as many as a class has.
    """

    def smallest(field: int) -> Int[np.ndarray, "T"]:
        return np.where(there, outline[:, field], np.iinfo(np.int32).max).min(axis=1)

    def largest(field: int) -> Int[np.ndarray, "T"]:
        return np.where(there, outline[:, field], 0).max(axis=1)

    envelope = []
    for size, box in ((AREA, BOX), (LABELLED, CONTEXT)):
        envelope += [smallest(size), largest(size), smallest(box), smallest(box + 1)]
        envelope += [largest(box + 2), largest(box + 3)]
    return np.pad(np.stack(envelope), ((0, 0), (0, sizes.class_tiles)))


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


def _to_slice(photos: range) -> slice:
    return slice(photos.start, photos.stop, photos.step)
