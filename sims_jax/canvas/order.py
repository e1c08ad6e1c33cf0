"""From pairwise answers to one back-to-front order.

The ordering network answers only about pairs that overlap, and its answers may contradict each
other. They are accepted from the most certain to the least (ranked pairs, Tideman 1987), and one
that would close a cycle with those before it is dropped: so a cycle is broken at its least certain
answer. What no answer decides follows the prior. Source: SIMS, Sec. 5; the original sorts by a
global class order and lets pairwise answers swap neighbours, which a cycle can leave undecided.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from sims_jax.canvas.align import attention_box
from sims_jax.nets.layers import one_hot_layout
from sims_jax.nets.ordering import Ordering, OrderingConfig, OrderingOutput
from sims_jax.ops.affine import crop_labels, crop_resize
from sims_jax.ops.boxes import mask_box


def prior_key(
    class_id: Int[Array, "*B N"], lowest_px: Int[Array, "*B N"], planar_ids: tuple[int, ...]
) -> Int[Array, "*B N"]:
    """The prior's depth order: larger lies in front.

    Planar classes lie behind everything else; of two others, the one whose lowest pixel is lower in
    the frame is in front.

    Args:
      class_id: classes, -1 at padding.
      lowest_px: y just below the segment's lowest pixel (`box_yx[..., 2]`).
      planar_ids: the ground's classes.
    """
    planar = jnp.isin(class_id, jnp.asarray(planar_ids, dtype=class_id.dtype))
    behind = jnp.max(lowest_px) + 1
    return jnp.where(planar, lowest_px - behind, lowest_px)


def rank_by_prior(key: Int[Array, "N"]) -> Int[Array, "N"]:
    """Ranks of segments, 0 farthest back, by `prior_key` alone."""
    return jnp.argsort(jnp.argsort(key, stable=True)).astype(jnp.int32)


def stack_layers(rank: Int[Array, "N"], layers: int) -> Int[Array, "J"]:
    """Ranks of all pieces: what fills segments lies behind them all, and the next behind that."""
    count = rank.shape[0]
    return jnp.concatenate([rank + (layers - 1 - layer) * count for layer in range(layers)])


def rank_by_answers(
    pair: Int[Array, "M 2"],
    first_logit: Float[Array, "M"],
    asked: Bool[Array, "M"],
    key: Int[Array, "N"],
) -> Int[Array, "N"]:
    """Ranks of segments, 0 farthest back, that obey the answers and otherwise `key`.

    Args:
      pair: (a, b), indices of segments.
      first_logit: log odds that a lies in front of b; its size is the certainty.
      asked: which pairs count.
      key: the prior, `prior_key` or ranks by it; ties go to the smaller index.

    Returns:
      A permutation of 0..N-1.
    """
    n = key.shape[0]
    front = jnp.where(first_logit > 0, pair[:, 0], pair[:, 1])
    back = jnp.where(first_logit > 0, pair[:, 1], pair[:, 0])
    certainty = jnp.where(asked, jnp.abs(first_logit), -jnp.ones_like(first_logit))
    by_certainty = jnp.argsort(-certainty)

    def accept(over, answer):
        """`over[i, j]`: i lies in front of j, by the answers so far and their consequences."""
        i, j = front[answer], back[answer]
        closes_cycle = over[j, i] | (i == j)
        above = over[:, i].at[i].set(True)
        below = over[j, :].at[j].set(True)
        extended = over | (above[:, None] & below[None, :])
        return jnp.where(asked[answer] & ~closes_cycle, extended, over), None

    over, _ = jax.lax.scan(accept, jnp.zeros((n, n), dtype=bool), by_certainty)
    return _rank_topologically(over, key)


def _rank_topologically(over: Bool[Array, "N N"], key: Int[Array, "N"]) -> Int[Array, "N"]:
    n = key.shape[0]
    last = jnp.iinfo(key.dtype).max

    def place_next(carry, position):
        rank, placed = carry
        blocked = (over & ~placed[None, :]).any(axis=1) | placed
        lowest = jnp.argmin(jnp.where(blocked, last, key))
        return (rank.at[lowest].set(position), placed.at[lowest].set(True)), None

    start = (jnp.zeros(n, dtype=jnp.int32), jnp.zeros(n, dtype=bool))
    (rank, _), _ = jax.lax.scan(place_next, start, jnp.arange(n, dtype=jnp.int32))
    return rank


def overlapping_pairs(
    mask: Bool[Array, "N H W"], max_pairs: int
) -> tuple[Int[Array, "M 2"], Bool[Array, "M"]]:
    """The pairs of masks that share most pixels, M = `max_pairs` of them at most.

    Returns:
      (a, b) with a < b, and which of the M entries share a pixel at all; those come first.
    """
    n = mask.shape[0]
    flat = mask.reshape(n, -1).astype(jnp.float32)
    shared_px = jnp.triu(flat @ flat.T, k=1).ravel()
    count, index = jax.lax.top_k(shared_px, min(max_pairs, n * n))
    pair = jnp.stack([index // n, index % n], axis=1).astype(jnp.int32)
    return pair, count > 0


def ordering_view(
    mask_a: Bool[Array, "H W"],
    mask_b: Bool[Array, "H W"],
    layout: UInt8[Array, "H W"],
    box_size: tuple[int, int] | None,
    num_classes: int,
) -> tuple[Float[Array, "h w channels"], Float[Array, "h w"], Float[Array, "h w"]]:
    """What the network sees of a pair: (one-hot layout, mask A, mask B) in the pair's box."""
    size = box_size or mask_a.shape
    box = attention_box(mask_box(mask_a), mask_box(mask_b), mask_a.shape, box_size)
    masks = jnp.stack([mask_a, mask_b], axis=-1).astype(jnp.float32)
    a, b = jnp.moveaxis(crop_resize(masks, box, size), -1, 0)
    return one_hot_layout(crop_labels(layout, box, size), num_classes), a, b


def ask_order(
    params,
    config: OrderingConfig,
    num_classes: int,
    mask_a: Bool[Array, "J H W"],
    mask_b: Bool[Array, "J H W"],
    class_a: Int[Array, "M"],
    class_b: Int[Array, "M"],
    layout: UInt8[Array, "H W"],
) -> Float[Array, "M"]:
    """Log odds that A lies in front of B, for M pairs of one layout."""

    def look(mask_a, mask_b):
        return ordering_view(mask_a, mask_b, layout, config.box_size, num_classes)

    answer = Ordering(config, num_classes).apply(params, *jax.vmap(look)(mask_a, mask_b))
    return front_logit(answer, class_a, class_b)


def front_logit(
    answer: OrderingOutput, class_a: Int[Array, "M"], class_b: Int[Array, "M"]
) -> Float[Array, "M"]:
    """Log odds that A lies in front: by class (the paper's answer), within a class by A or B."""
    by_class = jnp.take_along_axis(answer.class_logits, class_a[:, None], axis=1)
    by_class -= jnp.take_along_axis(answer.class_logits, class_b[:, None], axis=1)
    return jnp.where(class_a == class_b, answer.first_logit, by_class[:, 0])
