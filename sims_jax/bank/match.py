"""Retrieval: for every segment of a layout the bank's rows with the best shape and context.

On the retrieval grid, for a query segment L and a row P of the same class:

    a = |P and L|             b = |P or L|                                 (masks)
    c = cells inside both enlarged boxes with equal labels, neither void   (contexts)
    d = labelled cells of L's enlarged box + of P's - c
    score = (a << s) // b + (c << s) // d,   s = 31 - bits(h w),   0 / 0 = 0

in uint32, so that every backend and device count agrees to the last tie; ties go to the
smaller row, which is the smaller (photo, component) because rows are sorted.

Source: SIMS, Sec. 4 (mask and context intersection over union). Differs: integers; a box is
enlarged by 1/8 of its side on each side, rounded outwards and clipped to the frame.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, UInt8, UInt32

from sims_jax.bank.segments import grid_masks, split_layout
from sims_jax.labels import VOID
from sims_jax.ops.affine import enlarge_box
from sims_jax.ops.bits import count_common
from sims_jax.ops.resize import resize_labels
from sims_jax.types import Matches, Rows

# Of a side, on each side: the paper's context is the box enlarged by 25 %.
CONTEXT_FRAC = 0.125
# `a << s` must stay below 2^31, so that a twin in signed integers agrees.
_SCORE_BITS = 31
# Integers up to 2^24 are exact in float32.
_FLOAT32_EXACT = 2**24


def match(
    rows: Rows,
    layouts: UInt8[Array, "B H W"],
    *,
    candidates: int = 10,
    exclude: Bool[Array, "B P"] | None = None,
    instances: Integer[Array, "B H W"] | None = None,
) -> Matches:
    """Splits layouts into segments and retrieves the best rows of each segment's class.

    Jit-able, natively batched (do not vmap it); `rows` may be sharded. With a bank sharded
    over processes all of them call this together.

    Args:
      rows: the bank's rows, sorted by (class, photo, component).
      layouts: class ids at `rows.spec.image_size`, void 255.
      candidates: K, rows to return a segment, best first.
      exclude: photos that may not be used, a layout.
      instances: instance ids of the layouts, 0 where there is none.

    Returns:
      Matches; `row` is -1 (and `score` 0) where the class has no further row.

    Raises:
      ValueError: the layouts are not of the bank's size.
    """
    spec = rows.spec
    if layouts.ndim != 3 or layouts.shape[1:] != tuple(spec.image_size):
        raise ValueError(
            f"layouts: found shape {layouts.shape}, expected (B, {spec.image_size[0]}, "
            f"{spec.image_size[1]}); resample them to the bank's size"
        )
    segments = split_layout(layouts, spec, instances)
    masks, areas, boxes = grid_masks(segments.component, spec)
    if exclude is None:
        exclude = jnp.zeros((layouts.shape[0], rows.layouts.shape[0]), jnp.bool_)
    contexts = enlarge_box(rows.box_yx, CONTEXT_FRAC, spec.grid)
    labelled = box_sums(sum_table(rows.layouts != VOID), contexts, rows.photo)

    def match_layout(query: tuple[Array, ...]) -> tuple[Array, Array]:
        layout, class_ids, masks, areas, boxes, exclude = query
        equal = sum_table((rows.layouts == layout) & (layout != VOID))
        own = sum_table((layout != VOID)[None])
        allowed = (rows.class_id >= 0) & ~exclude[rows.photo]

        def match_segment(segment: tuple[Array, ...]) -> tuple[Array, Array]:
            class_id, mask, area, box_yx = segment
            context = enlarge_box(box_yx, CONTEXT_FRAC, spec.grid)
            common = count_common(mask[None], rows.mask)
            shared = box_sums(equal, intersect_boxes(context[None], contexts), rows.photo)
            both = box_sums(own, context[None], jnp.zeros(1, jnp.int32)) + labelled
            score = score_pairs(common, area + rows.area - common, shared, both - shared, spec.grid)
            usable = allowed & (rows.class_id == class_id)
            return _best_rows(score, usable, candidates, spec.grid)

        def skip_segment(segment: tuple[Array, ...]) -> tuple[Array, Array]:
            del segment
            return jnp.full(candidates, -1, jnp.int32), jnp.zeros(candidates, jnp.uint32)

        return jax.lax.map(
            lambda segment: jax.lax.cond(segment[0] >= 0, match_segment, skip_segment, segment),
            (class_ids, masks, areas, boxes),
        )

    row, score = jax.lax.map(
        match_layout,
        (resize_labels(layouts, spec.grid), segments.class_id, masks, areas, boxes, exclude),
    )
    return Matches(segments, row, score, chosen=jnp.zeros(row.shape[:2], jnp.int32))


def score_pairs(
    mask_common: Int[Array, "*pairs"],
    mask_union: Int[Array, "*pairs"],
    context_common: Int[Array, "*pairs"],
    context_union: Int[Array, "*pairs"],
    grid: tuple[int, int],
) -> UInt32[Array, "*pairs"]:
    """The score of pairs of segments from their four counts (a, b, c, d of this module)."""
    shift = jnp.uint32(_score_shift(grid))

    def ratio(common: Int[Array, "*pairs"], union: Int[Array, "*pairs"]) -> Array:
        # common <= union, so 0 / 0 is the only division by zero and 0 / 1 its value.
        union = jnp.maximum(union, 1).astype(jnp.uint32)
        return (common.astype(jnp.uint32) << shift) // union

    return ratio(mask_common, mask_union) + ratio(context_common, context_union)


def score_unit(grid: tuple[int, int]) -> int:
    """The score of a perfect overlap of masks, or of contexts: 2^s."""
    return 1 << _score_shift(grid)


def sum_table(cells: Bool[Array, "P h w"]) -> Int[Array, "P h+1 w+1"]:
    """Summed-area tables: entry (y, x) counts the true cells above y and left of x."""
    counts = jnp.cumsum(jnp.cumsum(cells, axis=1, dtype=jnp.int32), axis=2)
    return jnp.pad(counts, ((0, 0), (1, 0), (1, 0)))


def box_sums(
    table: Int[Array, "P h1 w1"], box_yx: Int[Array, "R 4"], photo: Int[Array, "R"]
) -> Int[Array, "R"]:
    """Counts the true cells of one box of one photo a row: four reads of its table."""
    y0, x0, y1, x1 = jnp.moveaxis(box_yx, -1, 0)
    return table[photo, y1, x1] - table[photo, y0, x1] - table[photo, y1, x0] + table[photo, y0, x0]


def intersect_boxes(a: Int[Array, "*A 4"], b: Int[Array, "*B 4"]) -> Int[Array, "*AB 4"]:
    """The intersection of half-open boxes; of boxes that do not meet, one of no cells."""
    start = jnp.maximum(a[..., :2], b[..., :2])
    stop = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]), start)
    return jnp.concatenate([start, stop], axis=-1)


def _score_shift(grid: tuple[int, int]) -> int:
    return _SCORE_BITS - (grid[0] * grid[1]).bit_length()


def _best_rows(
    score: UInt32[Array, "R"], usable: Bool[Array, "R"], candidates: int, grid: tuple[int, int]
) -> tuple[Int[Array, "K"], UInt32[Array, "K"]]:
    """The best usable rows and their scores; top_k gives the lower index of equals first."""
    # Score 0 is a usable row's too: shifted by one, so that 0 means "no row".
    rank = jnp.where(usable, score + jnp.uint32(1), jnp.uint32(0))
    if 2 * score_unit(grid) < _FLOAT32_EXACT:
        # From 256 cells on every rank is an exact float, which XLA's CPU sorts 15 times faster.
        rank = rank.astype(jnp.float32)
    best, row = jax.lax.top_k(rank, min(candidates, rank.size))
    best, row = best.astype(jnp.uint32), row.astype(jnp.int32)
    found = best > 0
    missing = (0, candidates - row.size)
    return (
        jnp.pad(jnp.where(found, row, -1), missing, constant_values=-1),
        jnp.pad(jnp.where(found, best - jnp.uint32(1), jnp.uint32(0)), missing),
    )
