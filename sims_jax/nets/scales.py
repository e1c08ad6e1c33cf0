"""From one scale to another: pooling, bilinear upsampling, pyramids."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def _reduce_window(
    x: Float[Array, "B H W F"], combine: Callable[[Array, Array], Array], padding: float
) -> Float[Array, "B h w F"]:
    """3x3 windows with stride 2 (SAME padding), as strided slices combined one axis at a time."""
    for axis in (1, 2):
        out, sides = _window_sides(x.shape[axis])
        widths = [(0, 0)] * x.ndim
        widths[axis] = sides
        padded = jnp.pad(x, widths, constant_values=jnp.asarray(padding, x.dtype))
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + 2 * out - 1, 2, axis) for start in range(3)
        )
        x = combine(combine(first, second), third)
    return x


def _window_sides(size: int) -> tuple[int, tuple[int, int]]:
    """(windows, (padding before, after)) of an axis."""
    out = -(-size // 2)
    total = 2 * (out - 1) + 3 - size
    return out, (total // 2, total - total // 2)


def _window_sizes(size: int) -> np.ndarray:
    """Entries of each window of `_reduce_window` that are not padding."""
    first = 2 * np.arange(-(-size // 2)) - (size % 2)
    return np.minimum(first + 3, size) - np.maximum(first, 0)


def average_pool(x: Float[Array, "B H W F"]) -> Float[Array, "B h w F"]:
    """Mean over 3x3 windows with stride 2, SAME; h = ceil(H / 2). Padding is not counted."""
    return _reduce_window(x, jnp.add, 0.0) / _window_areas(x)


def average_pool_products(
    a: Float[Array, "B H W K"], b: Float[Array, "B H W F"]
) -> Float[Array, "B h w K*F"]:
    """`average_pool` of each channel of `a` times each of `b`, which are not made at full size.

    Products are ordered by the channel of `a`, then by that of `b`.
    """
    terms = zip(_window_entries(a), _window_entries(b), strict=True)
    total = sum(x[..., :, None] * y[..., None, :] for x, y in terms)
    return total.reshape(*total.shape[:3], -1) / _window_areas(a)


def _window_entries(x: Float[Array, "B H W F"]) -> list[Float[Array, "B h w F"]]:
    """The nine entries of 3x3 windows with stride 2 (SAME padding with zeros)."""
    (height, pad_rows), (width, pad_columns) = map(_window_sides, x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), pad_rows, pad_columns, (0, 0)))
    return [
        padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]


def _window_areas(x: Float[Array, "B H W F"]) -> Float[np.ndarray, "h w 1"]:
    return np.outer(*map(_window_sizes, x.shape[1:3]))[..., None].astype(x.dtype)


def max_pool(x: Float[Array, "B H W F"]) -> Float[Array, "B h w F"]:
    """Maximum over 3x3 windows with stride 2, SAME; h = ceil(H / 2)."""
    return _reduce_window(x, jnp.maximum, -jnp.inf)


def upsample(x: Float[Array, "B h w *F"], size: tuple[int, int]) -> Float[Array, "B H W *F"]:
    """Bilinear upsampling to exactly `size`."""
    for axis, length in enumerate(size, start=1):
        if length == 2 * x.shape[axis]:
            x = double_axis(x, axis)
        else:
            shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
            x = jax.image.resize(x, shape, "bilinear", antialias=False)
    return x


def upsample_own(
    x: Float[Array, "B h w K C"], channel: Int[Array, "B H W"]
) -> Float[Array, "B H W K"]:
    """`upsample` to H, W, read at each pixel's own channel alone, 0 to C - 1."""
    batch, height, width = channel.shape
    image = jnp.arange(batch)[:, None, None]
    row, other_row, down = _neighbors(x.shape[1], height, x.dtype)
    column, other_column, across = _neighbors(x.shape[2], width, x.dtype)

    def read(row, column):
        index = image, row[:, None], column[None], slice(None), channel
        return x.at[index].get(mode="clip", wrap_negative_indices=False)

    def blend(column):
        nearest = read(row, column)
        return nearest + down[:, None, None] * (read(other_row, column) - nearest)

    nearest = blend(column)
    return nearest + across[:, None] * (blend(other_column) - nearest)


def _neighbors(size: int, length: int, dtype: DTypeLike) -> tuple[np.ndarray, ...]:
    """Of an axis brought to `length`: (nearest entry, the other one beside, its weight) of each.

    The other's weight is 1/2 at most, and 1/4 where the length is doubled, as in `double_axis`.
    """
    at = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    nearest = np.floor(at + 0.5).astype(np.int32)
    other = np.clip(nearest + np.sign(at - nearest).astype(np.int32), 0, size - 1)
    return nearest, other, np.abs(at - nearest).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def double_axis(x: Float[Array, "*S"], axis: int) -> Float[Array, "*S2"]:
    """Bilinear upsampling of an axis to twice its length, as `jax.image.resize` has it.

    Differs from it in that neighbours are added, backward too, where it takes a product with a
    matrix that is mostly zeros: on a CPU that is several times as slow. A quarter is exact, so that
    fusing the product with the sum rounds no otherwise: every program gives the same bits.
    """
    before, after = _shift(x, x, axis)
    both = jnp.stack([x + 0.25 * (before - x), x + 0.25 * (after - x)], axis=axis + 1)
    return both.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _double_axis_backward(axis, _, gradient):
    shape = gradient.shape
    gradient = gradient.reshape(*shape[:axis], -1, 2, *shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(gradient, i, axis + 1, keepdims=False) for i in range(2))
    before, after = _shift(odd, even, axis)
    own = even + odd
    return (own + 0.25 * (before + after - own),)


double_axis.defvjp(lambda x, axis: (double_axis(x, axis), None), _double_axis_backward)


def _shift(a: Array, b: Array, axis: int) -> tuple[Array, Array]:
    """What lies before each entry of `a`, and after each of `b`; at the ends the other's own."""
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    before = [cut(b, 0, 1), cut(a, 0, -1)]
    after = [cut(b, 1, None), cut(a, -1, None)]
    return jnp.concatenate(before, axis), jnp.concatenate(after, axis)


def input_pyramid(x: Float[Array, "B H W F"], scales: int) -> list[Float[Array, "B h w F"]]:
    """`x` at `scales` sizes from fine to coarse, each half of the one before (rounded up)."""
    pyramid = [x]
    for _ in range(scales - 1):
        pyramid.append(average_pool(pyramid[-1]))
    return pyramid
