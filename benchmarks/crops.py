"""Banks of any size for benchmarks: crops of a few layouts, without photos."""

import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sims_jax.bank.segments import split_layout
from sims_jax.bank.store import Store, sort_rows
from sims_jax.data.scenes import draw_scene
from sims_jax.labels import VOID, LabelSpace
from sims_jax.progress import progress
from sims_jax.types import BankSpec

MAX_SEGMENTS, MIN_AREA_FRAC = 64, 0.0006
NUM_SCENES = 150
CANDIDATES = 10  # that a segment is given
CROP = (0.6, 1.0)  # of the frame's sides
TWIN_EVERY = 50  # photos: so often one is a copy of an earlier one
SPLIT_BATCH = 64


def make_spec(labels: LabelSpace, size: tuple[int, int], grid: tuple[int, int]) -> BankSpec:
    return BankSpec(labels, size, grid, MAX_SEGMENTS, MIN_AREA_FRAC)


def draw_layouts(split: str, count: int, grid: tuple[int, int]) -> list[np.ndarray]:
    """Drawn scenes' layouts, of twice the grid's sides."""
    size = 2 * grid[0], 2 * grid[1]
    return [draw_scene(0, index, split, size)["layout"] for index in range(count)]


def read_ids(path: pathlib.Path, label_space: LabelSpace) -> UInt8[np.ndarray, "H W"]:
    ids = np.asarray(Image.open(path))
    return np.where(ids < label_space.num_classes, ids, VOID).astype(np.uint8)


def crop(
    layout: UInt8[np.ndarray, "H W"], least: float, size: tuple[int, int], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    """A part of a layout, of at least `least` of its sides, resampled nearest to `size`."""
    sides = [int(side * rng.uniform(least, 1.0)) for side in layout.shape]
    starts = [rng.integers(full - side + 1) for full, side in zip(layout.shape, sides, strict=True)]
    rows, columns = (
        start + (2 * np.arange(new) + 1) * side // (2 * new)
        for start, side, new in zip(starts, sides, size, strict=True)
    )
    return layout[np.ix_(rows, columns)]


def make_store(
    sources: list[np.ndarray], segments: int, spec: BankSpec, rng: np.random.Generator
) -> Store:
    """A bank of at least so many rows; its photos are black, for nobody looks at them."""
    split = jax.jit(split_layout, static_argnames="spec")
    layouts, components, geometry = [], [], []
    rows = photos = 0
    with progress("bank: rows", segments) as bar:
        while rows < segments:
            batch = np.stack(list(draw_crops(sources, SPLIT_BATCH, spec.grid, rng)))
            found = jax.device_get(split(batch, spec=spec))
            photo, component = np.nonzero(found.class_id >= 0)
            box = found.box_yx[photo, component]
            columns = photo + photos, component, found.class_id[photo, component]
            area = found.area_px[photo, component]
            geometry.append(np.column_stack([*columns, area, box]).astype(np.int32))
            layouts.append(batch)
            components.append(found.component.astype(np.int16))
            rows, photos = rows + len(photo), photos + len(batch)
            bar.update(len(photo))
    geometry = np.concatenate(geometry)
    layout = np.concatenate(layouts)
    return Store(
        folder=pathlib.Path("memory"),
        spec=spec,
        digest="",
        ids=tuple(map(str, range(photos))),
        videos=tuple(map(str, range(photos))),
        frames=np.zeros(photos, np.int32),
        photo=np.broadcast_to(np.zeros(3, np.uint8), (*layout.shape, 3)),
        layout=layout,
        component=np.concatenate(components),
        instances=None,
        depth=None,
        coarse=None,
        **sort_rows(geometry, np.zeros((len(geometry), 13), np.float32), photos, spec),
    )


def draw_crops(
    sources: list[np.ndarray], count: int, size: tuple[int, int], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    for index in range(count):
        if index % TWIN_EVERY != TWIN_EVERY - 1:
            layout = crop(sources[rng.integers(len(sources))], CROP[0], size, rng)
            layout = layout[:, ::-1] if rng.random() < 0.5 else layout
        yield layout
