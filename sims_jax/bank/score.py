"""The score of a pair of segments, and bounds of it.

On the retrieval grid, for a query segment L and a row P of the same class:

    a = |P and L|             b = |P or L|                                 (masks)
    c = cells inside both enlarged boxes with equal labels, neither void   (contexts)
    d = labelled cells of L's enlarged box + of P's - c
    score = (a << s) // b + (c << s) // d,   s = 31 - bits(h w),   0 / 0 = 0

in uint32, so that every backend and device count agrees to the last tie; ties go to the smaller
(photo, component), which is the smaller row.

Source: SIMS, Sec. 4 (mask and context intersection over union). Differs: integers; a box is
enlarged by 1/8 of its side on each side, rounded outwards and clipped to the frame.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

# `a << s` must stay below 2^31, so that a twin in signed integers agrees.
_SCORE_BITS = 31
# Bounds are computed in float32: this much, relatively, covers all rounding.
_ROUNDING = 1e-6


def score_pairs(
    mask_common: Int[Array, "*pairs"],
    mask_union: Int[Array, "*pairs"],
    context_common: Int[Array, "*pairs"],
    context_union: Int[Array, "*pairs"],
    grid: tuple[int, int],
) -> UInt32[Array, "*pairs"]:
    """The score of pairs of segments from their four counts (a, b, c, d of this module)."""
    shift = jnp.uint32(_score_shift(grid))

    def ratio(common: Int[Array, "*pairs"], union: Int[Array, "*pairs"]) -> Array:
        # common <= union, so 0 / 0 is the only division by zero and 0 / 1 its value.
        union = jnp.maximum(union, 1).astype(jnp.uint32)
        return (common.astype(jnp.uint32) << shift) // union

    return ratio(mask_common, mask_union) + ratio(context_common, context_union)


def score_unit(grid: tuple[int, int]) -> int:
    """The score of a perfect overlap of masks, or of contexts: 2^s."""
    return 1 << _score_shift(grid)


def _score_shift(grid: tuple[int, int]) -> int:
    return _SCORE_BITS - (grid[0] * grid[1]).bit_length()


def bound_ratio(
    common: Float[Array, "*B"], total: Float[Array, "*B"], grid: tuple[int, int]
) -> Float[Array, "*B"]:
    """No less than one ratio of the score, of `total` cells of which `common` count twice."""
    unit = score_unit(grid) * (1 + _ROUNDING)
    return common * unit / jnp.maximum(total - common, 1.0)
