"""The search for the best rows of one device: exact, and it looks at little.

Q segments are searched for, K rows each; the other letters are those of `sims_jax.types`.

All segments of a batch go through it together. Rows are kept in tiles that lie alike in the
frame. Areas and boxes bound the score of all rows of a tile from above; counts of cells by part of
the frame bound that of each row more closely. In the tiles with the highest bounds the most
promising rows are scored: the worst of their K best is a floor, and what is bounded below it is
out. Of what reaches it rows are bounded, then masks compared, then contexts; every step leaves few
to the next.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from sims_jax.bank.compare import Query, bound_rows, bound_tiles, compare_masks, score_rows
from sims_jax.types import TILE, Rows

# What is looked at first, a segment: one tile of so many there may be, but so many at least and at
# most; and so many rows a tile.
_FIRST_TILE_OF, _FIRST_TILES, _FIRST_ROWS_A_TILE = 64, (12, 48), 2
# Segments searched for in one round, and what is looked at in one round, a segment: tiles, rows'
# masks, rows' contexts; and the best rows of so many are found at once.
_GROUP = 256
_TILES_A_ROUND, _MASKS_A_ROUND, _CONTEXTS_A_ROUND, _WON_A_ROUND = 32, 192, 96, 32
# Queries, tiles and pairs looked at in one go: what is made of them fits a core's cache.
_QUERIES_A_PIECE, _TILES_A_PIECE, _PAIRS_A_PIECE = 16, 512, 2048


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
    all_queries = jnp.arange(count, dtype=jnp.int32)
    valid = jnp.sum(queries.class_id >= 0, dtype=jnp.int32)  # these come first
    tiles_of = functools.partial(bound_tiles, rows, queries)
    first, bounds = _in_pieces(tiles_of, _QUERIES_A_PIECE, valid, all_queries)
    bounds = jnp.where((all_queries < valid)[:, None], bounds, -1.0)
    bound = functools.partial(bound_rows, rows, queries)
    compare = functools.partial(compare_masks, rows, queries)
    score = functools.partial(score_rows, rows, queries, labels, exclude)
    floor = _first_floor(rows, first, bounds, bound, compare, score, candidates)

    # First the rows that score at least 1; then, where these are fewer than K, those that score 0.
    def look(zeros: Array, best: Best) -> Best:
        least = jnp.where(zeros > 0, 0.0, jnp.maximum(floor, 1.0))

        def reaches(query: Array, most: Array, best: Best) -> Array:
            # A row equal to the last of K may still win by its number.
            return most >= jnp.maximum(least, best.score[:, -1].astype(jnp.float32))[query]

        def look_at_tiles(chosen: Array, there: Array, best: Best) -> Best:
            query, tile = jnp.divmod(chosen, rows.class_tiles)
            tile += first[query]
            most, around = _in_pieces(bound, _TILES_A_PIECE, there.sum(), query, tile)
            keep = there[:, None] & reaches(query[:, None], most, best)

            def look_at_masks(chosen: Array, there: Array, best: Best) -> Best:
                asked, slot = query[chosen // TILE], tile[chosen // TILE] * TILE + chosen % TILE
                pairs = asked, slot, around.reshape(-1)[chosen]
                common, most = _in_pieces(compare, _PAIRS_A_PIECE, there.sum(), *pairs)

                def look_at_contexts(chosen: Array, there: Array, best: Best) -> Best:
                    pairs = asked[chosen], slot[chosen], common[chosen]
                    value, row = _in_pieces(score, _PAIRS_A_PIECE, there.sum(), *pairs)
                    usable = (row >= 0) & ((value == 0) == (zeros > 0))
                    return _take(best, jnp.where(there, pairs[0], count), value, row, usable)

                keep = there & reaches(asked, most, best)
                return _in_rounds(keep, _CONTEXTS_A_ROUND * count, look_at_contexts, best)

            return _in_rounds(keep, _MASKS_A_ROUND * count, look_at_masks, best)

        wanted = (zeros == 0) | (best.row[:, -1] < 0)
        keep = (bounds >= least[:, None]) & wanted[:, None]
        return _in_rounds(keep, _TILES_A_ROUND * count, look_at_tiles, best)

    return jax.lax.fori_loop(0, 2, look, nothing(count, candidates))


def _first_floor(
    rows: Rows,
    first: Int[Array, "Q"],
    bounds: Float[Array, "Q class_tiles"],
    bound: Callable[..., tuple[Array, Array]],
    compare: Callable[..., tuple[Array, Array]],
    score: Callable[..., tuple[Array, Array]],
    candidates: int,
) -> Float[Array, "Q"]:
    """A score that K rows of each query reach: the K-th best of a few promising ones, or 0."""
    count = len(bounds)
    tiles = min(max(rows.class_tiles // _FIRST_TILE_OF, _FIRST_TILES[0]), _FIRST_TILES[1])
    tiles = max(tiles, -(-candidates // TILE))
    promising = max(_FIRST_ROWS_A_TILE * tiles, candidates)
    if tiles > rows.class_tiles:  # they are about all rows
        return jnp.zeros(count, jnp.float32)
    query = jnp.arange(count, dtype=jnp.int32)[:, None]
    # Queries without a class come last. Where others have no tile, some floors are only lower.
    valid = jnp.sum(bounds.max(axis=1) >= 0, dtype=jnp.int32)

    tile_bound, tile = jax.lax.top_k(bounds, tiles)
    tile = tile.astype(jnp.int32) + first[:, None]
    asked = jnp.broadcast_to(query, tile.shape).reshape(-1)
    inside, around = _in_pieces(bound, _TILES_A_PIECE, valid * tiles, asked, tile.reshape(-1))
    inside = jnp.where(tile_bound[..., None] >= 0, inside.reshape(*tile.shape, TILE), -1.0)

    row_bound, place = jax.lax.top_k(inside.reshape(count, -1), promising)
    slot = jnp.take_along_axis(tile, place // TILE, axis=1) * TILE + place % TILE
    asked = jnp.broadcast_to(query, slot.shape).reshape(-1)
    around = jnp.take_along_axis(around.reshape(count, -1), place, axis=1).reshape(-1)
    slot = slot.reshape(-1)
    common, _ = _in_pieces(compare, _PAIRS_A_PIECE, valid * promising, asked, slot, around)
    value, row = _in_pieces(score, _PAIRS_A_PIECE, valid * promising, asked, slot, common)
    usable = (row_bound >= 0) & (row >= 0).reshape(row_bound.shape)
    value = jnp.where(usable, value.reshape(row_bound.shape).astype(jnp.float32), 0.0)
    return jax.lax.top_k(value, candidates)[0][:, -1]


def nothing(count: int, candidates: int) -> Best:
    shape = (count, candidates)
    return Best(jnp.zeros(shape, jnp.uint32), jnp.full(shape, -1, jnp.int32))


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


def best_of(score: UInt32[Array, "Q n"], row: Int[Array, "Q n"], candidates: int) -> Best:
    """The K best of n rows of each query, of which some may be -1."""

    def count_ahead(index: Array, ahead: Array) -> Array:
        other_score, other_row = (
            jax.lax.dynamic_slice_in_dim(x, index, 1, axis=1) for x in (score, row)
        )
        better = (other_score > score) | ((other_score == score) & (other_row < row))
        return ahead + ((other_row >= 0) & better).astype(jnp.int32)

    ahead = jax.lax.fori_loop(0, row.shape[1], count_ahead, jnp.zeros(row.shape, jnp.int32))
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
    function: Callable[..., tuple[Array, ...]],
    piece: int,
    count: Int[Array, ""],
    *pairs: Int[Array, "n"],
) -> tuple[Array, ...]:
    """`function` of the first `count` of n pairs, a piece at a time; zeros for the others."""
    size = pairs[0].size
    piece = min(piece, size)
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
