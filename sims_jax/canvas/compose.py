"""Composition: at each pixel the frontmost piece, and elision along the pieces' boundaries.

Source: SIMS, Sec. 5 and 6. Elision takes away what a paste cannot get right: the seam (inner band)
and the ground around a thing, where its shadow falls (outer band). Composed and simulated canvases
go through the same `elide`, so that the synthesis network meets what it was trained on.

Differs: a canvas has layers, of further candidates, which show where those before leave a component
empty; the bands end at half a segment's depth, or thin things would vanish, and nothing is elided
along the frame; elided pixels count as absent in the mask (they stay white); colours are read
bicubically, where a spatial transformer reads bilinearly, or moved segments would be soft.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from sims_jax.bank.photo import WHITE
from sims_jax.config import check_numbers
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.ops.affine import look_up, sample_affine, sample_cuts, sample_photos
from sims_jax.ops.components import is_one_of
from sims_jax.ops.morphology import dilate, distance_to_change, distance_to_higher
from sims_jax.types import Canvas, Pieces, Segments

ADHERENCES = ("segment", "layout")
HALF = 0.5  # a pixel of which a warped cut covers this much is the piece's


@dataclasses.dataclass(frozen=True)
class CanvasConfig:
    """How segments become a canvas.

    Args:
      adherence: "segment": they keep their own silhouettes and the layout follows them (the paper);
        "layout": each is clipped to its component and the layout stays as given.
      inner_band_frac: width of the inner band on a side of a boundary, over the frame's height.
      inner_sides: 2: the inner band is on each side of a boundary (the paper). 1: on that of the
        lower piece number alone: between segments that of the one that begins higher in the frame,
        which mostly lies behind; beside a piece that fills, that of a segment's own one; and none
        beside empty places.
      inner_share: share of its pixels that is elided.
      outer_band_frac: width of the band on the ground around things, over the frame's height.
      outer_share: share of its pixels that is elided.
      layers: of a segment's candidates, how many are pasted: where one leaves the component empty,
        another shows (`bank/cover.py`). 1: the chosen one alone, as in the paper. A further one
        costs an alignment; where a bank is sharded, also its pixels.
    """

    adherence: str
    inner_band_frac: float
    inner_sides: int
    inner_share: float
    outer_band_frac: float
    outer_share: float
    layers: int

    def __post_init__(self):
        if self.adherence not in ADHERENCES:
            raise InputError(f"adherence: found {self.adherence!r}, expected one of {ADHERENCES}")
        check_numbers(self, most=1, inner_share=0, outer_share=0)
        check_numbers(self, most=2, inner_sides=1)
        check_numbers(self, layers=1)


def warp_cut(cut: Bool[Array, "H W"], affine: Float[Array, "2 3"]) -> Bool[Array, "H W"]:
    """A whole cut, warped; target to source, pixels from the centre."""
    warped = sample_affine(cut.astype(jnp.float32)[..., None], jax.lax.stop_gradient(affine))
    return warped[..., 0] >= HALF


def frontmost(warped: Bool[Array, "N H W"], rank: Int[Array, "N"]) -> Int[Array, "H W"]:
    """The one of warped cuts that is seen at each pixel, -1 where there is none.

    Args:
      rank: 0 farthest back, all different.
    """
    height = jnp.where(warped, rank[:, None, None] + 1, 0)
    return jnp.where(height.any(axis=0), jnp.argmax(height, axis=0), -1).astype(jnp.int32)


def paste(
    pieces: Pieces,
    affine: Float[Array, "J 2 3"],
    segments: Segments,
    layout: UInt8[Array, "H W"],
    front: Int[Array, "H W"] | None = None,
) -> Canvas:
    """Pastes pieces, warped, onto a canvas; differentiable in `affine`.

    Colours are read once for each pixel, however many layers there are.

    Args:
      pieces: of one layout, one for each of its N segments; then N that fill them; ...
      affine: of each piece, target to source, pixels from the centre.
      segments: the layout's components, to which pieces are clipped.
      front: the segments that keep their own silhouettes instead, as `frontmost` has them; the
        canvas's layout is then theirs.
    """
    count, still = segments.class_id.shape[0], jax.lax.stop_gradient(affine)

    def fill(layer, piece):
        own = jnp.where(segments.component >= 0, segments.component + layer * count, -1)
        component = jnp.where(own >= 0, pieces.component[own], -1)
        cut = sample_cuts(
            pieces.photos.component, pieces.place[own], component, *look_up(still, own)
        )
        return jnp.where((piece < 0) & (cut >= HALF), own, piece)

    piece, first = (jnp.full(layout.shape, -1, jnp.int32), 0) if front is None else (front, 1)
    # A loop, so that its result is computed once: see `sample_photos`.
    piece = jax.lax.fori_loop(first, affine.shape[0] // count, fill, piece)
    present = piece >= 0
    if front is not None:
        class_id = segments.class_id[piece % count]
        layout = jnp.where(present, class_id.astype(layout.dtype), layout)
    # A cut fades beyond its photo's frame, but colours do not.
    place = jnp.where(present, pieces.place[piece], -1)
    rgb = sample_photos(pieces.photos.photo, place, *look_up(affine, piece))
    return Canvas(
        rgb=jnp.clip(rgb / WHITE, 0.0, 1.0),
        mask=present.astype(jnp.float32),
        source=piece,
        layout=layout,
    )


def elide(key: Key[Array, ""], canvas: Canvas, config: CanvasConfig, labels: LabelSpace) -> Canvas:
    """Takes a random share of the pixels of the inner and the outer bands from a canvas."""
    height_px = canvas.source.shape[0]
    inner_key, outer_key = jax.random.split(key)
    inner_px = round(config.inner_band_frac * height_px)
    inner = _inner_band(canvas.source, inner_px, config.inner_sides)
    outer = _outer_band(canvas.layout, labels, round(config.outer_band_frac * height_px))
    shape = canvas.source.shape
    elided = inner & jax.random.bernoulli(inner_key, config.inner_share, shape)
    elided |= outer & jax.random.bernoulli(outer_key, config.outer_share, shape)
    elided &= canvas.source >= 0
    return canvas.replace(
        rgb=jnp.where(elided[..., None], jnp.ones_like(canvas.rgb), canvas.rgb),
        mask=jnp.where(elided, jnp.zeros_like(canvas.mask), canvas.mask),
    )


def _inner_band(source: Int[Array, "H W"], width_px: int, sides: int) -> Bool[Array, "H W"]:
    """Pixels nearer than `width_px`, and than half the segment's depth, to another piece.

    On one side alone: to a piece of a higher number. Segments are numbered in raster order, and
    pieces that fill them come after all of these.
    """
    if width_px == 0:
        return jnp.zeros(source.shape, dtype=bool)
    distance_px = distance_to_change(source, 2 * width_px)  # 1 at the boundary
    # The depth need not be known beyond twice the band: half of it is then the full band already.
    depth_px = jax.ops.segment_max(distance_px.ravel(), source.ravel() + 1, source.size + 1)
    limit_px = jnp.minimum(width_px, depth_px[source + 1] // 2)
    if sides == 1:
        distance_px = distance_to_higher(source, width_px + 1)
    return distance_px <= limit_px


def _outer_band(
    layout: UInt8[Array, "H W"], labels: LabelSpace, width_px: int
) -> Bool[Array, "H W"]:
    """Ground within `width_px` of a thing."""
    if width_px == 0:
        return jnp.zeros(layout.shape, dtype=bool)
    ground = is_one_of(layout, labels.ids(labels.planar))
    void = layout >= labels.num_classes
    thing = ~(ground | void | is_one_of(layout, labels.ids(labels.context)))
    return ground & dilate(thing, width_px)
