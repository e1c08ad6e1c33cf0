"""Training canvases from one photo: what composition would give, but with the truth known.

Every segment of a photo keeps its own pixels and takes the *shape* and the *light* of a donor, a
segment of its class that retrieval found in another photo: the donor's mask, aligned as composition
aligns it, is the stencil, and the donor's colour statistics are the target of the colour transfer.
What it leaves empty is another donor's, if the canvas has layers. Then the same elision as in
composition. Some segments, and some whole canvases, are left empty, so that the network also learns
to do without. Source: SIMS, Sec. 6.

Differs: stencils are real retrievals, aligned by the transformer, instead of the best of 100 random
photos; colours move segment to segment, not box to box, and, where asked, a random part of the way.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from sims_jax.canvas.compose import CanvasConfig, elide
from sims_jax.config import check_numbers
from sims_jax.labels import LabelSpace
from sims_jax.ops.affine import look_up
from sims_jax.ops.bits import read_bits
from sims_jax.ops.color import color_map, move_colors
from sims_jax.ops.light import Light, measure_light, relight
from sims_jax.types import Canvas

DARKEST = 0.3  # of another photo's light, in `relight_both`


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """How much is changed and how much is missing.

    Args:
      transfer_share: share of pieces whose colours move towards their donor's.
      transfer_least: least part of the way they go; the part is uniform between it and 1. Colours
        that always go all the way say little of the truth, and f paints softer.
      missing_share: share of segments left out.
      empty_share: share of canvases that are wholly empty.
      relight_share: share of the photos that are brought into another light, canvas and truth
        alike, so that the network learns to paint in the light that it is given.
    """

    transfer_share: float
    transfer_least: float
    missing_share: float
    empty_share: float
    relight_share: float

    def __post_init__(self):
        shares = (field.name for field in dataclasses.fields(self))  # the least part is one, too
        check_numbers(self, most=1, **dict.fromkeys(shares, 0))


@struct.dataclass
class Donors:
    """For each piece of a photo: its segment's own colours, and a donor's shape and colours."""

    own_mean: Float[Array, "*B J 3"]
    own_cov: Float[Array, "*B J 3 3"]
    mean: Float[Array, "*B J 3"]
    cov: Float[Array, "*B J 3 3"]
    mask: UInt32[Array, "*B J words"]  # the donor's pixels in its own photo's frame, packed
    affine: Float[Array, "*B J 2 3"]  # to the donor's frame, pixels from the centre
    found: Bool[Array, "*B J"]  # retrieval had a donor


def simulate(
    key: Key[Array, ""],
    photo: Float[Array, "H W 3"],
    component: Int[Array, "H W"],
    layout: UInt8[Array, "H W"],
    donors: Donors,
    simulation: SimulationConfig,
    config: CanvasConfig,
    labels: LabelSpace,
) -> Canvas:
    """A canvas whose true photo is `photo`. One example; `vmap` for batches."""
    keys = jax.random.split(key, 5)
    pieces = donors.found.shape
    count = pieces[0] // config.layers
    transferred = jax.random.bernoulli(keys[0], simulation.transfer_share, pieces)
    part = jax.random.uniform(keys[4], pieces, minval=simulation.transfer_least)
    part = jnp.where(transferred, part, jnp.zeros_like(part))
    missing = jax.random.bernoulli(keys[1], simulation.missing_share, (count,))
    empty = jax.random.bernoulli(keys[2], simulation.empty_share)
    usable = donors.found & ~jnp.tile(missing | empty, config.layers)
    piece = jnp.full_like(component, -1)
    for first in reversed(range(0, count * config.layers, count)):
        layer = jnp.where(component >= 0, component + first, -1)
        piece = jnp.where((layer >= 0) & usable[layer] & stencil(layer, donors), layer, piece)
    present = piece >= 0
    rgb = _transfer_pieces(photo, piece, donors, part)
    canvas = Canvas(
        rgb=jnp.where(present[..., None], rgb, jnp.zeros_like(rgb)),
        mask=present.astype(jnp.float32),
        source=piece,
        layout=layout,
    )
    return elide(keys[3], canvas, config, labels)


def relight_both(
    key: Key[Array, ""],
    canvas: Canvas,
    photo: Float[Array, "H W 3"],
    other: Light,
    simulation: SimulationConfig,
) -> tuple[Canvas, Float[Array, "H W 3"]]:
    """A canvas and its true photo, some of them in the light of another photo, or darker still.

    An empty canvas says nothing of light, and its photo keeps its own.
    """
    keys = jax.random.split(key)
    darker = jax.random.uniform(keys[0], minval=jnp.log(DARKEST), maxval=0.0)
    own, new = measure_light(photo), other.replace(mean=other.mean + darker)
    there = canvas.mask > 0
    moved = jax.random.bernoulli(keys[1], simulation.relight_share) & there.any()
    rgb = jnp.where(moved & there[..., None], relight(canvas.rgb, own, new), canvas.rgb)
    return canvas.replace(rgb=rgb), jnp.where(moved, relight(photo, own, new), photo)


def stencil(piece: Int[Array, "H W"], donors: Donors) -> Bool[Array, "H W"]:
    """Where the aligned donor of a pixel's piece has a pixel, too (nearest sampling).

    Reads one bit a pixel: no N × H × W stack is made.
    """
    height, width = piece.shape
    source_y, source_x = (jnp.round(at).astype(jnp.int32) for at in look_up(donors.affine, piece))
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    pixel = jnp.where(inside, source_y * width + source_x, 0)
    return inside & read_bits(donors.mask, piece, pixel)


def _transfer_pieces(photo, piece, donors, part):
    """x + part ((x − μ_own) T + μ_donor − x) for every pixel of each piece, clipped."""
    change = color_map(donors.own_cov, donors.cov) - jnp.eye(3)
    linear = jnp.eye(3) + part[:, None, None] * change
    target = donors.own_mean + part[:, None] * (donors.mean - donors.own_mean)
    moved = move_colors(photo, donors.own_mean[piece], linear[piece], target[piece])
    return jnp.clip(moved, 0.0, 1.0)
