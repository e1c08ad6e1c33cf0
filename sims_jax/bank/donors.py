"""Donors: for every segment of a store its nearest rows in other photos of a bank.

Training simulates canvases from them, so a donor must be as strange to its segment as a
retrieved segment is at test time: never of the same photo, nor of a frame near it.
Source: SIMS, Sec. 5 (stencilling, colour transfer). Differs: the nearest rows by the full
score instead of the best of 100 random photos.
"""

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


def find_donors(
    queries: Store,
    bank: DiskBank,
    *,
    donors: int,
    layers: int,
    candidates: int,
    light_weight: float,
    near_frames: int,
) -> Int[np.ndarray, "R K L"]:
    """For every row of `queries` the best K rows of the bank, best first; -1 where there is none.

    And for each of these the L - 1 rows that fill what it leaves empty, chosen as composition
    chooses them. Found once and kept in the folder of `queries`. The photo itself is excluded, and
    so are those within `near_frames` positions of it in its video's sorted list (of both banks).

    Args:
      queries: whose segments to match.
      bank: what they are matched against.
      donors: K.
      layers: L, of a canvas.
      candidates, light_weight: among how many rows those that fill are found, K and L or more, and
        what their light counts (`PipelineConfig`).
      near_frames: positions either way.

    Raises:
      InputError: the two banks differ in spec, or a kept file is damaged.
    """
    if queries.spec != bank.store.spec:
        raise InputError(
            f"{queries.folder}: found a bank of another spec than {bank.store.folder}, expected "
            "the same labels, sizes and limits; build both from one config"
        )
    how = {"donors": donors, "layers": layers, "near_frames": near_frames}
    if layers > 1:
        how |= {"candidates": candidates, "light_weight": light_weight}
    path = _donor_folder(queries, bank.store, how)
    if path.exists():
        arrays, _ = read_part(path)
        return arrays[_ARRAY]
    rows = _search(queries, bank, donors, layers, candidates, light_weight, near_frames)
    write_part(path, {_ARRAY: rows}, how)
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


def _donor_folder(queries: Store, rows_store: Store, how: dict[str, float]) -> pathlib.Path:
    text = f"{queries.digest} {rows_store.digest} {json.dumps(how, sort_keys=True)}"
    return queries.folder / f"donors-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _search(
    queries: Store,
    bank: DiskBank,
    donors: int,
    layers: int,
    candidates: int,
    light_weight: float,
    near_frames: int,
) -> Int[np.ndarray, "R K L"]:
    """The components are known, so that nothing has to be split."""
    run = jax.jit(search, static_argnames="candidates")
    found = np.full((queries.row_photo.size, donors, layers), -1, np.int32)
    limit, grid = queries.spec.max_segments, queries.spec.grid
    places = line_up(_frames(queries), _frames(bank.store), near_frames)
    with progress("donors: photos", len(queries.ids), shown=is_first()) as bar:
        for start in range(0, len(queries.ids), BATCH):
            # The last batch is filled up, so that one program serves all.
            some = np.arange(start, start + BATCH).clip(max=len(queries.ids) - 1)
            near = np.abs(places[0][some, None] - places[1]) <= near_frames
            component = queries.component[some].astype(np.int32)
            best = run(
                bank.rows,
                queries.layout[some],
                component,
                queries.class_of(some),
                candidates=donors if layers == 1 else candidates,
                exclude=near,
            )
            row = np.asarray(best.row)
            if layers > 1:
                cells = bank.cells(row)
                row = _add_filling(
                    component, row, cells, bank.light, grid, donors, layers, light_weight
                )
            row = np.asarray(row).reshape(len(some), limit, donors, layers)
            photo, number = np.divmod(row, limit)
            row = np.where(photo >= 0, bank.store.row_of[photo, number], -1)
            mine = queries.row_of[some]
            found[mine[mine >= 0]] = row[mine >= 0]
            bar.update(min(BATCH, len(queries.ids) - start))
    return found


@functools.partial(jax.jit, static_argnames=("grid", "donors", "layers", "weight"))
def _add_filling(
    component: Int[Array, "B H W"],
    row: Int[Array, "B N K"],
    cells: UInt32[Array, "B N K words"],
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    donors: int,
    layers: int,
    weight: float,
) -> Int[Array, "B N donors layers"]:
    """Each of the first `donors` candidates, and after it those that fill what it leaves empty."""

    def each(index: int) -> Array:
        chosen = jnp.full(row.shape[:2], index, jnp.int32)
        place = order_filling(component, row, chosen, cells, light, grid, layers, weight)
        used = jnp.stack(layer_places(chosen, layers), axis=-1)
        return jnp.take_along_axis(row, jnp.take_along_axis(place, used, axis=-1), axis=-1)

    return jnp.stack([each(index) for index in range(donors)], axis=2)
