"""Which of a segment's candidates is used: edits of `Matches`.

Segments that are chosen one by one come from a sunlit street, from dusk and from rain. Of K rows
that overlap about as well, those are better whose photos have one light. `prefer_alike` orders each
segment's candidates by

    overlap - weight * |light - common|^2

with the score's two overlaps, 0 to 2, and `light` the mean logarithm of the colours of a row's
photo (`sims_jax.ops.light`). `common` is the light of a reference, or else, among those of all
candidates, the one with which all segments together, by their areas, do best. All in integers, so
that every program and device chooses alike.

Not in SIMS, which retrieves every segment by itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from sims_jax.bank.score import score_unit
from sims_jax.bank.store import Store
from sims_jax.ops.light import DARK
from sims_jax.types import Matches

MOST_WEIGHT = 16  # what follows stays below 2^31
LIGHT_STEPS = 64  # of a light, in one unit of its logarithm
OVERLAP_STEPS = LIGHT_STEPS**2  # as fine as those of a light's square
_WEIGHT_STEPS = 1024
_LIGHTS_AT_ONCE = 256
_AREA_STEPS = 1024  # of all segments together
_NOTHING = -(2**30)  # the value of no row
IntArray = Int[Array, "..."] | Int[np.ndarray, "..."]
FloatArray = Float[Array, "..."] | Float[np.ndarray, "..."]


def choose_candidate(matches: Matches, candidate: Int[Array, ""] | np.integer | int) -> Matches:
    """Uses the `candidate`-th row of every segment (0 the first), or the last there is."""
    found = (matches.row >= 0).sum(axis=-1)
    return matches.replace(chosen=jnp.clip(candidate, 0, jnp.maximum(found - 1, 0)))


def sample_candidates(
    matches: Matches, key: Key[Array, ""], among: Int[Array, ""] | int
) -> Matches:
    """Uses one of a segment's first `among` (1 or more) rows, drawn by `key`, all as likely."""
    found = jnp.clip((matches.row >= 0).sum(axis=-1), 1, jnp.maximum(among, 1))
    return matches.replace(chosen=jax.random.randint(key, found.shape, 0, found, jnp.int32))


def choose_rows(matches: Matches, row: Int[Array, "B N"]) -> Matches:
    """Uses rows of one's own choice, photo * N + component; -1 leaves a segment as it is.

    A row's score is not asked for, and told as 0. Photos are counted in the order of their ids; a
    component that is no row gives an empty cut.
    """
    used = jnp.arange(matches.row.shape[-1]) == matches.chosen[..., None]
    replaced = used & (row >= 0)[..., None]
    return matches.replace(
        row=jnp.where(replaced, row[..., None], matches.row),
        score=jnp.where(replaced, jnp.uint32(0), matches.score),
    )


def layer_places(chosen: IntArray, layers: int) -> list[IntArray]:
    """Which candidate each layer uses: the chosen one, then the others in order."""
    return [chosen, *(i - (chosen >= i).astype(chosen.dtype) for i in range(1, layers))]


@functools.partial(jax.jit, static_argnames=("grid", "weight"))
def prefer_alike(
    matches: Matches,
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    weight: float,
    reference: Float[Array, "3"] | None = None,
) -> Matches:
    """Orders each segment's candidates anew: first those that overlap well in one common light.

    Args:
      matches: as retrieved.
      light: of the bank's photos, from `photo_light`.
      grid: the retrieval grid, (h, w).
      weight: what a difference of 1 in the logarithm of one colour counts, beside an overlap of 1;
        to MOST_WEIGHT, in steps of 1/1024.
      reference: mean logarithm of the colours of the light that is wanted (`Light.mean`).
    """
    wanted = None if reference is None else to_steps(reference)
    order = functools.partial(_order_alike, light, grid, weight, wanted)
    place = jax.vmap(order)(matches.row, matches.score, matches.segments.area_px)
    return in_order(matches, place)


def in_order(matches: Matches, place: Int[Array, "B N K"]) -> Matches:
    """The candidates of each segment in another order: the places that they come from."""
    return matches.replace(
        row=jnp.take_along_axis(matches.row, place, axis=-1),
        score=jnp.take_along_axis(matches.score, place, axis=-1),
    )


def photo_light(store: Store) -> Int[np.ndarray, "P 3"]:
    """The light of each of a bank's photos, in steps, by the colours of its rows.

    The mean logarithm follows from a row's mean and variance as if its colours were log-normal.
    """
    mean = store.row_color_mean + DARK
    variance = np.diagonal(store.row_color_cov, axis1=-2, axis2=-1)
    logarithm = np.log(mean) - np.log1p(variance / mean**2) / 2
    logarithm = np.clip(logarithm, np.log(DARK), np.log(1 + DARK))  # no colours have another
    total = np.zeros((len(store.ids), 3))
    np.add.at(total, store.row_photo, logarithm * store.row_area_px[:, None])
    area = np.bincount(store.row_photo, store.row_area_px, minlength=len(store.ids))
    return to_steps(total / np.maximum(area, 1)[:, None])  # a photo without rows is no candidate


def to_steps(light: FloatArray) -> IntArray:
    """Lights in the integers that are compared."""
    return (light * LIGHT_STEPS).round().astype(np.int32)


def light_cost(
    light: Int[Array, "*S 3"], other: Int[Array, "*#S 3"], weight: float
) -> Int[Array, "*S"]:
    """What the difference of two lights counts, in steps of an overlap."""
    apart = jnp.square(light - other).sum(axis=-1)
    return round(weight * _WEIGHT_STEPS) * apart // _WEIGHT_STEPS


def _order_alike(
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    weight: float,
    wanted: Int[Array, "3"] | None,
    row: Int[Array, "N K"],
    score: UInt32[Array, "N K"],
    area_px: Int[Array, "N"],
) -> Int[Array, "N K"]:
    """For one layout, the place of each candidate in the new order."""
    there = row >= 0
    # Powers of two: only the conversion rounds.
    overlap = (score.astype(jnp.float32) * (OVERLAP_STEPS / score_unit(grid))).astype(jnp.int32)
    own = light[jnp.where(there, row // row.shape[0], 0)]

    def value(common: Int[Array, "3"]) -> Int[Array, "N K"]:
        return jnp.where(there, overlap - light_cost(own, common, weight), _NOTHING)

    if wanted is None:
        area_px = jnp.where(there.any(axis=-1), area_px, 0)
        area = area_px // (area_px.sum() // _AREA_STEPS + 1)

        def total(common: Int[Array, "3"]) -> Int[Array, ""]:
            return (area * value(common).max(axis=-1)).sum()

        every = own.reshape(-1, 3)
        totals = jax.lax.map(total, every, batch_size=_LIGHTS_AT_ONCE)
        totals = jnp.where(there.reshape(-1), totals, jnp.iinfo(jnp.int32).min)
        wanted = every[jnp.argmax(totals)]
    return jnp.argsort(-value(wanted), axis=-1)  # stable: of equal ones, the better score first
