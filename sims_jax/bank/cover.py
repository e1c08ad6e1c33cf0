"""Which candidates fill a segment: those that cover most of what is left empty.

A segment's pieces are pasted in layers (`CanvasConfig`): where the chosen one leaves its component
empty, the next shows. The best others by overlap lack what the chosen one lacks, too. So of all
candidates that one comes next which covers most of the component's cells that are still empty, and
so on for each layer. In whole cells of the retrieval grid, so that every program chooses alike.

Not in SIMS, which pastes one piece a segment.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int, UInt32

from sims_jax.bank.pixels import locate
from sims_jax.ops.bits import count_bits, pack_bits
from sims_jax.ops.resize import resize_labels
from sims_jax.types import BANK_AXIS, Bank, BankSpec, Matches, Photos


def candidate_cells(bank: Bank, row: Int[Array, "B N K"]) -> UInt32[Array, "B N K words"]:
    """The cells of the retrieval grid that rows cover, packed; none of rows of -1.

    Of a sharded bank devices exchange the cells of the winners.
    """
    spec, mesh = bank.rows.spec, bank.rows.mesh
    if mesh is None:
        return _read_cells(bank.photos, spec, row)

    def read(photos: Photos, row: Int[Array, "B N K"]) -> UInt32[Array, "B N K words"]:
        here = row // spec.max_segments % mesh.size == jax.lax.axis_index(BANK_AXIS)
        return jax.lax.psum(
            _read_cells(photos, spec, jnp.where(here, row, -1), mesh.size), BANK_AXIS
        )

    everywhere = PartitionSpec()
    return jax.shard_map(
        read, mesh=mesh, in_specs=(PartitionSpec(BANK_AXIS), everywhere), out_specs=everywhere
    )(bank.photos, row)


def _read_cells(
    photos: Photos, spec: BankSpec, row: Int[Array, "B N K"], devices: int = 1
) -> UInt32[Array, "B N K words"]:
    pieces = locate(photos, spec, row, devices)
    y, x = resize_labels(jnp.indices(spec.image_size, jnp.int32), spec.grid)

    def read(one):  # a layout at a time: of its candidates there are many
        place, component = (part[..., None, None] for part in one)
        found = photos.component[place, y, x] == component.astype(jnp.int16)
        cells = found & (component >= 0)
        return pack_bits(cells.reshape(*cells.shape[:-2], -1))

    return jax.lax.map(read, (pieces.place, pieces.component))


@functools.partial(jax.jit, static_argnames=("grid", "layers"))
def prefer_filling(
    matches: Matches, cells: UInt32[Array, "B N K words"], grid: tuple[int, int], layers: int
) -> Matches:
    """Orders the candidates beside the chosen ones anew: first those that fill the layers.

    Args:
      matches: with the rows that are used already chosen; these keep their places.
      cells: what each candidate covers.     grid: (h, w), of which these are the cells.
      layers: of a segment's pieces, the chosen one included.
    """
    component = resize_labels(matches.segments.component, grid)
    number = jnp.arange(matches.row.shape[1], dtype=component.dtype)
    wanted = component[:, None] == number[:, None, None]
    wanted = pack_bits(wanted.reshape(*wanted.shape[:2], -1))
    order = jax.vmap(jax.vmap(functools.partial(_fill, layers)))
    place = order(cells, matches.row >= 0, wanted, matches.chosen)
    return matches.replace(
        row=jnp.take_along_axis(matches.row, place, axis=-1),
        score=jnp.take_along_axis(matches.score, place, axis=-1),
    )


def _fill(
    layers: int,
    cells: UInt32[Array, "K words"],
    there: Bool[Array, "K"],
    wanted: UInt32[Array, "words"],
    chosen: Int[Array, ""],
) -> Int[Array, "K"]:
    """For one segment, the place of each candidate in the new order."""
    place = jnp.arange(len(cells), dtype=jnp.int32)
    rank, taken = place, place == chosen
    wanted &= ~cells[chosen]
    for layer in range(1, layers):
        gain = jnp.where(there & ~taken, count_bits(cells & wanted), -1)
        best = jnp.argmax(gain)  # of equal ones the first
        wanted &= ~cells[best]
        rank = jnp.where((place == best) & ~taken, layer - layers, rank)
        taken |= place == best
    others = jnp.argsort(jnp.where(place == chosen, len(cells), rank)).astype(jnp.int32)
    before, after = others, jnp.roll(others, 1)
    return jnp.where(place < chosen, before, jnp.where(place == chosen, chosen, after))
