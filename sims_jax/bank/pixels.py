"""The winners' pixels: of each piece of a canvas the photo its row is cut from, and the cut."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from sims_jax.bank.choose import layer_places
from sims_jax.types import BANK_AXIS, Bank, BankSpec, Matches, Photos, Pieces, Pixels


def used_rows(matches: Matches, layers: int = 1) -> Int[Array, "*B J"]:
    """The rows of all pieces, -1 for none: the segments' chosen ones, then those that fill them."""
    place = jnp.stack(layer_places(matches.chosen, layers), axis=-1)
    row = jnp.take_along_axis(matches.row, place, axis=-1, mode="fill", fill_value=-1)
    return jnp.swapaxes(row, -1, -2).reshape(*row.shape[:-2], -1)


def gather(bank: Bank, matches: Matches, layers: int = 1) -> Pixels:
    """Reads the used rows' photos and cuts, J of each layout; rows of -1 give empty cuts.

    `layers` of them a segment: the chosen one, then the best others (`CanvasConfig`).

    Of a sharded bank each device reads the winners it has, and their sum is everyone's: what
    devices exchange are the winners' pixels alone.
    """
    row = used_rows(matches, layers)
    mesh = bank.rows.mesh
    if mesh is None:
        return cut(locate(bank.photos, bank.rows.spec, row))

    def read(photos: Photos, row: Int[Array, "B J"]) -> Pixels:
        here = row // bank.rows.spec.max_segments % mesh.size == jax.lax.axis_index(BANK_AXIS)
        own = cut(locate(photos, bank.rows.spec, jnp.where(here, row, -1), mesh.size))
        photo, mask = jax.lax.psum((own.photo, own.mask.astype(jnp.uint8)), BANK_AXIS)
        return Pixels(photo=photo, mask=mask.astype(bool))

    everywhere = PartitionSpec()
    return jax.shard_map(
        read, mesh=mesh, in_specs=(PartitionSpec(BANK_AXIS), everywhere), out_specs=everywhere
    )(bank.photos, row)


def locate(photos: Photos, spec: BankSpec, row: Int[Array, "*B J"], devices: int = 1) -> Pieces:
    """The pieces that rows are, in one share of `devices`; of -1 nothing."""
    photo, component = jnp.divmod(row, spec.max_segments)
    there = row >= 0
    return Pieces(
        photos=photos,
        place=jnp.where(there, photo // devices, 0),
        component=jnp.where(there, component, -1),
    )


def cut(pieces: Pieces) -> Pixels:
    """Pixels of their own for every piece; zeros where it is nothing."""
    there = (pieces.component >= 0)[..., None, None]
    component = pieces.component[..., None, None].astype(jnp.int16)
    return Pixels(
        photo=jnp.where(there[..., None], pieces.photos.photo[pieces.place], jnp.uint8(0)),
        mask=(pieces.photos.component[pieces.place] == component) & there,
    )


def as_pieces(pixels: Pixels) -> Pieces:
    """Pixels, each piece's its own, as pieces."""
    *batch, height, width = pixels.mask.shape
    photos = Photos(
        photo=pixels.photo.reshape(-1, height, width, 3),
        component=pixels.mask.reshape(-1, height, width).astype(jnp.int16) - jnp.int16(1),
    )
    found = pixels.mask.any(axis=(-2, -1))
    place = jnp.arange(found.size, dtype=jnp.int32).reshape(batch)
    return Pieces(photos=photos, place=place, component=found.astype(jnp.int32) - 1)
