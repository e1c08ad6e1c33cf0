"""Boxes: half-open (y0, x0, y1, x1), in pixels or cells."""

import fractions

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

# Fractions of a side are taken as ratios up to this denominator, so that integers stay exact.
_MAX_DENOMINATOR = 1000


def enlarge_box(
    box_yx: Int[Array, "*B 4"], frac: float, image_size: tuple[int, int]
) -> Int[Array, "*B 4"]:
    """The box with `frac` of its side added on each side, rounded outwards and clipped.

    y0' = max(0, y0 - ceil(frac * side)) and so on, in integers throughout, so that every backend
    agrees. An empty box stays empty.

    Args:
      box_yx: boxes in pixels or cells.
      frac: the nearest ratio p / q of q <= 1000 is taken; 0.125 enlarges a box by 25 %.
      image_size: (H, W) of the frame.

    Raises:
      ValueError: `frac` is not in [0, 1).
    """
    if not 0 <= frac < 1:
        raise ValueError(f"frac: found {frac}, expected a fraction of the side such as 0.125")
    low, high = box_yx[..., :2], box_yx[..., 2:]
    ratio = fractions.Fraction(frac).limit_denominator(_MAX_DENOMINATOR)
    margin = -(((low - high) * ratio.numerator) // ratio.denominator)
    low, high = jnp.maximum(low - margin, 0), high + margin
    return jnp.concatenate([low, jnp.minimum(high, jnp.array(image_size, high.dtype))], axis=-1)


def union_box(a: Num[Array, "*#B 4"], b: Num[Array, "*#B 4"]) -> Num[Array, "*#B 4"]:
    """The smallest box around two boxes; leading axes broadcast.

    An empty box counts by its corners, so leave zeros for "absent" out of a union.
    """
    low = jnp.minimum(a[..., :2], b[..., :2])
    return jnp.concatenate([low, jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1)


def mask_box(mask: Bool[Array, "H W"]) -> Int[Array, "4"]:
    """Half-open box of a mask; zeros for an empty one."""
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    height, width = mask.shape
    box = jnp.stack(
        [
            jnp.argmax(rows),
            jnp.argmax(columns),
            height - jnp.argmax(rows[::-1]),
            width - jnp.argmax(columns[::-1]),
        ]
    ).astype(jnp.int32)
    return jnp.where(mask.any(), box, jnp.zeros_like(box))
