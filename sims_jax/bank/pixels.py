"""The winners' pixels: of each piece of a canvas the photo its row is cut from, and the cut."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from sims_jax.bank.choose import layer_places
from sims_jax.types import BANK_AXIS, Bank, BankSpec, Matches, Photos, Pieces, Pixels


def layer_rows(matches: Matches, layers: int = 1) -> Int[Array, "*B N L"]:
    """The rows of each segment's pieces, -1 for none: its chosen one, then those that fill it."""
    place = jnp.stack(layer_places(matches.chosen, layers), axis=-1)
    return jnp.take_along_axis(matches.row, place, axis=-1, mode="fill", fill_value=-1)


def used_rows(matches: Matches, layers: int = 1) -> Int[Array, "*B J"]:
    """The rows of all pieces: the segments' chosen ones, then those that fill them."""
    row = layer_rows(matches, layers)
    return jnp.swapaxes(row, -1, -2).reshape(*row.shape[:-2], -1)


def gather(bank: Bank, matches: Matches, layers: int = 1) -> Pixels:
    """Reads the used rows' photos and cuts, J of each layout; rows of -1 give empty cuts.

    `layers` of them a segment: the chosen one, then those that fill it (`CanvasConfig`).
    """
    return cut(locate_pieces(bank, matches, layers))


def locate_pieces(bank: Bank, matches: Matches, layers: int = 1) -> Pieces:
    """The pieces of canvases, as `gather`, without a copy of the bank's photos.

    Of a sharded bank they are copied: what devices exchange are the winners' pixels alone.
    """
    row = used_rows(matches, layers)
    if bank.rows.mesh is None:
        return locate(bank.photos, bank.rows.spec, row)

    def read(pieces: Pieces) -> tuple[Array, Array]:
        own = cut(pieces)
        return own.photo, own.mask.astype(jnp.uint8)

    photo, mask = read_rows(bank, row, read)
    return as_pieces(Pixels(photo=photo, mask=mask.astype(bool)))


def read_rows(bank: Bank, row: Int[Array, "*B J"], read: Callable[[Pieces], Any]) -> Any:
    """What `read` makes of the pieces of rows: numbers, and zeros of pieces that are nothing.

    Of a sharded bank each device reads the rows it has, and their sum is everyone's.
    """
    spec, mesh = bank.rows.spec, bank.rows.mesh
    if mesh is None:
        return read(locate(bank.photos, spec, row))

    def read_own(photos: Photos, row: Int[Array, "*B J"]) -> Any:
        here = row // spec.max_segments % mesh.size == jax.lax.axis_index(BANK_AXIS)
        own = read(locate(photos, spec, jnp.where(here, row, -1), mesh.size))
        return jax.lax.psum(own, BANK_AXIS)

    everywhere = PartitionSpec()
    return jax.shard_map(
        read_own, mesh=mesh, in_specs=(PartitionSpec(BANK_AXIS), everywhere), out_specs=everywhere
    )(bank.photos, row)


def locate(photos: Photos, spec: BankSpec, row: Int[Array, "*B J"], devices: int = 1) -> Pieces:
    """Where the pixels of rows are: their photos in one share of `devices`, and ids in these."""
    photo, component = jnp.divmod(row, spec.max_segments)
    there = row >= 0
    return Pieces(
        photos=photos,
        place=jnp.where(there, photo // devices, 0),
        component=jnp.where(there, component, -1),
    )


def cut(pieces: Pieces) -> Pixels:
    """A photo and a cut for each piece; zeros for those that are nothing."""
    there = (pieces.component >= 0)[..., None, None]
    component = pieces.component[..., None, None].astype(jnp.int16)
    return Pixels(
        photo=jnp.where(there[..., None], pieces.photos.photo[pieces.place], jnp.uint8(0)),
        mask=(pieces.photos.component[pieces.place] == component) & there,
    )


def as_pieces(pixels: Pixels) -> Pieces:
    """The inverse of `cut`: each piece has a photo of its own, with id 0 inside the cut."""
    photo, mask = jnp.asarray(pixels.photo), jnp.asarray(pixels.mask)
    photos = Photos(
        photo=photo.reshape(-1, *photo.shape[-3:]),
        component=mask.reshape(-1, *mask.shape[-2:]).astype(jnp.int16) - jnp.int16(1),
    )
    found = mask.any(axis=(-2, -1))
    place = jnp.arange(found.size, dtype=jnp.int32).reshape(found.shape)
    return Pieces(photos=photos, place=place, component=found.astype(jnp.int32) - 1)
