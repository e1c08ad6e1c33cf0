"""A bank that is larger than its devices: photos on disk, and rows, too, where it must be.

Retrieval runs on the devices. The host reads the photos of the rows that are used, each once, and,
where canvases have layers, the component maps of each layout's candidates. Only these photos and
the candidates' packed cells go to the devices.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
from jaxtyping import Array, Int, UInt32

from sims_jax.bank.blocks import RowBlocks, match_streamed
from sims_jax.bank.choose import photo_light
from sims_jax.bank.match import match
from sims_jax.bank.store import Store
from sims_jax.ops.bits import pack_bits_numpy
from sims_jax.ops.resize import resize_labels
from sims_jax.types import Matches, Photos, Rows

_MAPS_AT_ONCE = 64  # read and brought to the grid
_match = jax.jit(match, static_argnames=("candidates", "max_aspect"))


@dataclasses.dataclass(frozen=True)
class DiskBank:
    """Takes the place of a `Bank` whose photos do not fit."""

    rows: Rows | RowBlocks
    store: Store  # its images may be on disk

    @functools.cached_property
    def light(self) -> Int[np.ndarray, "P 3"]:
        """As `Bank.light`."""
        return photo_light(self.store)

    def match(self, layouts: np.ndarray, **options) -> Matches:
        """As `sims_jax.bank.match.match`, on the host's side of it."""
        if isinstance(self.rows, RowBlocks):
            return match_streamed(self.rows, layouts, **options)
        return jax.device_get(_match(self.rows, layouts, **options))

    def cells(self, row: Int[Array | np.ndarray, "B N K"]) -> UInt32[np.ndarray, "B N K words"]:
        """As `sims_jax.bank.cover.candidate_cells`: reads the component maps of some rows' photos.

        Raises:
          InputError: a map on disk is missing or damaged; the message names it.
        """
        spec, cells = self.store.spec, []
        for one in np.asarray(row):  # a layout at a time: of its candidates there are many
            there = one >= 0
            photo, component = np.divmod(one[there], spec.max_segments)
            found, place = np.unique(photo, return_inverse=True)
            small = np.empty((len(found), *spec.grid), np.int16)
            for start in range(0, len(found), _MAPS_AT_ONCE):
                some = slice(start, start + _MAPS_AT_ONCE)
                small[some] = resize_labels(self.store.component[found[some]], spec.grid)
            mask = np.zeros((*one.shape, math.prod(spec.grid)), bool)
            mask[there] = (small[place] == component[:, None, None]).reshape(-1, mask.shape[-1])
            cells.append(pack_bits_numpy(mask))
        return np.stack(cells)

    def fetch(self, row: Int[np.ndarray, "B J"]) -> tuple[Photos, Int[np.ndarray, "B J"]]:
        """Reads the photos of some rows, each once: a small bank, and the rows' numbers in it.

        It has room for a photo a row, so that it is of one shape whatever it holds.

        Raises:
          InputError: a photo on disk is missing or damaged; the message names it.
        """
        limit, size = self.store.spec.max_segments, (row.size, *self.store.spec.image_size)
        there = row >= 0
        photo, component = np.divmod(row[there], limit)
        found, place = np.unique(photo, return_inverse=True)
        photos = Photos(np.zeros((*size, 3), np.uint8), np.full(size, -1, np.int16))
        photos.photo[: found.size] = self.store.photo[found]
        photos.component[: found.size] = self.store.component[found]
        renumbered = np.full_like(row, -1)
        renumbered[there] = place * limit + component
        return photos, renumbered
