"""A bank that is larger than its devices: photos on disk, and rows, too, where it must be.

Retrieval runs on the devices, the host reads the photos of the chosen rows, each once, and only
they go to the devices.
"""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Int

from sims_jax.bank.blocks import RowBlocks, match_streamed
from sims_jax.bank.choose import photo_light
from sims_jax.bank.match import match
from sims_jax.bank.store import Store
from sims_jax.types import Matches, Photos, Rows

_match = jax.jit(match, static_argnames="candidates")


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
