"""Segments of a layout: its connected components, smoothed, joined across thin classes, cut.

The paper's code joins what only poles and signs separate; all else follows design.md,
"Components". Letters as in `sims_jax.types`.

Annotators draw the sky between bare branches as specks of sky in a tree, and a segment with such
an outline is neither found nor pasted well: its own photo's branches do not fit its holes. So the
outlines between classes without a shape of their own may be smoothed first. Where segments
are clipped to the layout, f still sees it as it was drawn.

A row of parked cars is one component for which the bank has nothing: no other such line of cars has
its outline. In a layout for which photos are wanted it may be cut, so that every piece finds a car.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, UInt8

from sims_jax.labels import VOID
from sims_jax.ops.components import (
    component_boxes,
    is_one_of,
    join_across,
    label_components,
    rank_components,
)
from sims_jax.ops.morphology import smooth_labels
from sims_jax.types import BankSpec, Segments

# Class and instance share one integer: classes are uint8, so the instance starts at bit 8.
_INSTANCE_SHIFT = 8
# Of wide things, which are cut.
MOST_ASPECT = 1000  # of what may be said that one thing has; none is so wide
_PIECE_SHARE = 2 / 3  # a piece's aspect, of what one thing may have
_PIECE_AREAS = 4  # its mean area at least, in the smallest that a segment has
_LOWEST = 3  # nowhere does a thing count as lower than its mean height over this
_MOST_PIECES = 128  # of one thing: the width of a table
_ASPECT_UNIT = 2**16  # aspects are integers, the same on all devices, below 2^31 to 32,767 columns


def split_layout(
    layouts: UInt8[Array, "B H W"],
    spec: BankSpec,
    instances: Integer[Array, "B H W"] | None = None,
    max_aspect: float = 0.0,
) -> Segments:
    """Splits layouts into their segments.

    A segment is an 8-connected component of one class (and one instance, unless the class is
    a context class), together with those of the same class and instance that touch the same
    component of all thin classes together. Void belongs to none. Components smaller than
    `spec.min_area_frac` of the frame are dropped, then the `spec.max_segments` largest kept.

    Args:
      layouts: class ids at `spec.image_size`, void 255.
      spec: what the bank and the layouts have in common.
      instances: instance ids below 2^16, 0 where there is none.
      max_aspect: things (of no context class, neither planar nor thin, without an instance id) that
        are wider, in their own heights, are cut into pieces side by side; 0: none is. Not for a
        bank.

    Source: SIMS, Sec. 4 and its code. Differs: joins across all thin classes together;
    `spec.smoothing_frac` of the frame's height smooths the outlines of context classes first; wide
    things may be cut.
    """
    if instances is None:
        instances = jnp.zeros(layouts.shape, jnp.int32)
    return jax.lax.map(lambda one: _split_one(*one, spec, max_aspect), (layouts, instances))


@functools.partial(jax.jit, static_argnames="spec")
def cut_off(
    segments: Segments, off: Bool[Array, "B H W"], layouts: UInt8[Array, "B H W"], spec: BankSpec
) -> tuple[Segments, Bool[Array, "B"]]:
    """Segments of layouts, of which some pixels are cut off; and in which layouts any are.

    What is cut off a segment and what is left of it become the components that they consist of,
    joined across thin classes again. What is smaller than a segment may be is not cut off. Nothing
    is left out for a cut: a layout in which there are not numbers enough stays as it is.
    """
    return jax.lax.map(lambda one: _cut_off_one(*one, spec), (segments, off, layouts))


def _cut_off_one(
    segments: Segments, off: Bool[Array, "H W"], layout: UInt8[Array, "H W"], spec: BankSpec
) -> tuple[Segments, Bool[Array, ""]]:
    component, number, count = segments.component, segments.class_id.size, off.size
    kind = jnp.where(off, component + number, component)
    roots = _component_roots(kind, component >= 0, layout, spec)
    area_px = jnp.zeros(count + 1, jnp.int32).at[roots].add(1)
    large = (component >= 0) & (area_px[roots] >= _min_area_px(spec))
    # In tables of segments the last row is of the pixels of none, whose number is -1.
    none = jnp.full(number + 1, count, jnp.int32)
    is_cut = jnp.zeros(number + 1, bool).at[component].max(off & large)
    # All else is known by its segment's first pixel, or where that is cut by its first part.
    pixel = jnp.arange(count, dtype=jnp.int32).reshape(component.shape)
    first = none.at[component].min(pixel).at[-1].set(count)
    first_part = none.at[component].min(jnp.where(large, roots, count))
    others = jnp.where(is_cut, first_part, first)[component]
    roots = jnp.where(is_cut[component] & large, roots, others)
    classes = segments.class_id[component].astype(jnp.uint8)
    parts = _number_components(roots, classes, 1, spec.max_segments)
    cut = is_cut.any() & (parts.left_out == 0)
    parts = parts.replace(left_out=segments.left_out)
    return jax.tree.map(lambda a, b: jnp.where(cut, a, b), parts, segments), cut


def _split_one(
    layout: UInt8[Array, "H W"], instance: Integer[Array, "H W"], spec: BankSpec, max_aspect: float
) -> Segments:
    context = spec.labels.ids(spec.labels.context)
    layout = smooth_labels(layout, context, round(spec.smoothing_frac * layout.shape[0]))
    kind = _segment_kind(layout, instance, context)
    roots = _component_roots(kind, layout != VOID, layout, spec)
    segments = _number_components(roots, layout, _min_area_px(spec), spec.max_segments)
    if max_aspect <= 0:
        return segments
    pieces = _number_components(
        _piece_roots(segments, instance, spec, max_aspect), layout, 1, spec.max_segments
    )
    return pieces.replace(left_out=segments.left_out)


def _component_roots(
    kind: Int[Array, "H W"], mask: Bool[Array, "H W"], layout: UInt8[Array, "H W"], spec: BankSpec
) -> Int[Array, "H W"]:
    """The root of each pixel's component of one kind, joined across thin classes."""
    roots = label_components(kind, mask)
    thin = spec.labels.ids(spec.labels.thin)
    return join_across(roots, kind, is_one_of(layout, thin)) if thin else roots


def _number_components(
    roots: Int[Array, "H W"], layout: UInt8[Array, "H W"], min_area_px: int, max_segments: int
) -> Segments:
    component, area_px, first, left_out = rank_components(roots, min_area_px, max_segments)
    present = area_px > 0
    first = jnp.where(present, first, 0)
    return Segments(
        component=component,
        class_id=jnp.where(present, layout.reshape(-1)[first].astype(jnp.int32), -1),
        area_px=area_px,
        box_yx=component_boxes(component, max_segments),
        left_out=left_out,
    )


def _min_area_px(spec: BankSpec) -> int:
    return max(1, math.ceil(spec.min_area_frac * math.prod(spec.image_size)))


def _segment_kind(
    layout: UInt8[Array, "H W"], instance: Integer[Array, "H W"], context: tuple[int, ...]
) -> Int[Array, "H W"]:
    """One integer a pixel; only pixels of equal kind can be of one segment."""
    instance = jnp.where(is_one_of(layout, context), 0, instance.astype(jnp.int32))
    return layout.astype(jnp.int32) + (instance << _INSTANCE_SHIFT)


def _piece_roots(
    segments: Segments, instance: Integer[Array, "H W"], spec: BankSpec, max_aspect: float
) -> Int[Array, "H W"]:
    """Roots of the pieces of wide things, cut from top to bottom, and of all other segments.

    Each column adds one over the height around it to a thing's aspect: the far cars of a row, which
    are less high, become narrower pieces than the near ones.

    Returns:
      The root at each pixel, as `join_across` gives those of components.
    """
    component, width = segments.component, segments.component.shape[1]
    number, count = segments.class_id.size, component.size
    x = jnp.arange(width, dtype=jnp.int32)
    x0, x1 = segments.box_yx[:, 1:2], segments.box_yx[:, 3:]
    column = jnp.broadcast_to(x, component.shape)
    # In a table of components the last row is of the pixels of none, whose number is -1.
    column_px = jnp.zeros((number + 1, width), jnp.int32).at[component, column].add(1)[:-1]
    mean_px = segments.area_px[:, None] // jnp.maximum(x1 - x0, 1)
    # The height around a column: the mean as far to both sides as half the thing is high.
    start, stop = jnp.maximum(x - mean_px // 2, x0), jnp.minimum(x + mean_px // 2 + 1, x1)
    before = jnp.pad(jnp.cumsum(column_px, axis=1), ((0, 0), (1, 0)))
    before_start, before_stop = (jnp.take_along_axis(before, i, axis=1) for i in (start, stop))
    columns = jnp.maximum(stop - start, 1)
    lowest_px = columns * jnp.maximum(mean_px // _LOWEST, 1)
    aspect = _ASPECT_UNIT * columns // jnp.maximum(before_stop - before_start, lowest_px)
    aspect = jnp.where((x >= x0) & (x < x1), aspect, 0)

    until = jnp.cumsum(aspect, axis=1)
    total, most = until[:, -1:], round(max_aspect * _ASPECT_UNIT)
    of_one = max(1, round(_PIECE_SHARE * most))
    room = segments.area_px[:, None] // (_PIECE_AREAS * _min_area_px(spec))
    pieces = jnp.clip(jnp.minimum((total + of_one // 2) // of_one, room), 1, _MOST_PIECES)
    labels = spec.labels
    others = labels.ids((*labels.context, *labels.planar, *labels.thin))
    whole = (total <= most) | is_one_of(segments.class_id, others)[:, None]
    pieces = jnp.where(whole, 1, pieces)
    # Nothing is left out for a cut: where no number is free, things stay whole.
    free = number - jnp.sum(segments.valid, dtype=jnp.int32)
    pieces = jnp.where(jnp.cumsum(pieces - 1, axis=0) <= free, pieces, 1)
    share = jnp.maximum((total + pieces - 1) // pieces, 1)
    piece = jnp.pad((until - aspect) // share, ((0, 1), (0, 0)))[component, column]

    # A piece is known by its first pixel, as a component is.
    place = component, jnp.where(instance == 0, piece, 0)
    pixel = jnp.arange(count, dtype=jnp.int32).reshape(component.shape)
    first = jnp.full((number + 1, _MOST_PIECES), count, jnp.int32).at[place].min(pixel)
    return jnp.where(component < 0, count, first[place])
