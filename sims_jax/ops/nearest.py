"""Labels of the nearest labelled pixel, and how far it is: exact, without a list of pixels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def fill_nearest(
    labels: Shaped[Array, "*B H W"], known: Bool[Array, "*B H W"]
) -> tuple[Shaped[Array, "*B H W"], Float[Array, "*B H W"]]:
    """Gives every pixel the label of the nearest known one.

    First each pixel finds the nearest of its own column, d_y away; then the least of
    d_x^2 + d_y^2 is sought over ever farther columns, until no farther one can be nearer.

    Args:
      labels: of any integer type; those of pixels that are not known are not used.
      known: where labels hold.

    Returns:
      (labels, Euclidean distances in pixels, 0 where known). Without a known pixel the labels stay
      and the distances are H + W.
    """
    height, width = labels.shape[-2:]
    unreached = (height + width) ** 2  # farther than any pixel
    row = jax.lax.broadcasted_iota(jnp.int32, labels.shape, labels.ndim - 2)
    above = jax.lax.cummax(jnp.where(known, row, -height), labels.ndim - 2)
    below = jax.lax.cummin(jnp.where(known, row, 2 * height), labels.ndim - 2, reverse=True)
    nearer = jnp.where(row - above <= below - row, above, below)
    reached = (nearer >= 0) & (nearer < height)
    in_column = jnp.where(reached, jnp.square(row - nearer), unreached)
    label_in_column = jnp.take_along_axis(labels, jnp.where(reached, nearer, row), axis=-2)
    padding = [(0, 0)] * (labels.ndim - 1) + [(width, width)]
    columns = jnp.pad(in_column, padding, constant_values=unreached)
    label_columns = jnp.pad(label_in_column, padding)

    def may_be_nearer(state):
        offset, square, _ = state
        return (offset < width) & (jnp.square(offset) < square.max())

    def look_farther(state):
        offset, square, label = state
        for start in (width - offset, width + offset):
            there, label_there = (
                jax.lax.dynamic_slice_in_dim(x, start, width, axis=-1)
                for x in (columns, label_columns)
            )
            away = jnp.minimum(there + jnp.square(offset), unreached)
            square, label = (
                jnp.minimum(square, away),
                jnp.where(away < square, label_there, label),
            )
        return offset + 1, square, label

    start = (jnp.int32(1), in_column, label_in_column)
    _, square, label = jax.lax.while_loop(may_be_nearer, look_farther, start)
    distance = jnp.where(square < unreached, jnp.sqrt(square.astype(jnp.float32)), height + width)
    return label, distance
