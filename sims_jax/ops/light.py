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

from sims_jax.ops.color import color_map, move_colors

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
    colors = jnp.log(photo + DARK)
    return _to_photo(move_colors(colors, own.mean[around], linear, reference.mean[around]))


def relight_pieces(
    photo: Float[Array, "H W 3"], piece: Int[Array, "H W"], own: Light, reference: Light
) -> Float[Array, "H W 3"]:
    """`relight` of a photo of J pieces, each of its own light; where `piece` is -1 it stays."""
    there = (piece >= 0)[..., None]
    mean = own.mean[piece]
    # Where there is none, a colour that cannot leave the range: else its slope might not be finite.
    colors = jnp.where(there, jnp.log(photo + DARK), mean)
    moved = move_colors(colors, mean, _linear_map(own, reference)[piece], reference.mean)
    return jnp.where(there, _to_photo(moved), photo)


def _linear_map(own: Light, reference: Light) -> Float[Array, "*B 3 3"]:
    return color_map(own.cov, jnp.broadcast_to(reference.cov, own.cov.shape))


def _to_photo(colors: Float[Array, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """Back from logarithms."""
    return jnp.clip(jnp.exp(colors) - DARK, 0.0, 1.0)
