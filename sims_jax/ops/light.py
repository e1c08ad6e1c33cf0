"""The light of a photo: what its colours are like as a whole, and photos in the light of another.

A photo moves as a whole: what is dark within it stays so. What was cut from many photos agrees once
they are all in the light of one, and whoever chooses it chooses the mood. How sharp a photo is,
which its camera and its light decide, too, is matched apart (`sharpen`).

Source: the map of `sims_jax.ops.color`, here of logarithms, for light multiplies: colours moved by
sums would end below black. Sharpness: after Bae et al. 2006 ("Two-scale Tone Management for
Photographic Look"), who match the detail of photos.

Differs: the detail of the finest scale beside that of the next, which hardly depends on what a
photo shows; one gain for the whole photo.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from sims_jax.ops.color import color_map, move_colors

SPLINE = (0.0625, 0.25, 0.375, 0.25, 0.0625)  # B3, which smooths
MAX_SHARPENED = 1.5  # times the finest scale: beyond, noise would be all that is seen
SHARPENING_STEPS, SHARPENING_POWER = 3, 1.6  # sharpness grows less than the gain of its scale
DARK = 0.05  # added to colours before the logarithm: differences far below it hardly count
LEAST_DETAIL = 1e-4  # in logarithms: far below a step of 8 bits
# Products in full float32: see `sims_jax.ops.color`.
_EXACT = jax.lax.Precision.HIGHEST


@struct.dataclass
class Light:
    """Mean and covariance of the logarithms of a photo's colours, and how sharp it is."""

    mean: Float[Array, "*B 3"]
    cov: Float[Array, "*B 3 3"]
    sharpness: Float[Array, "*B"]  # differences of the finest scale over those of the next


def measure_light(photo: Float[Array, "*B H W 3"]) -> Light:
    """The light of photos in [0, 1]."""
    colors = jnp.log(photo + DARK)
    mean = colors.mean(axis=(-3, -2))
    centred = colors - mean[..., None, None, :]
    total = jnp.einsum("...hwi,...hwj->...ij", centred, centred, precision=_EXACT)
    cov = total / (photo.shape[-3] * photo.shape[-2])
    return Light(mean=mean, cov=cov, sharpness=_measure_sharpness(colors))


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


def sharpen(photo: Float[Array, "*B H W 3"], reference: Light) -> Float[Array, "*B H W 3"]:
    """Photos in [0, 1], sharper or softer until they are as sharp as the reference.

    colors + (gain - 1) * finest, the gain of the finest scale MAX_SHARPENED or its inverse at most,
    so that a reference far from the photo is not reached.
    """
    colors = jnp.log(photo + DARK)
    finest, gain, sharpened = colors - _smooth(colors, 1), 1.0, colors
    for _ in range(SHARPENING_STEPS):
        gain = gain * (reference.sharpness / _measure_sharpness(sharpened)) ** SHARPENING_POWER
        gain = jnp.clip(gain, 1.0 / MAX_SHARPENED, MAX_SHARPENED)
        sharpened = colors + (gain[..., None, None, None] - 1.0) * finest
    return _to_photo(sharpened)


def _measure_sharpness(colors: Float[Array, "*B H W 3"]) -> Float[Array, "*B"]:
    """1 where there is nothing to see."""
    smooth = _smooth(colors, 1)
    finest, next_finest = colors - smooth, smooth - _smooth(smooth, 2)
    finest, next_finest = (jnp.abs(x).mean(axis=(-3, -2, -1)) for x in (finest, next_finest))
    return (finest + LEAST_DETAIL) / (next_finest + LEAST_DETAIL)


def _smooth(colors: Float[Array, "*B H W 3"], step: int) -> Float[Array, "*B H W 3"]:
    """One scale of the à trous algorithm (Holschneider et al. 1989), its taps `step` apart."""
    for axis in (-3, -2):
        beyond = [(0, 0)] * colors.ndim
        beyond[axis] = (2 * step, 2 * step)
        padded, size = jnp.pad(colors, beyond, mode="edge"), colors.shape[axis]
        colors = sum(
            weight * jax.lax.slice_in_dim(padded, tap * step, tap * step + size, axis=axis)
            for tap, weight in enumerate(SPLINE)
        )
    return colors


def _linear_map(own: Light, reference: Light) -> Float[Array, "*B 3 3"]:
    return color_map(own.cov, jnp.broadcast_to(reference.cov, own.cov.shape))


def _to_photo(colors: Float[Array, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """Back from logarithms."""
    return jnp.clip(jnp.exp(colors) - DARK, 0.0, 1.0)
