"""Which candidates fill a segment: those that cover most of what is left empty.

A segment's pieces are pasted in layers (`CanvasConfig`): where the chosen one leaves its component
empty, the next shows. What the chosen one lacks, those that overlap best mostly lack, too. So of
all candidates that one comes next which has the highest

    2 * share - weight * |light - chosen light|^2

with the share of the component's cells that it covers where those before do not, and the light of
its photo as in `choose.py`; and so on for each layer. Rows count where they stand, before they are
aligned, and all in integers, on the retrieval grid, so that every program and device chooses alike.

Of things, what is still empty after all layers is found here, too: see `sims_jax.retrieval`.

Not in SIMS, which pastes one piece a segment.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from sims_jax.bank.choose import OVERLAP_STEPS, in_order, light_cost
from sims_jax.bank.pixels import read_rows
from sims_jax.ops.bits import WORD_BITS, count_bits, pack_bits, read_bits
from sims_jax.ops.chunks import map_chunks
from sims_jax.ops.components import is_one_of
from sims_jax.ops.morphology import dilate, distance_to_change
from sims_jax.ops.resize import resize_labels
from sims_jax.types import Bank, BankSpec, Matches, Pieces, Segments

_SEGMENTS_AT_ONCE = 8  # of a layout; as many of which nothing was found are skipped
_MOST_EMPTY = 9, 10  # of a segment's cells, as a fraction; with more, hardly anything was found
_SHARE_BITS = 17  # of an area; with the steps of an overlap they stay below 2^31


def candidate_cells(bank: Bank, row: Int[Array, "B N K"]) -> UInt32[Array, "B N K words"]:
    """The cells of the retrieval grid that rows cover, packed; none of rows of -1.

    Of a sharded bank devices exchange the cells of all candidates, a bit each.
    """
    spec = bank.rows.spec
    return read_rows(bank, row, functools.partial(_read_cells, spec))


def _read_cells(spec: BankSpec, pieces: Pieces) -> UInt32[Array, "B N K words"]:
    y, x = resize_labels(jnp.indices(spec.image_size, jnp.int32), spec.grid)

    def read(place, component):
        place, component = place[..., None, None], component[..., None, None]
        cells = (pieces.photos.component[place, y, x] == component.astype(jnp.int16)) & (
            component >= 0
        )
        return pack_bits(cells.reshape(*cells.shape[:-2], -1))

    def read_all(one):
        found = (one[1] >= 0).any(axis=-1)
        return map_chunks(read, one, found, _SEGMENTS_AT_ONCE)

    return jax.lax.map(read_all, (pieces.place, pieces.component))


@functools.partial(jax.jit, static_argnames=("grid", "layers", "weight"))
def prefer_filling(
    matches: Matches,
    cells: UInt32[Array, "B N K words"],
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    layers: int,
    weight: float,
) -> Matches:
    """Orders the candidates beside the chosen ones anew: first those that fill the layers.

    Args:
      matches: with the rows that are used already chosen; these keep their places.
      cells: of `grid`, (h, w), that each candidate covers.
      light: of the bank's photos.
      layers: of a segment's pieces, the chosen one included.
      weight: as in `prefer_alike`.
    """
    place = order_filling(
        matches.segments.component, matches.row, matches.chosen, cells, light, grid, layers, weight
    )
    return in_order(matches, place)


def order_filling(
    component: Int[Array, "B H W"],
    row: Int[Array, "B N K"],
    chosen: Int[Array, "B N"],
    cells: UInt32[Array, "B N K words"],
    light: Int[Array, "P 3"],
    grid: tuple[int, int],
    layers: int,
    weight: float,
) -> Int[Array, "B N K"]:
    """The place of each candidate in the order of `prefer_filling`."""
    component = resize_labels(component, grid)
    number = jnp.arange(row.shape[1], dtype=component.dtype)
    wanted = component[:, None] == number[:, None, None]
    wanted = pack_bits(wanted.reshape(*wanted.shape[:2], -1))
    own = light[jnp.where(row >= 0, row // row.shape[1], 0)]
    cost = light_cost(own, jnp.take_along_axis(own, chosen[..., None, None], axis=-2), weight)
    order = jax.vmap(jax.vmap(functools.partial(_order_one, layers)))
    return order(cells, row >= 0, cost, wanted, chosen)


@functools.partial(jax.jit, static_argnames="spec")
def find_empty(
    segments: Segments, cells: UInt32[Array, "B N L words"], spec: BankSpec
) -> Bool[Array, "B H W"]:
    """The pixels of things, which are of no context class, that no piece covers.

    Strips no wider than a cell are left out, and so are things of which hardly anything was found.

    Args:
      segments: of layouts.
      cells: of the grid that each segment's pieces cover.
    """
    context = spec.labels.ids(spec.labels.context)
    things = segments.valid & ~is_one_of(segments.class_id, context)
    covered = jax.lax.reduce(cells, jnp.uint32(0), jax.lax.bitwise_or, (2,))
    return jax.vmap(functools.partial(_find_empty, spec))(segments.component, things, covered)


def _find_empty(
    spec: BankSpec,
    component: Int[Array, "H W"],
    things: Bool[Array, "N"],
    covered: UInt32[Array, "N words"],
) -> Bool[Array, "H W"]:
    small, count = resize_labels(component, spec.grid), len(things)
    cell = jnp.arange(small.size, dtype=jnp.int32).reshape(small.shape)
    empty = ~read_bits(covered, jnp.maximum(small, 0), cell)
    # In a table of segments the last row is of the cells of none, whose number is -1.
    inside = jnp.zeros(count + 1, jnp.int32).at[small].add(1)
    left = jnp.zeros(count + 1, jnp.int32).at[small].add(empty.astype(jnp.int32))
    partly = _MOST_EMPTY[1] * left <= _MOST_EMPTY[0] * inside
    partly &= jnp.pad(things, (0, 1))
    empty = resize_labels(empty, spec.image_size) & partly[component]
    owner = jnp.where(empty, component, -1)
    cell_px = -(-spec.image_size[0] // spec.grid[0])
    radius_px = (cell_px + 1) // 2
    core = empty & (distance_to_change(owner, radius_px + 1) > radius_px)
    return dilate(core, radius_px)  # into pixels of the same segment alone


def _order_one(
    layers: int,
    cells: UInt32[Array, "K words"],
    there: Bool[Array, "K"],
    cost: Int[Array, "K"],
    wanted: UInt32[Array, "words"],
    chosen: Int[Array, ""],
) -> Int[Array, "K"]:
    """For one segment, the place of each candidate in the new order."""
    place = jnp.arange(len(cells), dtype=jnp.int32)
    rank, left = place, there & (place != chosen)
    area = count_bits(wanted)
    wanted &= ~cells[chosen]
    for layer in range(1, layers):
        value = 2 * _share(count_bits(cells & wanted), area) - cost
        best = jnp.argmax(jnp.where(left, value, jnp.iinfo(jnp.int32).min))  # of equals the first
        wanted &= ~cells[best]
        rank = jnp.where(left & (place == best), layer - layers, rank)
        left &= place != best
    others = jnp.argsort(jnp.where(place == chosen, len(cells), rank)).astype(jnp.int32)
    after = jnp.where(place == chosen, chosen, jnp.roll(others, 1))
    return jnp.where(place < chosen, others, after)


def _share(count: Int[Array, "K"], area: Int[Array, ""]) -> Int[Array, "K"]:
    """`count` of `area` cells, in steps of an overlap; large areas lose their last bits."""
    bits = WORD_BITS - jax.lax.clz(area)
    cut = jnp.maximum(bits - _SHARE_BITS, 0)
    return OVERLAP_STEPS * (count >> cut) // jnp.maximum(area >> cut, 1)
