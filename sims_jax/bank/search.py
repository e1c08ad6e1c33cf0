"""The search for the best rows of one device: exact, and it looks at little.

Q segments are searched for, K rows each; the other letters are those of `sims_jax.types`.

All segments of a batch go through it together. Rows are kept in tiles that lie alike in the
frame. Areas and boxes bound the score of all rows of a tile from above; counts of cells by part of
the frame bound that of each row more closely. In the tiles with the highest bounds the most
promising rows are scored: the worst of their K best is a floor, and what is bounded below it is
out. In all tiles that reach it rows are bounded, then masks compared, then contexts; every step
leaves few to the next.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from sims_jax.bank.compare import (
    Query,
    bound_rows,
    bound_tiles,
    compare_masks,
    find_present,
    score_rows,
)
from sims_jax.bank.grid import CONTEXT, GridSegments, count_blocks, cut_blocks
from sims_jax.ops.bits import WORD_BITS, find_bit, pack_bits
from sims_jax.types import TILE, Rows

# What is looked at first, a segment: one tile of so many there may be, but so many at least and at
# most; and so many rows a tile.
_FIRST_TILE_OF, _FIRST_TILES, _FIRST_ROWS_A_TILE = 64, (16, 48), 2
# Segments searched for in one round, and what is looked at in one round, a segment: tiles, rows'
# masks, rows' contexts; and the best rows of so many are found at once.
_GROUP = 1024
_TILES_A_ROUND, _MASKS_A_ROUND, _CONTEXTS_A_ROUND, _WON_A_ROUND = 32, 96, 48, 32
# Queries, tiles and pairs looked at in one go: on a CPU what is made of them fits a cache, and is
# enough to keep two cores busy. An accelerator, for which every turn of a loop of unknown length
# is a question to its host, takes so many times as many.
_QUERIES_A_PIECE, _TILES_A_PIECE, _PAIRS_A_PIECE = 16, 2048, 2048
_ACCELERATED = 64


@struct.dataclass
class Best:
    """The K best rows found, best first; where there are fewer, row -1 and score 0."""

    score: UInt32[Array, "*Q K"]
    row: Int[Array, "*Q K"]


def search_share(
    rows: Rows,
    segments: GridSegments,
    class_id: Int[Array, "B N"],
    exclude: Bool[Array, "B P"] | None,
    candidates: int,
) -> Best:
    """Searches the rows of one device, for a group of segments at a time; [Q, K], Q = B N."""
    count = class_id.size
    size = min(_GROUP, count)
    # Those of equal size side by side: a piece takes as many steps as the largest of its queries.
    # Of one size one class after the other: what is read for one is read again for the next. Those
    # without a class come last.
    blocks = count_blocks(segments.outline[..., CONTEXT : CONTEXT + 4])
    kind = jnp.where(class_id < 0, -1, blocks * rows.spec.labels.num_classes + class_id)
    order = jnp.argsort(kind.reshape(-1), descending=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -count % size), constant_values=count)

    def search_group(index: Array, best: Best) -> Best:
        some = jax.lax.dynamic_slice_in_dim(order, index * size, size)
        layout, number = jnp.divmod(jnp.minimum(some, count - 1), class_id.shape[1])
        queries = Query(
            class_id=jnp.where(some < count, class_id[layout, number], -1),
            layout=layout,
            outline=segments.outline[layout, number],
            mask_parts=find_present(segments.mask_parts[layout, :, number]),
            context_parts=find_present(segments.context_parts[layout, :, number]),
            mask=find_present(cut_blocks(segments.mask[layout, number])),
            context=find_present(cut_blocks(segments.context[layout, number])),
        )
        found = _search_group(rows, queries, segments.labels, exclude, candidates)
        return jax.tree.map(lambda all_, new: all_.at[some].set(new, mode="drop"), best, found)

    valid = jnp.sum(class_id >= 0, dtype=jnp.int32)
    return _repeat(valid, size, search_group, nothing(count, candidates))


def _search_group(
    rows: Rows,
    queries: Query,
    labels: UInt32[Array, "B blocks bits lanes"],
    exclude: Bool[Array, "B P"] | None,
    candidates: int,
) -> Best:
    """The K best rows of each query, by ever dearer looks at ever fewer rows.

    First rows that score at least 1; then, where these are fewer than K, those that score 0.
    """
    count = queries.class_id.size
    all_queries = jnp.arange(count, dtype=jnp.int32)
    valid = jnp.sum(queries.class_id >= 0, dtype=jnp.int32)  # these come first
    in_pieces = functools.partial(_in_pieces, 1 if rows.on_cpu else _ACCELERATED)
    tiles_of = functools.partial(bound_tiles, rows, queries)
    first, bounds = in_pieces(_QUERIES_A_PIECE, tiles_of, valid, all_queries)
    bounds = jnp.where((all_queries < valid)[:, None], bounds, -1.0)
    bound = functools.partial(bound_rows, rows, queries)
    compare = functools.partial(compare_masks, rows, queries)
    score = functools.partial(score_rows, rows, queries, labels, exclude)

    best = nothing(count, candidates)
    tiles = min(max(rows.class_tiles // _FIRST_TILE_OF, _FIRST_TILES[0]), _FIRST_TILES[1])
    tiles = max(tiles, -(-candidates // TILE))
    if tiles <= rows.class_tiles:  # or they are about all rows
        tile_bound, index = jax.lax.top_k(bounds, tiles)
        tile = jnp.where(tile_bound >= 0, index + first[:, None], -1)
        best = _look_first(in_pieces, tile, valid, bound, compare, score, candidates)

    def look(number: Array, best: Best) -> Best:
        zeros = number > 0

        def least(best: Best) -> Float[Array, "Q"]:
            # A row equal to the last of K may still win by its number.
            return jnp.maximum(best.score[:, -1].astype(jnp.float32), jnp.where(zeros, 0.0, 1.0))

        def look_at_tiles(chosen: Array, there: Array, best: Best) -> Best:
            query, tile = jnp.divmod(chosen, rows.class_tiles)
            tile += first[query]
            most, context = in_pieces(_TILES_A_PIECE, bound, there.sum(), query, tile)

            def look_at_masks(chosen: Array, there: Array, best: Best) -> Best:
                place, row = jnp.divmod(chosen, TILE)
                asked, slot = query[place], tile[place] * TILE + row
                common, most = in_pieces(_PAIRS_A_PIECE, compare, there.sum(), asked, slot)
                most += context.reshape(-1)[chosen]

                def look_at_contexts(chosen: Array, there: Array, best: Best) -> Best:
                    few = asked[chosen], slot[chosen], common[chosen]
                    value, row = in_pieces(_PAIRS_A_PIECE, score, there.sum(), *few)
                    # Those of the first look come by again; the best are to be different rows.
                    known = (best.row[few[0]] == row[:, None]).any(axis=1)
                    usable = (row >= 0) & ((value == 0) == zeros) & ~known
                    return _take(best, jnp.where(there, few[0], count), value, row, usable)

                keep = there & (most >= least(best)[asked])
                return _in_rounds(keep, _CONTEXTS_A_ROUND * count, look_at_contexts, best)

            keep = there[:, None] & (most >= least(best)[query, None])
            return _in_rounds(keep, _MASKS_A_ROUND * count, look_at_masks, best)

        keep = ~zeros | (best.row[:, -1:] < 0)
        keep &= bounds >= least(best)[:, None]
        return _in_rounds(keep, _TILES_A_ROUND * count, look_at_tiles, best)

    return jax.lax.fori_loop(0, 2, look, best)


def _look_first(
    in_pieces: Callable[..., tuple[Array, ...]],
    tile: Int[Array, "Q tiles"],
    valid: Int[Array, ""],
    bound: Callable[..., tuple[Array, Array]],
    compare: Callable[..., tuple[Array, Array]],
    score: Callable[..., tuple[Array, Array]],
    candidates: int,
) -> Best:
    """The K best of a few promising rows in some tiles of each query.

    Rows that score 0 are not among the best. Tile -1 is none; the first `valid` queries have some.
    """
    count, tiles = tile.shape
    there, tile = tile >= 0, jnp.maximum(tile, 0)
    promising = max(_FIRST_ROWS_A_TILE * tiles, candidates)
    query = jnp.arange(count, dtype=jnp.int32)[:, None]
    asked = jnp.broadcast_to(query, tile.shape).reshape(-1)
    most, _ = in_pieces(_TILES_A_PIECE, bound, valid * tiles, asked, tile.reshape(-1))
    most = jnp.where(there[..., None], most.reshape(*tile.shape, TILE), -1.0)
    most = most.reshape(count, -1)

    row_bound, place = _best_of_every(most, promising)
    slot = jnp.take_along_axis(tile, place // TILE, axis=1) * TILE + place % TILE
    pairs = [x.reshape(-1) for x in (jnp.broadcast_to(query, slot.shape), slot)]
    common, _ = in_pieces(_PAIRS_A_PIECE, compare, valid * promising, *pairs)
    value, row = in_pieces(_PAIRS_A_PIECE, score, valid * promising, *pairs, common)
    value, row = value.reshape(slot.shape), row.reshape(slot.shape)
    return best_of(value, jnp.where((row_bound >= 0) & (value > 0), row, -1), candidates)


def _best_of_every(
    values: Float[Array, "Q n"], count: int
) -> tuple[Float[Array, "Q count"], Int[Array, "Q count"]]:
    """n values dealt in turn into so many hands: the highest of each, and where it is."""
    size = values.shape[1]
    values = jnp.pad(values, ((0, 0), (0, -size % count)), constant_values=-1.0)
    values = values.reshape(len(values), -1, count)
    index = jnp.argmax(values, axis=1).astype(jnp.int32)
    return values.max(axis=1), index * count + jnp.arange(count, dtype=jnp.int32)


def nothing(count: int, candidates: int) -> Best:
    shape = (count, candidates)
    return Best(jnp.zeros(shape, jnp.uint32), jnp.full(shape, -1, jnp.int32))


@jax.jit
def _take(
    best: Best,
    query: Int[Array, "n"],
    score: UInt32[Array, "n"],
    row: Int[Array, "n"],
    usable: Bool[Array, "n"],
) -> Best:
    """The K best of each query of those there are and of more pairs, of which some are usable.

    Pairs are sorted by query; Q is none.
    """
    count, candidates = best.row.shape
    start = jnp.searchsorted(query, jnp.arange(count, dtype=jnp.int32))

    def wins(best: Best) -> Bool[Array, "n"]:
        last_score, last_row = best.score[query, -1], best.row[query, -1]
        tied = (score == last_score) & ((row < last_row) | (last_row < 0))
        return usable & (query < count) & ((score > last_score) | tied)

    def one_round(state: tuple[Array, Best]) -> tuple[Array, Best]:
        left, best = state
        place = jnp.cumsum(left, dtype=jnp.int32) - left.astype(jnp.int32)
        place -= place[start][query]
        now = left & (place < _WON_A_ROUND)
        asked = jnp.where(now, query, count)

        def deal(values: Array, fill: int) -> Array:
            nobody = jnp.full((count, _WON_A_ROUND), fill, values.dtype)
            return nobody.at[asked, place].set(values, mode="drop")

        scores = jnp.concatenate([best.score, deal(score, 0)], axis=1)
        best = best_of(scores, jnp.concatenate([best.row, deal(row, -1)], axis=1), candidates)
        return left & ~now & wins(best), best

    return jax.lax.while_loop(lambda state: state[0].any(), one_round, (wins(best), best))[1]


@functools.partial(jax.jit, static_argnames="candidates")
def best_of(score: UInt32[Array, "Q n"], row: Int[Array, "Q n"], candidates: int) -> Best:
    """The K best of n rows of each query, different ones; but some may be -1."""

    def count_ahead(index: Array, ahead: Array) -> Array:
        other_score, other_row = (
            jax.lax.dynamic_slice_in_dim(x, index, 1, axis=1) for x in (score, row)
        )
        better = (other_score > score) | ((other_score == score) & (other_row < row))
        return ahead + ((other_row >= 0) & better).astype(jnp.int32)

    ahead = jnp.zeros(row.shape, jnp.int32)
    ahead = jax.lax.fori_loop(0, row.shape[1], count_ahead, ahead, unroll=16)
    place = jnp.where(row >= 0, ahead, candidates)
    query = jnp.arange(len(row), dtype=jnp.int32)[:, None]
    none = nothing(len(row), candidates)
    return Best(
        score=none.score.at[query, place].set(score, mode="drop"),
        row=none.row.at[query, place].set(row, mode="drop"),
    )


def _in_rounds(
    keep: Bool[Array, "*S"], size: int, do: Callable[[Array, Array, Best], Best], best: Best
) -> Best:
    """Lists what is true, and hands `size` entries a round to `do(flat indices, there, best)`."""
    words = pack_bits(keep.reshape(-1))
    inside = jax.lax.population_count(words).astype(jnp.int32)
    end = jnp.cumsum(inside, dtype=jnp.int32)

    def one_round(number: Array, best: Best) -> Best:
        first = number * size
        position = first + jnp.arange(size, dtype=jnp.int32)
        # An entry's word is the number of words that end before it.
        ends = jnp.zeros(size, jnp.int32).at[jnp.maximum(end - first, 0)].add(1, mode="drop")
        word = jnp.minimum(jnp.cumsum(ends, dtype=jnp.int32), words.size - 1)
        bit = find_bit(words[word], position - (end - inside)[word])
        return do(word * WORD_BITS + bit, position < end[-1], best)

    return _repeat(end[-1], size, one_round, best)


def _in_pieces(
    pieces_at_once: int,
    piece: int,
    function: Callable[..., tuple[Array, ...]],
    count: Int[Array, ""],
    *pairs: Int[Array, "n"],
) -> tuple[Array, ...]:
    """`function` of the first `count` of n pairs, in pieces; zeros for the others."""
    size = pairs[0].size
    piece = min(piece * pieces_at_once, size)
    pieces = [jnp.pad(x, (0, -size % piece)).reshape(-1, piece) for x in pairs]
    shapes = jax.eval_shape(function, *(x[0] for x in pieces))
    zeros = tuple(jnp.zeros((pieces[0].size, *x.shape[1:]), x.dtype) for x in shapes)

    def one(index: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
        found = function(*(x[index] for x in pieces))
        # Scattered, not put in one block: XLA would fuse that with the function, and not vectorise.
        place = index * piece + jnp.arange(piece, dtype=jnp.int32)
        return tuple(
            all_.at[place].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)
            for all_, new in zip(results, found, strict=True)
        )

    results = jax.lax.fori_loop(0, (count + piece - 1) // piece, one, zeros)
    return tuple(x[:size] for x in results)


def _repeat(
    count: Int[Array, ""], size: int, do: Callable[[Array, Best], Best], best: Best
) -> Best:
    return jax.lax.fori_loop(0, (count + size - 1) // size, do, best)
