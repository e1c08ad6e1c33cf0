"""Donors: for every segment of a store its nearest rows in other photos of a bank.

Training simulates canvases from them, so a donor must be as strange to its segment as a
retrieved segment is at test time: never of the same photo, nor of a frame near it.
Source: SIMS, Sec. 5 (stencilling, colour transfer). Differs: the nearest rows by the full
score instead of the best of 100 random photos.
"""

import hashlib
import pathlib

import jax
import numpy as np
from jaxtyping import Int

from sims_jax.bank.disk import DiskBank
from sims_jax.bank.match import search
from sims_jax.bank.parts import read_part, write_part
from sims_jax.bank.store import Store
from sims_jax.errors import InputError
from sims_jax.processes import is_first
from sims_jax.progress import progress
from sims_jax.types import Bank

_ARRAY = "row"
BATCH = 16  # photos searched for at once


def find_donors(
    queries: Store, rows_store: Store, bank: Bank | DiskBank, *, candidates: int, near_frames: int
) -> Int[np.ndarray, "R K"]:
    """The best rows of `rows_store` for every row of `queries`, best first, -1 where none.

    Found once and kept in the folder of `queries`. The photo itself is excluded, and so are the
    photos within `near_frames` positions of it in its video's sorted list (of both banks).

    Args:
      queries: whose segments to match.
      rows_store: the bank they are matched against.
      bank: `rows_store`, its rows on the devices; photos are not looked at.
      candidates: K.
      near_frames: positions either way.

    Raises:
      InputError: the two banks differ in spec, or a kept file is damaged.
    """
    if queries.spec != rows_store.spec:
        raise InputError(
            f"{queries.folder}: found a bank of another spec than {rows_store.folder}, expected "
            "the same labels, sizes and limits; build both from one config"
        )
    path = _donor_folder(queries, rows_store, candidates, near_frames)
    if path.exists():
        arrays, _ = read_part(path)
        return arrays[_ARRAY]
    places = line_up(_frames(queries), _frames(rows_store), near_frames)
    rows = _search(queries, rows_store, bank, places, candidates, near_frames)
    write_part(path, {_ARRAY: rows}, {"candidates": candidates, "near_frames": near_frames})
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


def _donor_folder(
    queries: Store, rows_store: Store, candidates: int, near_frames: int
) -> pathlib.Path:
    text = f"{queries.digest} {rows_store.digest} {candidates} {near_frames}"
    return queries.folder / f"donors-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _search(
    queries: Store,
    rows_store: Store,
    bank: Bank | DiskBank,
    places: tuple[np.ndarray, np.ndarray],
    candidates: int,
    near_frames: int,
) -> Int[np.ndarray, "R K"]:
    """The components are known, so that nothing has to be split."""
    run = jax.jit(search, static_argnames="candidates")
    found = np.full((queries.row_photo.size, candidates), -1, np.int32)
    limit = queries.spec.max_segments
    with progress("donors: photos", len(queries.ids), shown=is_first()) as bar:
        for start in range(0, len(queries.ids), BATCH):
            # The last batch is filled up, so that one program serves all.
            some = np.arange(start, start + BATCH).clip(max=len(queries.ids) - 1)
            row_of = queries.row_of[some]
            near = np.abs(places[0][some, None] - places[1]) <= near_frames
            best = run(
                bank.rows,
                queries.layout[some],
                queries.component[some].astype(np.int32),
                queries.class_of(some),
                candidates=candidates,
                exclude=near,
            )
            photo, component = np.divmod(np.asarray(best.row), limit)
            row = np.where(photo >= 0, rows_store.row_of[photo, component], -1)
            found[row_of[row_of >= 0]] = row[row_of >= 0]
            bar.update(min(BATCH, len(queries.ids) - start))
    return found
