"""Packed bits against Python integers, and round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.bits import count_bits, find_bit, list_true, pack_bits, pack_bits_numpy, read_bits

COUNTS = (1, 31, 32, 33, 100, 256)


def random_mask(*shape):
    return np.random.default_rng(0).random(shape) < 0.4


@pytest.mark.parametrize("count", COUNTS)
def test_pack_is_little_endian(count):
    mask = random_mask(count)
    number = sum(1 << i for i in range(count) if mask[i])
    expected = [(number >> (32 * w)) & 0xFFFFFFFF for w in range(-(-count // 32))]
    words = pack_bits(jnp.asarray(mask))
    assert words.dtype == jnp.uint32
    np.testing.assert_array_equal(words, np.array(expected, np.uint32))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_round_trip(count, batch):
    mask = random_mask(*batch, count)
    words = pack_bits(jnp.asarray(mask))
    np.testing.assert_array_equal(words, pack_bits_numpy(mask))
    octets = np.asarray(words).astype("<u4").view(np.uint8)
    unpacked = np.unpackbits(octets, axis=-1, count=count, bitorder="little")
    np.testing.assert_array_equal(unpacked, mask)


def test_read_bits():
    mask = random_mask(5, 70)
    row, cell = np.indices(mask.shape, dtype=np.int32)
    words = pack_bits(jnp.asarray(mask))
    np.testing.assert_array_equal(read_bits(words, jnp.asarray(row), jnp.asarray(cell)), mask)


def test_count_bits():
    mask = random_mask(2, 7, 90)
    words = pack_bits(jnp.asarray(mask))
    np.testing.assert_array_equal(count_bits(words), mask.sum(-1))
    np.testing.assert_array_equal(jax.jit(jax.vmap(count_bits))(words), mask.sum(-1))


def test_find_bit_finds_each_in_turn():
    for word in (1, 0x80000000, 0xFFFFFFFF, 0x00018000, 0xA5A5005A):
        expected = [bit for bit in range(32) if word >> bit & 1]
        rank = jnp.arange(len(expected), dtype=jnp.int32)
        words = jnp.full(rank.shape, word, jnp.uint32)
        np.testing.assert_array_equal(find_bit(words, rank), expected)


def test_list_true_lists_in_order():
    mask = random_mask(6, 70)
    mask[0], mask[1] = False, True
    place, number = list_true(jnp.asarray(mask))
    np.testing.assert_array_equal(number, mask.sum(-1))
    for row, places, count in zip(mask, np.asarray(place), np.asarray(number), strict=True):
        np.testing.assert_array_equal(places[:count], np.flatnonzero(row))
