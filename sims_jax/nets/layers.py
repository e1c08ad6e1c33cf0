"""What the networks are built of: convolution blocks, norms, one-hot layouts.

The paper's "LayerNorm" is TF-slim's: it normalises over height, width and channels together, which
in Flax would be a GroupNorm of one group. No convolution under it has a bias.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from sims_jax.nets.scales import average_pool, max_pool

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


class LayerNorm(nn.Module):
    """Normalises each example over height, width and channels; scale and bias per channel."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return normalize(x.astype(self.dtype), scale, bias)


@jax.custom_vjp
def normalize(
    x: Float[Array, "B H W F"], scale: Float[Array, "F"], bias: Float[Array, "F"]
) -> Float[Array, "B H W F"]:
    """y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias, of each example.

    Of x's type, computed in float32. Differs from `nn.GroupNorm(num_groups=1)` in that bfloat16
    works under strict promotion, and in its gradient, which is written out: it keeps x alone, and
    needs no sums but two over the pixels of each channel.
    """
    return _normalize_forward(x, scale, bias)[0]


def _normalize_forward(x, scale, bias):
    exact = x.astype(jnp.float32)
    mean = exact.mean(axis=(1, 2, 3), keepdims=True)
    # One pass over x; rounding may take the difference below 0.
    square = jnp.square(exact).mean(axis=(1, 2, 3), keepdims=True)
    rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + NORM_EPSILON)
    y = (exact - mean) * (rate * scale) + bias
    return y.astype(x.dtype), (x, mean, rate, scale)


def _normalize_backward(saved, gradient):
    x, mean, rate, scale = saved
    gradient, centred = gradient.astype(jnp.float32), x.astype(jnp.float32) - mean
    of_bias = gradient.sum(axis=(1, 2), keepdims=True)
    of_scale = rate * (gradient * centred).sum(axis=(1, 2), keepdims=True)
    count = math.prod(x.shape[1:])
    constant = (scale * of_bias).sum(axis=-1, keepdims=True) / count
    slope = (scale * of_scale).sum(axis=-1, keepdims=True) / count
    of_x = rate * (scale * gradient - constant - centred * (rate * slope))
    return of_x.astype(x.dtype), of_scale.sum(axis=(0, 1, 2)), of_bias.sum(axis=(0, 1, 2))


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
