"""Masks as packed bits: cell i is bit i % 32, counted from the lowest, of word i // 32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

WORD_BITS = 32
LANES = 16  # words that are counted side by side


def pack_bits(mask: Bool[Array, "*B M"]) -> UInt32[Array, "*B words"]:
    """Packs the last axis into ceil(M / 32) words, padded with zeros."""
    cells = mask.shape[-1]
    words = -(-cells // WORD_BITS)
    padding = [(0, 0)] * (mask.ndim - 1) + [(0, words * WORD_BITS - cells)]
    cells = jnp.pad(mask, padding).astype(jnp.uint8)
    fours = jax.lax.bitcast_convert_type(cells.reshape(*mask.shape[:-1], words, 8, 4), jnp.uint32)
    # Four bytes of 0 or 1 at once: the product has them side by side, from bit 24 on.
    fours = ((fours * jnp.uint32(0x01020408)) >> 24) & jnp.uint32(0xF)
    # The bits of a word are different powers of two, so their sum is their union.
    place = jnp.arange(0, WORD_BITS, 4, dtype=jnp.uint32)
    return jnp.sum(fours << place, axis=-1, dtype=jnp.uint32)


def pack_bits_numpy(mask: Bool[np.ndarray, "*B M"]) -> UInt32[np.ndarray, "*B words"]:
    """`pack_bits` on the host."""
    packed = np.packbits(mask, axis=-1, bitorder="little")
    missing = -packed.shape[-1] % (WORD_BITS // 8)
    padding = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
    return np.pad(packed, padding).view("<u4").astype(np.uint32)


def read_bits(
    words: UInt32[Array, "R words"], row: Int[Array, "*B"], cell: Int[Array, "*B"]
) -> Bool[Array, "*B"]:
    """Cell `cell` of mask `row`, without unpacking the masks."""
    word = words[row, cell // WORD_BITS]
    return ((word >> (cell % WORD_BITS).astype(jnp.uint32)) & jnp.uint32(1)).astype(bool)


def count_bits(words: UInt32[Array, "*B words"]) -> Int[Array, "*B"]:
    """Number of cells set, int32.

    LANES words side by side, unrolled: it compiles to one loop that keeps no word in memory, where
    a plain sum would keep all their counts.
    """
    missing = -words.shape[-1] % LANES
    words = jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, missing)])
    words = words.reshape(*words.shape[:-1], -1, LANES)
    total = jax.lax.population_count(words[..., 0, :])
    for index in range(1, words.shape[-2]):
        total += jax.lax.population_count(words[..., index, :])
    return jnp.sum(total.astype(jnp.int32), axis=-1, dtype=jnp.int32)


def find_bit(words: UInt32[Array, "*B"], rank: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """Which bit of a word is set after `rank` lower ones, 0 to 31; any bit, if so many are not."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        words, rank, place = _halve(words, rank, place, jnp.int32(width))
    return place


@jax.jit  # traced once for all widths
def _halve(
    words: UInt32[Array, "*B"],
    rank: Int[Array, "*B"],
    place: Int[Array, "*B"],
    width: Int[Array, ""],
) -> tuple[UInt32[Array, "*B"], Int[Array, "*B"], Int[Array, "*B"]]:
    """Goes on to the upper half of words of 2 `width` bits where the lower has too few."""
    mask = (jnp.uint32(1) << width.astype(jnp.uint32)) - 1
    below = jax.lax.population_count(words & mask).astype(rank.dtype)
    skip = rank >= below
    below, width = jnp.where(skip, below, 0), jnp.where(skip, width, 0)
    return words >> width.astype(jnp.uint32), rank - below, place + width


def list_true(there: Bool[Array, "Q n"]) -> tuple[Int[Array, "Q n"], Int[Array, "Q"]]:
    """Where each query has true, in order, and how often; after these, some place up to n."""
    words = pack_bits(there)
    inside = jax.lax.population_count(words).astype(jnp.int32)
    end = jnp.cumsum(inside, axis=1, dtype=jnp.int32)
    rank = jnp.arange(there.shape[1], dtype=jnp.int32)
    # An entry's word is the number of words that end before it.
    word = jnp.sum(end[:, :, None] <= rank, axis=1, dtype=jnp.int32)
    word = jnp.minimum(word, words.shape[1] - 1)
    pick = functools.partial(jnp.take_along_axis, indices=word, axis=1)
    place = word * WORD_BITS + find_bit(pick(words), rank - pick(end - inside))
    return place, end[:, -1]
