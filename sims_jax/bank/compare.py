"""What segments and rows have in common: bounds of their scores, ever closer, and the scores.

    bound_tiles     of all rows of a tile, by the hull of their boxes and the range of their areas
    bound_rows      of each row, by its box, its area and its counts in parts of the frame
    compare_masks   masks bit by bit
    score_rows      contexts bit by bit: the score itself

A slot is a row's place in the share of a device. The four are jitted, so that tracing the search,
which asks for each in several places, traces them once.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Integer, UInt32

from sims_jax.bank.grid import AREA, BOX, CONTEXT, LABELLED, OUTLINE, blocks_a_column, row_bits
from sims_jax.bank.score import bound_ratio, score_pairs
from sims_jax.ops.bits import LANES, list_true
from sims_jax.types import TILE, Rows

# Of what a query has, so much is compared in one go.
_STEP = 4


@struct.dataclass
class Present:
    """Of n values of each query those that are not zero, in order; then zeros."""

    value: Array  # [Q, n, ...]
    place: Int[Array, "*Q n"]  # among all values
    number: Int[Array, "*Q"]


@struct.dataclass
class Query:
    """A segment that is searched for; fields as in `sims_jax.bank.grid`.

    Most segments are in few parts of the frame: elsewhere there is nothing to compare.
    """

    class_id: Int[Array, "*Q"]  # -1 for none
    layout: Int[Array, "*Q"]  # its index in the batch
    outline: Int[Array, "*Q 10"]
    mask_parts: Present
    context_parts: Present
    mask: Present  # blocks
    context: Present


def find_present(values: Integer[Array, "Q n *S"]) -> Present:
    """Lists what is not zero; n is filled up to a multiple of what is compared in one go."""
    there = (values != 0).reshape(*values.shape[:2], -1).any(axis=-1)
    there = jnp.pad(there, ((0, 0), (0, -there.shape[1] % _STEP)))
    place, number = list_true(there)
    none = jnp.arange(place.shape[1], dtype=jnp.int32) >= number[:, None]
    # Past the last the first again: what is there has been read anyhow.
    place = jnp.where(none, jnp.minimum(place[:, :1], values.shape[1] - 1), place)
    query = jnp.arange(len(values), dtype=jnp.int32)[:, None]
    none = none.reshape(*none.shape, *(1,) * (values.ndim - 2))
    return Present(jnp.where(none, 0, values[query, place]), place, number)


@jax.jit
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


def _take(values: Array, index: Int[Array, "*B"]) -> Array:
    """values[index], of an index that is known to be one, or of which nothing is used."""
    return values.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


@jax.jit
def bound_rows(
    rows: Rows, queries: Query, query: Int[Array, "n"], tile: Int[Array, "n"]
) -> tuple[Float[Array, "n tile"], Float[Array, "n tile"]]:
    """What the rows of a tile score at most, 0 for no row; and what of it is their contexts'."""
    outlines = rows.outline.reshape(-1, TILE)

    def bound(parts: Array, own_parts: Present, size: int, box: int) -> Float[Array, "n tile"]:
        # Field by field: so all of it is one loop, and vectorised.
        theirs = {i: _take(outlines, tile * OUTLINE + i) for i in (size, *range(box, box + 4))}
        ours = {i: queries.outline[:, i][query][:, None] for i in theirs}
        hull, own = ([x[i] for i in range(box, box + 4)] for x in (theirs, ours))
        common = jnp.minimum(_overlap(hull, own), jnp.minimum(theirs[size], ours[size]))
        common = jnp.minimum(common, _common_parts(rows, parts, own_parts, query, tile))
        return _ratio(rows, common, theirs[size] + ours[size])

    context = bound(rows.context_parts, queries.context_parts, LABELLED, CONTEXT)
    return bound(rows.mask_parts, queries.mask_parts, AREA, BOX) + context, context


def _common_parts(
    rows: Rows,
    parts: Int[Array, "T counts tile"],
    own: Present,
    query: Int[Array, "n"],
    tile: Int[Array, "n"],
) -> Int[Array, "n tile"]:
    """The sum of what rows of a tile and a query both have, count by count; a tile side by side."""
    first, counts = tile * parts.shape[1], parts.reshape(-1, TILE)
    # No sum exceeds the cells of the grid.
    cells = rows.spec.grid[0] * rows.spec.grid[1]
    dtype = jnp.uint16 if cells < 2**16 else jnp.int32

    def common(place: Array, value: Array) -> Array:
        return jnp.minimum(_take(counts, first + place), value[:, None]).astype(dtype)

    none = jnp.zeros((tile.size, TILE), dtype)
    return _add_up(rows, own, query, common, none, lambda x: x).astype(jnp.int32)


def _add_up(
    rows: Rows,
    own: Present,
    query: Int[Array, "n"],
    common: Callable[[Array, Array], Array],
    total: Array,
    gather: Callable[[Array], Array],
) -> Array:
    """Adds to `total` what is `common` in each place where queries have something.

    `common` is given places and what queries have there, `gather` sums of it. On a CPU it goes on
    for as long as there is something, unrolled, or it would not be vectorised; elsewhere all places
    are looked at side by side.
    """

    def step(index: Array, total: Array) -> Array:
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=_STEP, axis=1)
        place, value = (_take(cut(x, index * _STEP), query) for x in (own.place, own.value))
        some = [common(place[:, i], value[:, i]) for i in range(_STEP)]
        return total + gather(functools.reduce(jnp.add, some))

    if rows.on_cpu:
        steps = (own.number[query].max() + _STEP - 1) // _STEP
        return jax.lax.fori_loop(0, steps, step, total)
    all_ = jax.vmap(common, 1)(_take(own.place, query), _take(own.value, query))
    return total + gather(all_.sum(axis=0, dtype=all_.dtype))


def _count(words: UInt32[Array, "n lanes"]) -> Int[Array, "n"]:
    return jnp.sum(words.astype(jnp.int32), axis=-1, dtype=jnp.int32)


@jax.jit
def compare_masks(
    rows: Rows, queries: Query, query: Int[Array, "n"], slot: Int[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """Common cells of the masks of pairs, and what these score, rounded up."""
    tile, place = slot // TILE, slot % TILE
    blocks = rows.mask.shape[-1] // LANES
    masks = rows.mask.reshape(-1, LANES)

    def both(block: Array, own: Array) -> UInt32[Array, "n lanes"]:
        return jax.lax.population_count(_take(masks, slot * blocks + block) & own)

    none = jnp.zeros(slot.shape, jnp.int32)
    common = _add_up(rows, queries.mask, query, both, none, _count)
    total = rows.outline[tile, AREA, place] + queries.outline[query, AREA]
    return common, _ratio(rows, common, total)


@jax.jit
def score_rows(
    rows: Rows,
    queries: Query,
    labels: UInt32[Array, "B blocks bits lanes"],
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
    y0, x0, y1, x1 = (outline[:, CONTEXT + i] for i in range(4))
    in_row, high = row_bits(x0, x1, rows.spec.grid), blocks_a_column(rows.spec.grid)
    own_row = jnp.arange(query.size, dtype=jnp.int32) * in_row.shape[1]
    in_row, (blocks, bits) = in_row.reshape(-1), labels.shape[1:3]
    theirs, ours = (x.reshape(-1, bits, LANES) for x in (rows.labels, labels))
    their_blocks, own_blocks = photo // devices * blocks, layout * blocks
    lane = np.arange(LANES, dtype=np.int32)

    def equal(block: Array, context: Array) -> UInt32[Array, "n lanes"]:
        differ = _take(theirs, their_blocks + block) ^ _take(ours, own_blocks + block)
        differ = functools.reduce(jnp.bitwise_or, [differ[:, bit] for bit in range(bits)])
        column = jax.lax.div(block, jnp.int32(high))
        top = (block - column * high) * LANES
        inside = (lane >= (y0 - top)[:, None]) & (lane < (y1 - top)[:, None])
        inside = jnp.where(inside, _take(in_row, own_row + column)[:, None], jnp.uint32(0))
        return jax.lax.population_count(~differ & context & inside)

    none = jnp.zeros(slot.shape, jnp.int32)
    shared = _add_up(rows, queries.context, query, equal, none, _count)
    union = outline[:, AREA] + own[:, AREA] - common
    either = outline[:, LABELLED] + own[:, LABELLED] - shared
    if exclude is not None:
        row = jnp.where(exclude[layout, photo], -1, row)
    return score_pairs(common, union, shared, either, rows.spec.grid), row
