"""Donors: for every segment of a store its nearest rows in other photos of a bank.

Training simulates canvases from them, so a donor must be as strange to its segment as a
retrieved segment is at test time: never of the same photo, nor of a frame near it.
Source: SIMS, Sec. 5 (stencilling, colour transfer). Differs: the nearest rows by the full
score instead of the best of 100 random photos.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from sims_jax.bank.choose import layer_places
from sims_jax.bank.cover import order_filling
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.match import search
from sims_jax.bank.parts import read_part, write_part
from sims_jax.bank.store import Store
from sims_jax.errors import InputError
from sims_jax.processes import is_first
from sims_jax.progress import progress

_ARRAY = "row"
BATCH = 16  # photos searched for at once


@dataclasses.dataclass(frozen=True)
class DonorConfig:
    """Which rows are donors.

    Args:
      donors: K, of each row, best first.
      near_frames: positions in a video within which frames are too near.
      layers: L, of a canvas: each donor, and the rows that fill what it leaves empty.
      candidates: among how many rows these are found, K and L or more.
      light_weight: what their light counts (`PipelineConfig`).
    """

    donors: int
    near_frames: int
    layers: int = 1
    candidates: int = 1
    light_weight: float = 0.0


def find_donors(queries: Store, bank: DiskBank, config: DonorConfig) -> Int[np.ndarray, "R K L"]:
    """For every row of `queries` the best K rows of the bank, best first; -1 where there is none.

    And for each of these the L - 1 rows that fill what it leaves empty, chosen as composition
    chooses them. Found once and kept in the folder of `queries`. The photo itself is excluded, and
    so are those within `near_frames` positions of it in its video's sorted list (of both banks).

    Args:
      queries: whose segments to match.
      bank: what they are matched against.

    Raises:
      InputError: the two banks differ in spec, or a kept file is damaged.
    """
    if queries.spec != bank.store.spec:
        raise InputError(
            f"{queries.folder}: found a bank of another spec than {bank.store.folder}, expected "
            "the same labels, sizes and limits; build both from one config"
        )
    path = _donor_folder(queries, bank.store, config)
    if path.exists():
        arrays, _ = read_part(path)
        return arrays[_ARRAY]
    rows = _search(queries, bank, config)
    write_part(path, {_ARRAY: rows}, dataclasses.asdict(config))
    return rows


def line_up(
    queries: list[tuple[str, int]], photos: list[tuple[str, int]], near_frames: int
) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "P"]]:
    """Places on one line: at most `near_frames` apart are near frames of one video, and only they.

    Both are given as (video, frame). Near are at most `near_frames` positions apart in the list of
    the video's frames, sorted, of both together.
    """
    place, places = 0, {}
    previous = None
    for video, frame in sorted({*queries, *photos}):  # a video's frames stand together, in order
        place += 1 if video == previous else near_frames + 1
        places[video, frame], previous = place, video
    first, second = (np.array([places[one] for one in some]) for some in (queries, photos))
    return first, second


def _frames(store: Store) -> list[tuple[str, int]]:
    return list(zip(store.videos, store.frames.tolist(), strict=True))


def _donor_folder(queries: Store, rows_store: Store, config: DonorConfig) -> pathlib.Path:
    how = json.dumps(dataclasses.asdict(config))
    digest = hashlib.sha256(f"{queries.digest} {rows_store.digest} {how}".encode()).hexdigest()
    return queries.folder / f"donors-{digest[:16]}"


def _search(queries: Store, bank: DiskBank, config: DonorConfig) -> Int[np.ndarray, "R K L"]:
    """The components are known, so that nothing has to be split."""
    run = jax.jit(search, static_argnames="candidates")
    found = np.full((queries.row_photo.size, config.donors, config.layers), -1, np.int32)
    limit, fills = queries.spec.max_segments, config.layers > 1
    places = line_up(_frames(queries), _frames(bank.store), config.near_frames)
    with progress("donors: photos", len(queries.ids), shown=is_first()) as bar:
        for start in range(0, len(queries.ids), BATCH):
            # The last batch is filled up, so that one program serves all.
            some = np.arange(start, start + BATCH).clip(max=len(queries.ids) - 1)
            near = np.abs(places[0][some, None] - places[1]) <= config.near_frames
            component = queries.component[some].astype(np.int32)
            best = run(
                bank.rows,
                queries.layout[some],
                component,
                queries.class_of(some),
                candidates=config.candidates if fills else config.donors,
                exclude=near,
            )
            row = np.asarray(best.row)
            if fills:
                cells = bank.cells(row)
                row = _add_filling(component, row, cells, bank.light, queries.spec.grid, config)
            row = np.asarray(row).reshape(len(some), limit, config.donors, config.layers)
            photo, number = np.divmod(row, limit)
            row = np.where(photo >= 0, bank.store.row_of[photo, number], -1)
            mine = queries.row_of[some]
            found[mine[mine >= 0]] = row[mine >= 0]
            bar.update(min(BATCH, len(queries.ids) - start))
    return found


@functools.partial(jax.jit, static_argnames=("grid", "config"))
def _add_filling(
    component: Int[Array, "B H W"],
    row: Int[Array, "B N K"],
    cells: UInt32[Array, "B N K words"],
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    config: DonorConfig,
) -> Int[Array, "B N donors layers"]:
    """Each of the first candidates, and after it those that fill what it leaves empty."""
    layers, weight = config.layers, config.light_weight

    def each(index: int) -> Array:
        chosen = jnp.full(row.shape[:2], index, jnp.int32)
        place = order_filling(component, row, chosen, cells, light, grid, layers, weight)
        used = jnp.stack(layer_places(chosen, layers), axis=-1)
        return jnp.take_along_axis(row, jnp.take_along_axis(place, used, axis=-1), axis=-1)

    return jnp.stack([each(index) for index in range(config.donors)], axis=2)
