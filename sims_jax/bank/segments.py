"""Segments of a layout: its connected components, smoothed and joined across thin classes.

The paper's code joins what only poles and signs separate; all else follows design.md,
"Components". Letters as in `sims_jax.types`.

Annotators draw the sky between bare branches as specks of sky in a tree, and a segment with such
an outline is neither found nor pasted well: its own photo's branches do not fit its holes. So the
outlines between classes without a shape of their own may be smoothed first. Where segments
are clipped to the layout, f still sees it as it was drawn.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, UInt8

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


def split_layout(
    layouts: UInt8[Array, "B H W"],
    spec: BankSpec,
    instances: Integer[Array, "B H W"] | None = None,
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

    Source: SIMS, Sec. 4 and its code. Differs: joins across all thin classes together, and
    `spec.smoothing_frac` of the frame's height smooths the outlines of context classes first.
    """
    if instances is None:
        instances = jnp.zeros(layouts.shape, jnp.int32)
    return jax.lax.map(lambda one: _split_one(*one, spec), (layouts, instances))


def _split_one(
    layout: UInt8[Array, "H W"], instance: Integer[Array, "H W"], spec: BankSpec
) -> Segments:
    context = spec.labels.ids(spec.labels.context)
    layout = smooth_labels(layout, context, round(spec.smoothing_frac * layout.shape[0]))
    kind = _segment_kind(layout, instance, context)
    labelled = layout != VOID
    roots = label_components(kind, labelled)
    thin = spec.labels.ids(spec.labels.thin)
    if thin:
        roots = join_across(roots, kind, is_one_of(layout, thin))
    min_area_px = math.ceil(spec.min_area_frac * layout.size)
    component, area_px, first, left_out = rank_components(roots, min_area_px, spec.max_segments)
    present = area_px > 0
    first = jnp.where(present, first, 0)
    return Segments(
        component=component,
        class_id=jnp.where(present, layout.reshape(-1)[first].astype(jnp.int32), -1),
        area_px=area_px,
        box_yx=component_boxes(component, spec.max_segments),
        left_out=left_out,
    )


def _segment_kind(
    layout: UInt8[Array, "H W"], instance: Integer[Array, "H W"], context: tuple[int, ...]
) -> Int[Array, "H W"]:
    """One integer a pixel; only pixels of equal kind can be of one segment."""
    instance = jnp.where(is_one_of(layout, context), 0, instance.astype(jnp.int32))
    return layout.astype(jnp.int32) + (instance << _INSTANCE_SHIFT)
