"""Dilation with squares, chessboard distances, smooth outlines.

What lies outside the frame counts for nothing: it does not dilate into the frame, and no distance
is measured to it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, Shaped


def dilate(mask: Bool[Array, "*B H W"], radius_px: int) -> Bool[Array, "*B H W"]:
    """True within chessboard distance `radius_px` of the mask: a square of 2 r + 1 pixels."""
    return _slide_or(_slide_or(mask, radius_px, -2), radius_px, -1)


def distance_to_change(labels: Shaped[Array, "*B H W"], max_px: int) -> Int[Array, "*B H W"]:
    """Chessboard distance to the nearest pixel of another label, at most `max_px`.

    1 next to another label. With d = 1 there, d <- min(d, 1 + min over the 3x3 square of d)
    reaches one pixel further each time.

    Args:
      labels: integers or bool.
      max_px: at least 1.
    """
    low, high = _slide_min(labels), _slide_max(labels)
    distance = jnp.where(low == high, jnp.int32(max_px), jnp.int32(1))

    def reach_further(_, distance):
        return jnp.minimum(distance, _slide_min(distance) + 1)

    return jax.lax.fori_loop(1, max_px, reach_further, distance)


def distance_to_higher(labels: Integer[Array, "*B H W"], max_px: int) -> Int[Array, "*B H W"]:
    """Chessboard distance to the nearest pixel of a higher label, at most `max_px` (1 or more)."""

    def reach_further(step_px, state):
        highest, distance = state
        highest = _slide_max(highest)
        reached = jnp.where(highest > labels, step_px, max_px)
        return highest, jnp.minimum(distance, reached)

    far = jnp.full(labels.shape, max_px, jnp.int32)
    return jax.lax.fori_loop(1, max_px, reach_further, (labels, far))[1]


def smooth_labels(
    labels: Integer[Array, "H W"], ids: tuple[int, ...], radius_px: int
) -> Integer[Array, "H W"]:
    """Pixels of `ids` get that one of them which most pixels around have.

    Around: in the square of 2 r + 1 pixels. Of equally many a pixel's own, or else the first of
    `ids`. Pixels of other labels stay as they are, and do not count.
    """
    if not ids or not radius_px:
        return labels
    choice = jnp.asarray(ids, labels.dtype)
    own = labels == choice[:, None, None]
    one = own.astype(jnp.int32)
    count = 2 * _slide_sum(_slide_sum(one, radius_px, -2), radius_px, -1) + one
    most = choice[jnp.argmax(count, axis=0)]
    return jnp.where(own.any(axis=0), most, labels)


def _slide_min(values: Shaped[Array, "*B H W"]) -> Shaped[Array, "*B H W"]:
    """The least of the 3x3 square around each pixel, within the frame."""
    for axis in (-2, -1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (1, 1)
        padded = jnp.pad(values, padding, mode="edge")
        ends = (jax.lax.slice_in_dim(padded, i, i + values.shape[axis], axis=axis) for i in (0, 2))
        values = functools.reduce(jnp.minimum, ends, values)
    return values


def _slide_max(values: Shaped[Array, "*B H W"]) -> Shaped[Array, "*B H W"]:
    """The most of the 3x3 square around each pixel, within the frame."""
    return ~_slide_min(~values)


def _slide_or(mask: Bool[Array, "*B H W"], radius_px: int, axis: int) -> Bool[Array, "*B H W"]:
    """Any of the 2 r + 1 pixels around each along an axis, in about log2(2 r + 1) steps."""
    padding = [(0, 0)] * mask.ndim
    padding[axis] = (radius_px, radius_px)
    window = jnp.pad(mask, padding)
    covered, wanted = 1, 2 * radius_px + 1
    while covered < wanted:
        step = min(covered, wanted - covered)
        length = window.shape[axis] - step
        window = jax.lax.slice_in_dim(window, 0, length, axis=axis) | jax.lax.slice_in_dim(
            window, step, step + length, axis=axis
        )
        covered += step
    return window


def _slide_sum(values: Int[Array, "*B H W"], radius_px: int, axis: int) -> Int[Array, "*B H W"]:
    """The sum of the 2 r + 1 entries around each along an axis, within the frame.

    Sums of 1, 2, 4, ... entries, each of two before; those that are binary digits of 2 r + 1 stand
    side by side.
    """
    padding = [(0, 0)] * values.ndim
    padding[axis] = (radius_px, radius_px)
    sums, total = jnp.pad(values, padding), jnp.zeros_like(values)
    width, covered, wanted = 1, 0, 2 * radius_px + 1
    while True:
        if wanted & width:
            total += jax.lax.slice_in_dim(sums, covered, covered + values.shape[axis], axis=axis)
            covered += width
        if covered == wanted:
            return total
        length = sums.shape[axis] - width
        sums = jax.lax.slice_in_dim(sums, 0, length, axis=axis) + jax.lax.slice_in_dim(
            sums, width, width + length, axis=axis
        )
        width *= 2
