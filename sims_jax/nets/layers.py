"""What the networks are built of: convolution blocks, pooling, upsampling, one-hot layouts.

The paper's "LayerNorm" is TF-slim's: it normalises over height, width and channels together, which
in Flax would be a GroupNorm of one group. No convolution under it has a bias.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

LEAK = 0.2  # slope of LeakyReLU below 0: SIMS, official code
NORM_EPSILON = 1e-5  # added to the variance; a flat input has variance 0


def one_hot_layout(
    layout: UInt8[Array, "*B H W"], num_classes: int
) -> Float[Array, "*B H W channels"]:
    """One-hot layout with a channel for void: C + 1 channels, the last one is void.

    Args:
      layout: class ids below C; every other id (void is 255) counts as void.
      num_classes: C.
    """
    ids = jnp.minimum(layout, jnp.uint8(num_classes))
    return jax.nn.one_hot(ids, num_classes + 1, dtype=jnp.float32)


def check_layout_channels(layout_onehot: Float[Array, "B H W channels"], num_classes: int) -> None:
    """Raises ValueError unless the layout has C + 1 channels."""
    if layout_onehot.shape[-1] != num_classes + 1:
        raise ValueError(
            f"layout_onehot: expected {num_classes + 1} channels ({num_classes} classes and void), "
            f"found shape {layout_onehot.shape}"
        )


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
    """`average_pool` of each channel of `a` times each of `b`, without these at full size.

    Channels of the first one of `a` come first.
    """
    terms = zip(_window_entries(a), _window_entries(b), strict=True)
    total = sum(x[..., :, None] * y[..., None, :] for x, y in terms)
    return total.reshape(*total.shape[:3], -1) / _window_areas(a)


def _window_entries(x: Float[Array, "B H W F"]) -> list[Float[Array, "B h w F"]]:
    """The nine entries of 3x3 windows with stride 2 (SAME padding with zeros)."""
    (height, above), (width, left) = map(_window_sides, x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), above, left, (0, 0)))
    last = 2 * height - 1, 2 * width - 1
    return [padded[:, i : i + last[0] : 2, j : j + last[1] : 2] for i in range(3) for j in range(3)]


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
    """What `upsample` gives each pixel in one of the C channels alone, its own."""
    batch, height, width = channel.shape
    image = jnp.arange(batch)[:, None, None]
    (above, below, down), (left, right, across) = (
        _neighbors(size, length) for size, length in zip(x.shape[1:3], (height, width), strict=True)
    )

    def read(row, column):
        index = image, row[:, None], column[None], slice(None), channel
        return x.at[index].get(mode="promise_in_bounds")

    def blend(row):
        first = read(row, left)
        return first + across[:, None] * (read(row, right) - first)

    first = blend(above)
    return first + down[:, None, None] * (blend(below) - first)


def _neighbors(size: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of an axis brought to `length`: for each place the two entries beside it, and how far on."""
    at = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    before = np.floor(at).astype(np.int32)
    return before, np.minimum(before + 1, size - 1), (at - before).astype(np.float32)


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


class LayerNorm(nn.Module):
    """Normalises each example over height, width and channels; scale and bias per channel.

    Computed in float32. Differs from `nn.GroupNorm(num_groups=1)` in that bfloat16 works under
    strict promotion.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return normalize(x.astype(jnp.float32), scale, bias).astype(self.dtype)


@jax.custom_vjp
def normalize(
    x: Float[Array, "B H W F"], scale: Float[Array, "F"], bias: Float[Array, "F"]
) -> Float[Array, "B H W F"]:
    """y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias, of each example.

    Its gradient is written out: all sums that it needs are made of two, over the pixels of each
    channel, so that it takes two passes over x and dy; by itself JAX takes several more.
    """
    return _normalize_forward(x, scale, bias)[0]


def _normalize_forward(x, scale, bias):
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    # One pass over x; rounding may take the difference below 0.
    square = jnp.square(x).mean(axis=(1, 2, 3), keepdims=True)
    rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + NORM_EPSILON)
    return (x - mean) * (rate * scale) + bias, (x, mean, rate, scale)


def _normalize_backward(saved, gradient):
    x, mean, rate, scale = saved
    of_bias = gradient.sum(axis=(1, 2), keepdims=True)
    of_scale = rate * (gradient * (x - mean)).sum(axis=(1, 2), keepdims=True)
    count = x[0].size
    constant = (scale * of_bias).sum(axis=-1, keepdims=True) / count
    slope = (scale * of_scale).sum(axis=-1, keepdims=True) / count
    of_x = rate * (scale * gradient - constant - (x - mean) * (rate * slope))
    return of_x, of_scale.sum(axis=(0, 1, 2)), of_bias.sum(axis=(0, 1, 2))


normalize.defvjp(_normalize_forward, _normalize_backward)


_NHWC = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def convolve_3x3(
    x: Float[Array, "B H W F"], kernel: Float[Array, "3 3 F width"]
) -> Float[Array, "B H W width"]:
    """Cross-correlation with zeros around: `nn.Conv`'s 3x3 with stride 1 and SAME padding.

    Differs from it on CPUs alone, in how the kernel's gradient is computed: XLA contracts over
    examples, pixel by pixel, and there are too few of them to keep a CPU's registers full.
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


def _convolve_forward(x, kernel):
    return convolve_3x3(x, kernel), (x, kernel)


def _convolve_backward(saved, gradient):
    x, kernel = saved
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return convolve_3x3(gradient, flipped), jax.lax.platform_dependent(
        x, gradient, cpu=kernel_gradient_by_rows, default=kernel_gradient
    )


convolve_3x3.defvjp(_convolve_forward, _convolve_backward)


def kernel_gradient(x: Float[Array, "B H W F"], gradient: Float[Array, "B H W width"]):
    """As XLA has it: x and the gradient as a convolution over pixels, contracted over examples."""
    return jax.lax.conv_general_dilated(
        x, gradient, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC")
    )


def kernel_gradient_by_rows(x: Float[Array, "B H W F"], gradient: Float[Array, "B H W width"]):
    """The same as a convolution over rows, contracted over examples and columns together.

    The three columns of the kernel are three copies of the gradient, one moved left, one right.
    """
    batch, height, columns, features = x.shape
    width = gradient.shape[-1]
    padded = jnp.pad(gradient, ((0, 0), (0, 0), (1, 1), (0, 0)))
    moved = jnp.concatenate([padded[:, :, 2 - i : 2 - i + columns] for i in range(3)], axis=-1)
    rows = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 0, 2).reshape(features, height, batch * columns),
        moved.transpose(1, 0, 2, 3).reshape(height, batch * columns, 3 * width),
        (1,),
        ((1, 1),),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return rows.reshape(features, 3, 3, width).transpose(1, 2, 0, 3)


class Conv3x3(nn.Module):
    """3x3 convolution to `width` channels, without bias."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W width"]:
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return convolve_3x3(x.astype(self.dtype), kernel.astype(self.dtype))


class ConvBlock(nn.Module):
    """`convs` times: 3x3 convolution to `width` channels, LayerNorm (H, W, C), LeakyReLU(0.2)."""

    width: int
    convs: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W width"]:
        for index in range(self.convs):
            conv = Conv3x3(self.width, self.dtype, name=f"conv_{index}")
            x = LayerNorm(self.dtype, name=f"norm_{index}")(conv(x))
            x = nn.leaky_relu(x, LEAK)
        return x


class Trunk(nn.Module):
    """Convolution groups, a pool after each (first average, then max), and the mean over space.

    Source: SIMS, official code: the trunk shared by its transformation and ordering networks.
    Differs: the mean is over whatever size is left, which is the code's 8x16 at its own input size;
    without `final_pool` there is none, and all positions go on to the head.
    """

    widths: tuple[int, ...]
    convs: tuple[int, ...]
    final_pool: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B features"]:
        x = x.astype(self.dtype)
        for index, (width, convs) in enumerate(zip(self.widths, self.convs, strict=True)):
            x = ConvBlock(width, convs, self.dtype, name=f"group_{index}")(x)
            x = average_pool(x) if index == 0 else max_pool(x)
        return x.mean(axis=(1, 2)) if self.final_pool else x.reshape(x.shape[0], -1)
