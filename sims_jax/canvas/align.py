"""Alignment: what the transformation network sees, and what becomes of its answer.

The network looks at the box around a retrieved segment and its target component (enlarged by a
margin), resampled to its own small size, and answers with an affine map in that box's coordinates.
Source: SIMS, Sec. 4. The untransformed segment is kept where the transformed one does not overlap
the target better.

Differs: the original looks at the whole frame at half resolution (42 GMAC a segment), which
`box_size=None` restores; and the transformed segment must win by a margin, for resampling blurs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from sims_jax.nets.layers import one_hot_layout
from sims_jax.nets.transformer import Transformer, TransformerConfig
from sims_jax.ops.affine import box_to_frame, crop_labels, crop_resize, identity_affine
from sims_jax.ops.boxes import enlarge_box, mask_box, union_box

# A segment fills its box; a margin lets the network see what the segment must meet.
BOX_MARGIN_FRAC = 0.125  # of its side on each side, as retrieval's context: SIMS, Sec. 4
MIN_GAIN = 0.02  # of overlap; a guess, not measured


def attention_box(
    box_a: Int[Array, "4"],
    box_b: Int[Array, "4"],
    image_size: tuple[int, int],
    box_size: tuple[int, int] | None,
) -> Int[Array, "4"]:
    """The box a network looks at for two segments: their union, enlarged, or the whole frame.

    The frame where `box_size`, the size it is resampled to, is None.
    """
    if box_size is None:
        return jnp.asarray([0, 0, *image_size], dtype=jnp.int32)
    return enlarge_box(union_box(box_a, box_b), BOX_MARGIN_FRAC, image_size)


def transformer_view(
    photo: Float[Array, "H W 3"],
    mask: Bool[Array, "H W"],
    target: Bool[Array, "H W"],
    layout: UInt8[Array, "H W"],
    box: Int[Array, "4"],
    size: tuple[int, int],
    num_classes: int,
    theta: Float[Array, "2 3"] | None = None,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"], Float[Array, "h w channels"]]:
    """What the network sees: (segment's colours, target mask, one-hot layout) of a box at `size`.

    `theta`, in the box's coordinates, disturbs the segment first (training).
    """
    segment = jnp.where(mask[..., None], photo, jnp.zeros_like(photo))
    return (
        crop_resize(segment, box, size, theta),
        crop_resize(target.astype(jnp.float32)[..., None], box, size)[..., 0],
        one_hot_layout(crop_labels(layout, box, size), num_classes),
    )


def align(
    params,
    config: TransformerConfig,
    num_classes: int,
    photo: Float[Array, "n H W 3"],
    mask: Bool[Array, "n H W"],
    target: Bool[Array, "n H W"],
    layout: UInt8[Array, "n H W"],
) -> Float[Array, "n 2 3"]:
    """Affine maps that bring n retrieved segments onto their target components.

    Args:
      params: of `Transformer`.
      photo, mask: the photos the segments are cut from, and the cuts.
      target: the components they are to cover.   layout: the layouts those are of.

    Returns:
      Target to source, pixels from the frame's centre; the identity where that overlaps as well.
    """
    image_size = mask.shape[1:]
    size = config.box_size or image_size

    def look(photo, mask, target, layout):
        box = attention_box(mask_box(mask), mask_box(target), image_size, config.box_size)
        return box, transformer_view(photo, mask, target, layout, box, size, num_classes)

    box, views = jax.vmap(look)(photo, mask, target, layout)
    theta = Transformer(config, num_classes).apply(params, *views)

    def keep_better(theta, box, mask, target_crop):
        cut = mask.astype(jnp.float32)[..., None]
        moved = crop_resize(cut, box, size, jax.lax.stop_gradient(theta))[..., 0]
        still = crop_resize(cut, box, size)[..., 0]
        gain = overlap(moved, target_crop) - overlap(still, target_crop)
        theta = jnp.where(gain > MIN_GAIN, theta, identity_affine())
        return box_to_frame(theta, box, image_size)

    return jax.vmap(keep_better)(theta, box, mask, views[1])


def overlap(a: Float[Array, "h w"], b: Float[Array, "h w"]) -> Float[Array, ""]:
    """Soft intersection over union, Σ min / Σ max; 0 for two empty masks."""
    union = jnp.maximum(a, b).sum()
    return jnp.where(union > 0, jnp.minimum(a, b).sum() / jnp.maximum(union, 1.0), 0.0)
