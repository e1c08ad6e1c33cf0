"""Regions of label maps: connected components, 8-connected, under jit.

A component is known by its root, the raster index y * W + x of its first pixel; pixels of no
component carry H * W. Pixels are a forest of parent pointers that starts as one tree a pixel.
Every round hooks each tree under the smallest root seen by one of its pixels' neighbours and then
halves the paths (pointer jumping), so a serpentine takes about as many rounds as the logarithm of
its length. Source: Zhang, Azad and Hu, "FastSV", 2020.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, UInt32

# Odd multipliers of 32-bit integer hashing (Murmur3's finalizer and the golden ratio); any odd
# numbers give a right answer, these spread the keys so that few rounds are needed.
_HASH_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9)
_HASH_SHIFT = 15
_MAX_PIXELS = 2**24  # the integers that float32 holds


def is_one_of(labels: Integer[Array, "*S"], ids: tuple[int, ...]) -> Bool[Array, "*S"]:
    """Where the label is one of `ids`."""
    return jnp.isin(labels, jnp.asarray(ids, labels.dtype))


def label_components(values: Integer[Array, "H W"], mask: Bool[Array, "H W"]) -> Int[Array, "H W"]:
    """Root of the 8-connected component of equal value at each pixel.

    Args:
      values: pixels are connected where their values are equal.
      mask: pixels outside belong to no component and connect nothing.

    Returns:
      int32, the raster index of the component's first pixel; H * W outside the mask.
    """
    height, width = values.shape
    count = height * width
    inside = jnp.pad(mask, 1)
    padded_values = jnp.pad(values, 1)
    linked = [
        mask & _shift(inside, step) & (values == _shift(padded_values, step))
        for step in _neighbour_steps()
    ]

    def hook(state):
        parent, _ = state
        grand = parent[parent]
        padded = jnp.pad(grand.reshape(height, width), 1)
        lowest = grand.reshape(height, width)
        for step, link in zip(_neighbour_steps(), linked, strict=True):
            lowest = jnp.where(link, jnp.minimum(lowest, _shift(padded, step)), lowest)
        lowest = lowest.reshape(-1)
        hooked = jnp.minimum(parent, lowest).at[parent].min(lowest, mode="promise_in_bounds")
        hooked = hooked[hooked]
        return hooked, jnp.any(hooked != parent)

    start = jnp.arange(count, dtype=jnp.int32)
    parent, _ = jax.lax.while_loop(lambda state: state[1], hook, (start, jnp.any(mask)))
    return jnp.where(mask, parent.reshape(height, width), jnp.int32(count))


def join_across(
    roots: Int[Array, "H W"], kinds: Integer[Array, "H W"], bridges: Bool[Array, "H W"]
) -> Int[Array, "H W"]:
    """Joins components of equal kind that touch, or belong to, one component of `bridges`.

    Two components touch where a pixel of one is an 8-neighbour of a pixel of the other. Joining
    is transitive: what is joined across one bridge may be joined on across the next.

    Args:
      roots: components as `label_components` gives them.
      kinds: what a component is, constant over it; different kinds are never joined.
      bridges: the pixels across which components are joined.

    Returns:
      int32, the smallest root among the joined components; H * W where `roots` says so.
    """
    height, width = roots.shape
    count = height * width
    bridge_roots = label_components(jnp.zeros_like(roots), bridges)
    # The bridge pixels of a 2x2 block are neighbours, so a block has one bridge at most, and the
    # four blocks around a pixel show every bridge it touches.
    padded = jnp.pad(bridge_roots, 1, constant_values=count)
    rows = jnp.minimum(padded[:-1], padded[1:])
    blocks = jnp.minimum(rows[:, :-1], rows[:, 1:])
    corners = (blocks[:-1, :-1], blocks[:-1, 1:], blocks[1:, :-1], blocks[1:, 1:])
    bridge = jnp.stack(corners).reshape(-1)
    kind = jnp.tile(kinds.astype(jnp.int32).reshape(-1), len(corners))
    member = jnp.tile(roots.reshape(-1), len(corners))
    group = _group_equal(bridge, kind, (bridge < count) & (member < count))
    parent = _join_groups(member, group, count)
    return _take(parent, roots.reshape(-1)).reshape(height, width)


def rank_components(
    roots: Int[Array, "H W"], min_area_px: int, max_components: int
) -> tuple[Int[Array, "H W"], Int[Array, "N"], Int[Array, "N"], Int[Array, ""]]:
    """Keeps the largest components and numbers them in raster order of their first pixels.

    Args:
      roots: components as `label_components` or `join_across` give them.
      min_area_px: smaller components are dropped.
      max_components: N; of more, the N largest are kept, of equal ones the earlier.

    Returns:
      The component's number at each pixel, -1 where there is none; the areas in pixels, 0 for
      numbers that are not used; the roots, H * W for those; and how many components of at least
      `min_area_px` were left out. All int32.

    Raises:
      ValueError: the frame has more than 2 ** 24 pixels.
    """
    count = roots.size
    if count > _MAX_PIXELS:
        raise ValueError(f"the frame has {count} pixels, expected at most {_MAX_PIXELS}")
    area = jnp.zeros(count + 1, jnp.int32).at[roots.reshape(-1)].add(1)[:count]
    eligible = (area >= min_area_px) & (area > 0)
    # XLA's fast top_k is the one for float32, exact for areas up to _MAX_PIXELS.
    rank_by = jnp.where(eligible, area, 0).astype(jnp.float32)
    kept_area, kept_root = jax.lax.top_k(rank_by, min(max_components, count))
    missing = (0, max_components - kept_root.shape[0])
    kept_root = jnp.where(kept_area > 0, kept_root, jnp.int32(count))
    first = jnp.sort(jnp.pad(kept_root, missing, constant_values=count))
    kept = first < count
    number = jnp.where(kept, jnp.arange(max_components, dtype=jnp.int32), -1)
    # Unused numbers write -1 where background pixels look, at index `count`.
    table = jnp.full(count + 1, -1, jnp.int32).at[first].set(number)
    area_px = jnp.where(kept, area[jnp.minimum(first, count - 1)], 0)
    left_out = jnp.sum(eligible, dtype=jnp.int32) - jnp.sum(kept, dtype=jnp.int32)
    return table[roots], area_px, first, left_out


def component_boxes(index_map: Int[Array, "H W"], num_components: int) -> Int[Array, "N 4"]:
    """Half-open boxes (y0, x0, y1, x1) of the components 0 .. N - 1, zeros for absent ones.

    Args:
      index_map: number of the component at each pixel, -1 where there is none.
      num_components: N.
    """
    height, width = index_map.shape
    index = jnp.where(index_map < 0, num_components, index_map)
    y, x = jnp.indices((height, width), dtype=jnp.int32)
    low = jnp.full((num_components, 2), max(height, width), jnp.int32)
    high = jnp.zeros((num_components, 2), jnp.int32)
    position = jnp.stack([y, x], axis=-1)
    low = low.at[index].min(position, mode="drop")
    high = high.at[index].max(position + 1, mode="drop")
    return jnp.where(high[:, :1] > 0, jnp.concatenate([low, high], axis=-1), 0)


def _neighbour_steps() -> list[tuple[int, int]]:
    """The eight (dy, dx)."""
    return [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def _shift(padded: Array, step: tuple[int, int]) -> Array:
    """The neighbour at `step` of each pixel, of an image padded by one pixel on each side."""
    dy, dx = step
    height, width = padded.shape
    return padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]


def _take(table: Int[Array, "T"], index: Int[Array, "M"]) -> Int[Array, "M"]:
    """table[index], and index itself where it is past the table (H * W, no component)."""
    return jnp.where(index < table.size, table[jnp.minimum(index, table.size - 1)], index)


def _group_equal(
    a: Int[Array, "M"], b: Int[Array, "M"], valid: Bool[Array, "M"]
) -> Int[Array, "M"]:
    """Position of one same entry for all entries of equal (a, b); M where not valid.

    A hash table filled by scatter-min: the lowest position in a slot is the slot's key, entries
    equal to it are settled, the others are hashed anew. Exact, whatever the hash does, since the
    keys themselves are compared and every round settles at least one; no sort, which is slow.
    """
    size = a.size
    table_bits = math.ceil(math.log2(size))
    position = jnp.arange(size, dtype=jnp.int32)

    def settle(state):
        group, salt = state
        pending = valid & (group == size)
        slot = jnp.where(pending, _hash(a, b, salt, table_bits), jnp.int32(2**table_bits))
        table = jnp.full(2**table_bits + 1, size - 1, jnp.int32).at[slot].min(position)
        key = table[slot]
        settled = pending & (a[key] == a) & (b[key] == b)
        return jnp.where(settled, key, group), salt + jnp.uint32(1)

    def unsettled(state):
        return jnp.any(valid & (state[0] == size))

    start = (jnp.full(size, size, jnp.int32), jnp.uint32(0))
    return jax.lax.while_loop(unsettled, settle, start)[0]


def _hash(
    a: Int[Array, "M"], b: Int[Array, "M"], salt: UInt32[Array, ""], bits: int
) -> Int[Array, "M"]:
    """Pseudo-random numbers of `bits` bits, a function of (a, b, salt)."""
    first, second, third = (jnp.uint32(multiplier) for multiplier in _HASH_MULTIPLIERS)
    mixed = (a.astype(jnp.uint32) + salt * third) * first
    mixed = (mixed ^ (mixed >> _HASH_SHIFT) ^ b.astype(jnp.uint32)) * second
    mixed = (mixed ^ (mixed >> _HASH_SHIFT)) * third
    return (mixed >> (32 - bits)).astype(jnp.int32)


def _join_groups(
    member: Int[Array, "M"], group: Int[Array, "M"], count: int
) -> Int[Array, "count"]:
    """For each of `count` nodes the smallest one joined to it; members of a group are joined.

    Entries whose member is `count` or whose group is M join nothing.
    """

    def hook(state):
        parent, _ = state
        root = _take(parent, member)
        lowest = jnp.full(member.size + 1, count, jnp.int32).at[group].min(root)
        # Group M collects what joins nothing, so it must pull nothing down.
        lowest = jnp.minimum(root, lowest.at[member.size].set(count)[group])
        hooked = parent.at[root].min(lowest, mode="drop").at[member].min(lowest, mode="drop")
        hooked = hooked[hooked]
        return hooked, jnp.any(hooked != parent)

    start = jnp.arange(count, dtype=jnp.int32)
    joined = jnp.any(group < member.size)
    return jax.lax.while_loop(lambda state: state[1], hook, (start, joined))[0]
