"""The search for the best rows of one device: exact, and it looks at little.

All segments of a batch go through it together. Areas and boxes bound the score of every row from
above. Rows are kept in tiles that lie alike in the frame; a few rows of the tiles with the highest
bounds are scored, and the worst of their K best is a floor: what is bounded below it is out. The
rows above it have their masks compared and their contexts bounded by rough counts, and what is then
left is scored.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt16, UInt32

from sims_jax.bank.grid import AREA, BOX, CONTEXT, LABELLED, box_bits
from sims_jax.bank.score import bound_ratio, score_pairs
from sims_jax.ops.bits import count_bits
from sims_jax.types import TILE, Rows

# Tiles bounded in one go.
BLOCK_TILES = 64
# What is looked at first, a segment: one tile of so many there may be, but so many at least and at
# most; so many masks a tile; so many contexts in all.
_FIRST_TILE_OF, _FIRST_TILES, _FIRST_MASKS_A_TILE, _FIRST_CONTEXTS = 64, (8, 32), 8, 24
# Segments searched for in one round, and what is looked at in one round, a segment: tiles, rows'
# masks, rows' contexts, and the rows that reach the floor. What is left takes further rounds.
_GROUP = 256
_TILES_A_ROUND, _MASKS_A_ROUND, _CONTEXTS_A_ROUND, _WON_A_ROUND = 32, 512, 128, 24
# Pairs whose bits are compared in one go: what is read for them fits a core's cache.
_PIECE = 4096


@struct.dataclass
class Query:
    """A segment that is searched for; letters as in `sims_jax.bank.grid`."""

    class_id: Int[Array, "*Q"]  # -1 for none
    layout: Int[Array, "*Q"]  # its index in the batch
    outline: Int[Array, "*Q 10"]
    sketch: UInt16[Array, "*Q counts"]
    mask: UInt32[Array, "*Q words"]
    context: UInt32[Array, "*Q words"]


@struct.dataclass
class Best:
    """The K best rows found, best first; where there are fewer, row -1 and score 0."""

    score: UInt32[Array, "*Q K"]
    row: Int[Array, "*Q K"]


def search_share(
    rows: Rows,
    queries: Query,
    labels: UInt32[Array, "B bits words"],
    exclude: Bool[Array, "B P"] | None,
    candidates: int,
) -> Best:
    """Searches the rows of one device, for a group of queries at a time."""
    count = queries.class_id.size
    size = min(_GROUP, count)
    missing = -count % size
    queries = jax.tree.map(
        lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), queries
    ).replace(class_id=jnp.pad(queries.class_id, (0, missing), constant_values=-1))

    def search_group(index: Array, best: Best) -> Best:
        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, index * size, size)

        found = _search_group(rows, jax.tree.map(cut, queries), labels, exclude, candidates)

        def put(all_: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(all_, new, index * size, 0)

        return jax.tree.map(put, best, found)

    # Sorted, those without a class come last.
    valid = jnp.sum(queries.class_id >= 0, dtype=jnp.int32)
    best = _repeat(valid, size, search_group, nothing(count + missing, candidates))
    return jax.tree.map(lambda x: x[:count], best)


def _search_group(
    rows: Rows,
    queries: Query,
    labels: UInt32[Array, "B bits words"],
    exclude: Bool[Array, "B P"] | None,
    candidates: int,
) -> Best:
    """The K best rows of each query, by ever dearer looks at ever fewer rows."""
    count = queries.class_id.size
    first, bounds = jax.lax.map(lambda query: _bound_tiles(rows, query), queries)
    compare = functools.partial(_compare_masks, rows, queries)
    score = functools.partial(_score_rows, rows, queries, labels, exclude)
    floor = _first_floor(rows, queries, first, bounds, compare, score, candidates)

    def reaches(query: Array, bound: Array, best: Best) -> Array:
        # A row equal to the last of K may still win by its number.
        least = jnp.maximum(floor, best.score[:, -1].astype(jnp.float32))
        return bound >= least[query]

    def look_at_tiles(chosen: Array, there: Array, best: Best) -> Best:
        query, tile = jnp.divmod(chosen, rows.class_tiles)
        tile += first[query]
        bound = _bound_rows(rows, queries, query, tile)
        keep = there[:, None] & reaches(query[:, None], bound, best)

        def look_at_masks(chosen: Array, there: Array, best: Best) -> Best:
            asked, slot = query[chosen // TILE], tile[chosen // TILE] * TILE + chosen % TILE
            common, bound = _in_pieces(compare, there.sum(), asked, slot)

            def look_at_contexts(chosen: Array, there: Array, best: Best) -> Best:
                own = asked[chosen]
                value, row = _in_pieces(score, there.sum(), own, slot[chosen], common[chosen])

                def take(chosen: Array, there: Array, best: Best) -> Best:
                    won = jnp.where(there, row[chosen], -1)
                    return merge(best, own[chosen], value[chosen], won)

                won = there & (row >= 0) & reaches(own, value.astype(jnp.float32), best)
                return _in_rounds(won, _WON_A_ROUND * count, take, best)

            keep = there & reaches(asked, bound, best)
            return _in_rounds(keep, _CONTEXTS_A_ROUND * count, look_at_contexts, best)

        return _in_rounds(keep, _MASKS_A_ROUND * count, look_at_masks, best)

    keep = bounds >= floor[:, None]
    return _in_rounds(keep, _TILES_A_ROUND * count, look_at_tiles, nothing(count, candidates))


def _first_floor(
    rows: Rows,
    queries: Query,
    first: Int[Array, "Q"],
    bounds: Float[Array, "Q class_tiles"],
    compare: Callable[..., tuple[Array, Array]],
    score: Callable[..., tuple[Array, Array]],
    candidates: int,
) -> Float[Array, "Q"]:
    """A score that K rows of each query reach: the K-th best of a few promising ones, or 0."""
    count = len(bounds)
    contexts = max(_FIRST_CONTEXTS, candidates)
    tiles = min(max(rows.class_tiles // _FIRST_TILE_OF, _FIRST_TILES[0]), _FIRST_TILES[1])
    tiles = max(tiles, -(-contexts // _FIRST_MASKS_A_TILE))
    if tiles > rows.class_tiles:  # so many candidates are about all rows
        return jnp.zeros(count, jnp.float32)
    query = jnp.arange(count, dtype=jnp.int32)[:, None]
    # Queries without a class come last. Where others have no tile, some floors are only lower.
    valid = jnp.sum(bounds.max(axis=1) >= 0)

    bound, tile = jax.lax.top_k(bounds, tiles)
    tile = tile.astype(jnp.int32) + first[:, None]
    inside = _bound_rows(rows, queries, jnp.repeat(query, tiles), tile.reshape(-1))
    inside = jnp.where(bound[..., None] >= 0, inside.reshape(*bound.shape, TILE), -1.0)

    bound, place = jax.lax.top_k(inside.reshape(count, -1), tiles * _FIRST_MASKS_A_TILE)
    slot = jnp.take_along_axis(tile, place // TILE, axis=1) * TILE + place % TILE
    asked = jnp.broadcast_to(query, slot.shape).reshape(-1)
    common, closer = _in_pieces(compare, valid * slot.shape[1], asked, slot.reshape(-1))
    closer = jnp.where(bound >= 0, closer.reshape(slot.shape), -1.0)

    bound, place = jax.lax.top_k(closer, contexts)
    slot, common = (
        jnp.take_along_axis(x.reshape(closer.shape), place, axis=1).reshape(-1)
        for x in (slot, common)
    )
    asked = jnp.broadcast_to(query, place.shape).reshape(-1)
    value, row = _in_pieces(score, valid * contexts, asked, slot, common)
    usable = (bound >= 0) & (row >= 0).reshape(bound.shape)
    value = jnp.where(usable, value.reshape(bound.shape).astype(jnp.float32), 0.0)
    return jax.lax.top_k(value, candidates)[0][:, -1]


def nothing(count: int, candidates: int) -> Best:
    shape = (count, candidates)
    return Best(jnp.zeros(shape, jnp.uint32), jnp.full(shape, -1, jnp.int32))


def _bound_tiles(rows: Rows, query: Query) -> tuple[Int[Array, ""], Float[Array, "class_tiles"]]:
    """The first tile of a query's class, and what each tile's rows score at most; -1 past them."""
    ends = rows.first_tile[0]
    last = ends.size - 1
    start = ends[jnp.where(query.class_id < 0, last, query.class_id)]
    stop = ends[jnp.where(query.class_id < 0, last, query.class_id + 1)]

    def bound_block(index: Array, bounds: Array) -> Array:
        tile = start + index * BLOCK_TILES
        outline = jax.lax.dynamic_slice_in_dim(rows.outline, tile, BLOCK_TILES)
        bound = _bound_outlines(outline, query.outline[:, None], rows.spec.grid).max(axis=-1)
        inside = tile + jnp.arange(BLOCK_TILES, dtype=jnp.int32) < stop
        bound = jnp.where(inside, bound, -1.0)
        return jax.lax.dynamic_update_slice_in_dim(bounds, bound, index * BLOCK_TILES, 0)

    blocks = (stop - start + BLOCK_TILES - 1) // BLOCK_TILES
    unknown = jnp.full(rows.class_tiles, -1.0, jnp.float32)
    return start, jax.lax.fori_loop(0, blocks, bound_block, unknown)


def _bound_rows(
    rows: Rows, queries: Query, query: Int[Array, "n"], tile: Int[Array, "n"]
) -> Float[Array, "n tile"]:
    """What each row of a tile scores at most, by its outline; -1 for no row."""
    bound = _bound_outlines(rows.outline[tile], queries.outline[query][..., None], rows.spec.grid)
    return jnp.where(rows.row[tile] >= 0, bound, -1.0)


def _bound_outlines(
    a: Int[Array, "*B 10 n"], b: Int[Array, "*#B 10 #n"], grid: tuple[int, int]
) -> Float[Array, "*B n"]:
    """The highest score of segments of such outlines.

    Common cells are no more than either has, nor than the two boxes have in common.
    """
    a, b = (jnp.moveaxis(x, -2, 0).astype(jnp.float32) for x in (a, b))
    bound = jnp.float32(0.0)
    for size, box in ((AREA, BOX), (LABELLED, CONTEXT)):
        (ay0, ax0, ay1, ax1), (by0, bx0, by1, bx1) = a[box : box + 4], b[box : box + 4]
        height = jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0)
        width = jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0)
        common = jnp.maximum(height, 0.0) * jnp.maximum(width, 0.0)
        common = jnp.minimum(common, jnp.minimum(a[size], b[size]))
        bound += bound_ratio(common, a[size] + b[size], grid)
    return bound


def _compare_masks(
    rows: Rows, queries: Query, query: Int[Array, "n"], slot: Int[Array, "n"]
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """Common cells of the masks of pairs, and what the pairs score at most by these and a sketch.

    Args:
      query, slot: of each pair; a slot is a row's place in this device's share.
    """
    tile, place = slot // TILE, slot % TILE
    mask, sketch = (x.reshape(-1, *x.shape[2:])[slot] for x in (rows.mask, rows.sketch))
    common = count_bits(mask & queries.mask[query])
    sketch = jnp.minimum(sketch, queries.sketch[query])
    shared = jnp.sum(sketch.astype(jnp.int32), axis=-1)
    bound = jnp.float32(0.0)
    for size, same in ((AREA, common), (LABELLED, shared)):
        total = rows.outline[tile, size, place] + queries.outline[query, size]
        same, total = same.astype(jnp.float32), total.astype(jnp.float32)
        bound += bound_ratio(same, total, rows.spec.grid)
    return common, bound


def _score_rows(
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
    # Read first, compare then: fused with the reading, the comparison is not vectorised.
    theirs, ours, context = jax.lax.optimization_barrier(
        (rows.labels[photo // devices], labels[layout], queries.context[query])
    )
    differ = jax.lax.reduce(theirs ^ ours, jnp.uint32(0), jax.lax.bitwise_or, (1,))
    inside = box_bits(outline[:, CONTEXT : CONTEXT + 4], rows.spec.grid)
    shared = count_bits(~differ & context & inside)
    union = outline[:, AREA] + own[:, AREA] - common
    either = outline[:, LABELLED] + own[:, LABELLED] - shared
    if exclude is not None:
        row = jnp.where(exclude[layout, photo], -1, row)
    return score_pairs(common, union, shared, either, rows.spec.grid), row


def merge(
    best: Best, query: Int[Array, "n"], score: UInt32[Array, "n"], row: Int[Array, "n"]
) -> Best:
    """The K best of each query of those there are and of more pairs, whose rows may be -1."""
    count, candidates = best.row.shape
    own = jnp.repeat(jnp.arange(count, dtype=jnp.int32), candidates)
    query = jnp.concatenate([own, query])
    row = jnp.concatenate([best.row.reshape(-1), row])
    score = jnp.concatenate([best.score.reshape(-1), score])
    query = jnp.where(row >= 0, query, count)
    query, behind, row = jax.lax.sort((query, ~score, row), num_keys=3)
    place = jnp.searchsorted(query, jnp.arange(count, dtype=jnp.int32))
    place = place[:, None] + jnp.arange(candidates, dtype=place.dtype)
    there = query.at[place].get(mode="fill", fill_value=count) == jnp.arange(count)[:, None]
    place = jnp.where(there, place, 0)
    return Best(
        score=jnp.where(there, ~behind[place], jnp.uint32(0)),
        row=jnp.where(there, row[place], -1),
    )


def _in_rounds(
    keep: Bool[Array, "*S"], size: int, do: Callable[[Array, Array, Best], Best], best: Best
) -> Best:
    """Lists what is true, and hands `size` entries a round to `do(flat indices, there, best)`."""
    keep = keep.reshape(-1)
    place = jnp.cumsum(keep, dtype=jnp.int32)
    index = jnp.arange(keep.size, dtype=jnp.int32)
    found = jnp.zeros(keep.size + size, jnp.int32)
    found = found.at[jnp.where(keep, place - 1, found.size)].set(index, mode="drop")

    def one_round(number: Array, best: Best) -> Best:
        position = number * size + jnp.arange(size, dtype=jnp.int32)
        chosen = jax.lax.dynamic_slice_in_dim(found, number * size, size)
        return do(chosen, position < place[-1], best)

    return _repeat(place[-1], size, one_round, best)


def _in_pieces(
    function: Callable[..., tuple[Array, ...]], count: Int[Array, ""], *pairs: Int[Array, "n"]
) -> tuple[Array, ...]:
    """`function` of the first `count` of n pairs, a piece at a time; zeros for the others."""
    size = pairs[0].size
    pieces = [jnp.pad(x, (0, -size % _PIECE)).reshape(-1, _PIECE) for x in pairs]
    shapes = jax.eval_shape(function, *(x[0] for x in pieces))
    nothing = tuple(jnp.zeros((len(pieces[0]), _PIECE), shape.dtype) for shape in shapes)

    def one(index: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
        found = function(*(x[index] for x in pieces))
        return tuple(all_.at[index].set(new) for all_, new in zip(results, found, strict=True))

    results = jax.lax.fori_loop(0, (count + _PIECE - 1) // _PIECE, one, nothing)
    return tuple(x.reshape(-1)[:size] for x in results)


def _repeat(
    count: Int[Array, ""], size: int, do: Callable[[Array, Best], Best], best: Best
) -> Best:
    return jax.lax.fori_loop(0, (count + size - 1) // size, do, best)
