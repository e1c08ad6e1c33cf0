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
from jaxtyping import Bool, Int

from sims_jax.bank.match import match
from sims_jax.bank.parts import read_part, write_part
from sims_jax.bank.store import Store
from sims_jax.errors import InputError
from sims_jax.progress import progress
from sims_jax.types import Bank

_ARRAY = "row"


def find_donors(
    queries: Store, rows_store: Store, bank: Bank, *, candidates: int, near_frames: int
) -> Int[np.ndarray, "R K"]:
    """The best rows of `rows_store` for every row of `queries`, best first, -1 where none.

    Found once and kept in the folder of `queries`. The photo itself is excluded, and so are the
    photos within `near_frames` positions of it in its video's sorted list (of both banks).

    Args:
      queries: whose segments to match.
      rows_store: the bank they are matched against.
      bank: `rows_store` on the devices.
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
    exclude = near_photos(
        list(zip(queries.videos, queries.frames.tolist(), strict=True)),
        list(zip(rows_store.videos, rows_store.frames.tolist(), strict=True)),
        near_frames,
    )
    rows = _match_photos(queries, bank, exclude, candidates)
    write_part(path, {_ARRAY: rows}, {"candidates": candidates, "near_frames": near_frames})
    return rows


def near_photos(
    queries: list[tuple[str, int]], photos: list[tuple[str, int]], near_frames: int
) -> Bool[np.ndarray, "Q P"]:
    """Which photos are one with, or near frames of, which queries; both as (video, frame).

    Near are at most `near_frames` positions apart in the list of the video's frames, sorted, of
    both together.
    """
    ordered = sorted({*queries, *photos})  # a video's frames stand together, in order
    position = {one: index for index, one in enumerate(ordered)}
    first, second = (np.array([position[one] for one in some]) for some in (queries, photos))
    video_a, video_b = (np.array([video for video, _ in some]) for some in (queries, photos))
    apart = np.abs(first[:, None] - second[None, :])
    return (video_a[:, None] == video_b[None, :]) & (apart <= near_frames)


def _donor_folder(
    queries: Store, rows_store: Store, candidates: int, near_frames: int
) -> pathlib.Path:
    text = f"{queries.digest} {rows_store.digest} {candidates} {near_frames}"
    return queries.folder / f"donors-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _match_photos(
    queries: Store, bank: Bank, exclude: Bool[np.ndarray, "Q P"], candidates: int
) -> Int[np.ndarray, "R K"]:
    match_photo = jax.jit(match, static_argnames="candidates")
    padding = bank.rows.layouts.shape[0] - exclude.shape[1]
    exclude = np.pad(exclude, ((0, 0), (0, padding)))
    found = np.full((queries.row_photo.size, candidates), -1, np.int32)
    with progress("donors: photos", len(queries.ids)) as bar:
        for photo in range(len(queries.ids)):
            instances = None if queries.instances is None else queries.instances[photo : photo + 1]
            matches = match_photo(
                bank.rows,
                queries.layout[photo : photo + 1],
                candidates=candidates,
                exclude=exclude[photo : photo + 1],
                instances=instances,
            )
            rows = queries.row_of[photo]
            found[rows[rows >= 0]] = np.asarray(matches.row[0])[rows >= 0]
            bar.update()
    return found
