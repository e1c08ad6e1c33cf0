"""What segments and rows have in common: bounds of their scores, ever closer, and the scores.

    bound_tiles     of all rows of a tile, by the hull of their boxes and the range of their areas
    bound_rows      of each row, by its box, its area and its counts in parts of the frame
    compare_masks   masks bit by bit, contexts as bounded before
    score_rows      contexts bit by bit: the score itself

A slot is a row's place in the share of a device.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16, UInt32

from sims_jax.bank.grid import AREA, BOX, CONTEXT, LABELLED, box_group
from sims_jax.bank.score import bound_ratio, score_pairs
from sims_jax.ops.bits import LANES, count_bits_of
from sims_jax.types import TILE, Rows

# Counts that are compared in one go.
_COUNTS = 44


@struct.dataclass
class Query:
    """A segment that is searched for; fields as in `sims_jax.bank.grid`."""

    class_id: Int[Array, "*Q"]  # -1 for none
    layout: Int[Array, "*Q"]  # its index in the batch
    outline: Int[Array, "*Q 10"]
    mask_parts: UInt8[Array, "*Q parts"] | UInt16[Array, "*Q parts"]
    context_parts: UInt8[Array, "*Q counts"] | UInt16[Array, "*Q counts"]
    mask: UInt32[Array, "*Q words"]
    context: UInt32[Array, "*Q words"]


def bound_tiles(
    rows: Rows, queries: Query, query: Int[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n class_tiles"]]:
    """The first tile of queries' classes, and what each tile's rows score at most; -1 past them."""
    ends, class_id = rows.first_tile[0], queries.class_id[query]
    start = ends[jnp.where(class_id < 0, ends.size - 1, class_id)]
    stop = ends[jnp.where(class_id < 0, ends.size - 1, class_id + 1)]
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=rows.class_tiles, axis=1)
    envelope = jax.vmap(cut, (None, 0))(rows.envelope, start)
    outline = queries.outline[query]
    bound = jnp.float32(0.0)
    for kind, (size, box) in enumerate(((AREA, BOX), (LABELLED, CONTEXT))):
        least, most, *hull = (envelope[:, 6 * kind + i] for i in range(6))
        own = outline[:, size, None]
        common = _overlap(hull, [outline[:, box + i, None] for i in range(4)])
        common = jnp.minimum(common, own)
        # Of all sizes between these, the one nearest to what is in common scores highest.
        total = jnp.clip(common, least, most)
        bound += _ratio(rows, jnp.minimum(common, total), total + own)
    tile = start[:, None] + jnp.arange(rows.class_tiles, dtype=jnp.int32)
    return start, jnp.where(tile < stop[:, None], bound, -1.0)


def _overlap(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Cells that two boxes have in common."""
    (ay0, ax0, ay1, ax1), (by0, bx0, by1, bx1) = a, b
    height = jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0)
    width = jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0)
    return jnp.maximum(height, 0) * jnp.maximum(width, 0)


def _ratio(rows: Rows, common: Array, total: Array) -> Float[Array, "..."]:
    return bound_ratio(common.astype(jnp.float32), total.astype(jnp.float32), rows.spec.grid)


def _common_outlines(a: Int[Array, "*B 10 n"], b: Int[Array, "*#B 10 #n"]) -> list[Array]:
    """Cells that masks, and contexts, of such outlines have in common at most.

    They are no more than either has, nor than the two boxes have in common.
    """
    a, b = (jnp.moveaxis(x, -2, 0) for x in (a, b))
    return [
        jnp.minimum(_overlap(a[box : box + 4], b[box : box + 4]), jnp.minimum(a[size], b[size]))
        for size, box in ((AREA, BOX), (LABELLED, CONTEXT))
    ]


def bound_rows(
    rows: Rows, queries: Query, query: Int[Array, "n"], tile: Int[Array, "n"]
) -> tuple[Float[Array, "n tile"], Float[Array, "n tile"]]:
    """What the rows of a tile score at most, 0 for no row; and what of it is their contexts'."""
    outline, own = rows.outline[tile], queries.outline[query][..., None]
    mask, context = _common_outlines(outline, own)
    cells = rows.spec.grid[0] * rows.spec.grid[1]
    parts = _common_parts(rows.mask_parts, queries.mask_parts, query, tile, cells)
    mask = jnp.minimum(mask, parts)
    parts = _common_parts(rows.context_parts, queries.context_parts, query, tile, cells)
    context = jnp.minimum(context, parts)
    mask = _ratio(rows, mask, outline[:, AREA] + own[:, AREA])
    context = _ratio(rows, context, outline[:, LABELLED] + own[:, LABELLED])
    return mask + context, context


def _common_parts(
    theirs: Int[Array, "T counts tile"],
    ours: Int[Array, "Q counts"],
    query: Int[Array, "n"],
    tile: Int[Array, "n"],
    cells: int,
) -> Int[Array, "n tile"]:
    """The sum of what rows of a tile and a query both have, count by count.

    All rows of a tile side by side; unrolled, or it would not be vectorised.
    """
    own = ours[query]
    steps = -(-own.shape[1] // _COUNTS)
    while own.shape[1] % steps:
        steps += 1
    size = own.shape[1] // steps

    def add(step: Array, total: Array) -> Array:
        for count in range(size):
            at = step * size + count
            both = jnp.minimum(theirs[tile, at], own[:, at, None])
            total += both.astype(total.dtype)
        return total

    # No sum exceeds the cells of the grid.
    total = jnp.zeros((tile.size, TILE), jnp.uint16 if cells < 2**16 else jnp.int32)
    return jax.lax.fori_loop(0, steps, add, total).astype(jnp.int32)


def compare_masks(
    rows: Rows,
    queries: Query,
    query: Int[Array, "n"],
    slot: Int[Array, "n"],
    context: Float[Array, "n"],
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """Common cells of the masks of pairs, and what the pairs score at most.

    Args:
      query, slot: of each pair; a slot is a row's place in this device's share.
      context: what their contexts score at most.
    """
    tile, place = slot // TILE, slot % TILE
    theirs, ours = (x.reshape(-1, x.shape[-1] // LANES, LANES) for x in (rows.mask, queries.mask))
    common = count_bits_of(lambda i: theirs[slot, i] & ours[query, i], theirs.shape[1])
    total = rows.outline[tile, AREA, place] + queries.outline[query, AREA]
    return common, _ratio(rows, common, total) + context


def score_rows(
    rows: Rows,
    queries: Query,
    labels: UInt32[Array, "B bits words"],
    exclude: Bool[Array, "B P"] | None,
    query: Int[Array, "n"],
    slot: Int[Array, "n"],
    common: Int[Array, "n"],
) -> tuple[UInt32[Array, "n"], Int[Array, "n"]]:
    """Scores of pairs whose masks have been compared, and the rows; -1 for a row not to be used."""
    devices = 1 if rows.mesh is None else rows.mesh.size
    tile, place = slot // TILE, slot % TILE
    row, layout = rows.row[tile, place], queries.layout[query]
    photo = jnp.maximum(row, 0) // rows.spec.max_segments
    outline, own = rows.outline[tile, :, place], queries.outline[query]
    box = outline[:, CONTEXT : CONTEXT + 4]
    theirs, ours = (x.reshape(*x.shape[:-1], -1, LANES) for x in (rows.labels, labels))
    context = queries.context.reshape(len(queries.context), -1, LANES)

    def shared(index: int) -> UInt32[Array, "n LANES"]:
        differ = jnp.uint32(0)
        for bit in range(labels.shape[1]):
            differ |= theirs[photo // devices, bit, index] ^ ours[layout, bit, index]
        return ~differ & context[query, index] & box_group(box, index, rows.spec.grid)

    shared = count_bits_of(shared, theirs.shape[2])
    union = outline[:, AREA] + own[:, AREA] - common
    either = outline[:, LABELLED] + own[:, LABELLED] - shared
    if exclude is not None:
        row = jnp.where(exclude[layout, photo], -1, row)
    return score_pairs(common, union, shared, either, rows.spec.grid), row
