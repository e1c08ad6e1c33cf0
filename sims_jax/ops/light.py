"""The light of a photo: what its colours are like as a whole, and photos in the light of another.

A photo moves as a whole: what is dark within it stays so. What was cut from many photos agrees once
they are all in the light of one, and whoever chooses it chooses the mood.

Source: the map of `sims_jax.ops.color`, here of logarithms, for light multiplies: colours moved by
sums would end below black.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from sims_jax.ops.color import color_map

DARK = 0.05  # added to colours before the logarithm: differences far below it hardly count
# Products in full float32: see `sims_jax.ops.color`.
_EXACT = jax.lax.Precision.HIGHEST


@struct.dataclass
class Light:
    """Mean and covariance of the logarithms of a photo's colours."""

    mean: Float[Array, "*B 3"]
    cov: Float[Array, "*B 3 3"]


def measure_light(photo: Float[Array, "*B H W 3"]) -> Light:
    """The light of photos in [0, 1]."""
    colors = jnp.log(photo + DARK)
    mean = colors.mean(axis=(-3, -2))
    centred = colors - mean[..., None, None, :]
    total = jnp.einsum("...hwi,...hwj->...ij", centred, centred, precision=_EXACT)
    return Light(mean=mean, cov=total / (photo.shape[-3] * photo.shape[-2]))


def relight(
    photo: Float[Array, "*B H W 3"], own: Light, reference: Light
) -> Float[Array, "*B H W 3"]:
    """Photos in [0, 1] of light `own`, their colours moved until they would have the reference's.

    Differentiable. Clipped where a colour would leave [0, 1]; a photo of the reference's own light
    stays as it is, up to rounding.
    """
    around = (..., None, None, slice(None))
    linear = _linear_map(own, reference)[..., None, None, :, :]
    return _move(photo, own.mean[around], linear, reference.mean[around])


def relight_pieces(
    photo: Float[Array, "H W 3"], piece: Int[Array, "H W"], own: Light, reference: Light
) -> Float[Array, "H W 3"]:
    """`relight` of a photo of J pieces, each of its own light; where `piece` is -1, of the last."""
    linear = _linear_map(own, reference)[piece]
    return _move(photo, own.mean[piece], linear, reference.mean)


def _linear_map(own: Light, reference: Light) -> Float[Array, "*B 3 3"]:
    return color_map(own.cov, jnp.broadcast_to(reference.cov, own.cov.shape))


def _move(photo, own_mean, linear, mean):
    """Products written out: a matrix product may round to bfloat16."""
    centred = jnp.log(photo + DARK) - own_mean
    moved = (centred[..., :, None] * linear).sum(axis=-2) + mean
    return jnp.clip(jnp.exp(moved) - DARK, 0.0, 1.0)
