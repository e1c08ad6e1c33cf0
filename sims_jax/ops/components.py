"""Regions of label maps: connected components, 8-connected, under jit.

A component is known by its root, the raster index y * W + x of its first pixel; pixels of no
component carry H * W. Every pixel points to where its run of equal pixels begins, above or else to
the left, or to a neighbour in the row above, and pointer jumping takes this forest to its roots: in
the logarithm of H + W rounds at most, in few where runs are long. Where two of its trees meet is
known from a pixel's neighbours alone and is rare: these few pairs are gathered and joined by
hooking tops under smaller ones, again in a logarithm of rounds, so that a serpentine is no harder
than a street.

Source: Wu, Otoo and Suzuki, "Optimizing two-pass connected-component labeling algorithms", 2009
(which neighbours can be of two trees); Zhang, Azad and Hu, "FastSV", 2020 (the hooking).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, UInt32

from sims_jax.ops.bits import WORD_BITS, pack_bits

# Pairs joined at once: at 256 x 512 pixels no CamVid layout has more, and joining so many takes
# about as long as a few passes over the pixels.
_BATCH = 1024
_JUMPS = 3  # in a row: to see whether anything has changed takes about as long as a jump
_CHUNK_WORDS = 8  # of a chunk, in which runs are followed at once: work grows with their number
_LANES = 4  # separate copies of a table, so that a write need not wait for the one before
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
    # The barrier keeps XLA from padding anew, pixel by pixel, wherever a neighbour is read.
    inside, padded = jax.lax.optimization_barrier((jnp.pad(mask, 1), jnp.pad(values, 1)))
    left, up_left, up, up_right = (
        mask & _shift(inside, step) & (values == _shift(padded, step))
        for step in ((0, -1), (-1, -1), (-1, 0), (-1, 1))
    )
    back = jnp.where(up_right, width - 1, 0)
    back = jnp.where(up_left, width + 1, back)
    back = jnp.where(left, _run_back(left[:, :, None])[:, :, 0], back)
    back = jnp.where(up, _run_back(up[None])[0] * width, back)
    parent = jnp.arange(count, dtype=jnp.int32).reshape(height, width) - back

    def jump(state):
        node, _ = state
        for _ in range(_JUMPS):
            before, node = node, _read(node, node)
        return node, jnp.any(node != before)

    root, _ = jax.lax.while_loop(lambda state: state[1], jump, (parent, jnp.bool_(True)))
    # Left, upper left and upper one are neighbours of each other, as are upper and upper right
    # one: only here can a pixel be what two trees have in common.
    meets = up_right & ~up & (up_left | left)

    def find_apart(root):
        differs = root[1:, :-1] != root[:-1, 1:]
        return meets & jnp.pad(differs, ((1, 0), (0, 1)))

    # What is apart is found a batch ahead: XLA is slow where it packs bits as it computes them.
    def join_some(state):
        root, apart, _ = state
        pixel, found = _find(apart.reshape(-1), _BATCH)
        upper_right = jnp.where(pixel < count, pixel - (width - 1), pixel)
        joined = _join_pairs(root.reshape(-1), _read(root, pixel), _read(root, upper_right))
        root = _read(joined, root)
        return root, find_apart(root), found > _BATCH

    state = (root, find_apart(root), jnp.bool_(True))
    root, _, _ = jax.lax.while_loop(lambda state: state[2], join_some, state)
    return jnp.where(mask, root, jnp.int32(count))


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
    count = roots.size
    bridge_roots = label_components(jnp.zeros_like(roots), bridges)
    # The bridge pixels of a 2x2 block are neighbours, so a block has one bridge at most, and the
    # four blocks around a pixel show every bridge it touches.
    padded = jnp.pad(bridge_roots, 1, constant_values=count)
    rows = jnp.minimum(padded[:-1], padded[1:])
    blocks = jnp.minimum(rows[:, :-1], rows[:, 1:])
    corners = (blocks[:-1, :-1], blocks[:-1, 1:], blocks[1:, :-1], blocks[1:, 1:])
    contact = [_is_new_contact(one, roots, corners[:i]) for i, one in enumerate(corners)]
    contact, bridge = (jnp.stack(maps).reshape(-1) for maps in (contact, corners))

    def join(entry):
        pixel = entry % count
        member, kind = roots.reshape(-1)[pixel], kinds.reshape(-1)[pixel]
        first = _find_first(bridge[entry], kind.astype(jnp.int32), entry < contact.size)
        return _join_pairs(jnp.arange(count + 1, dtype=jnp.int32), member, member[first])

    # Unlike pairs, contacts are joined all at once, as any two may be of one bridge and kind.
    some, found = _find(contact, _BATCH)
    parent = jax.lax.cond(
        found <= _BATCH,
        lambda: join(some),
        lambda: join(jnp.where(contact, jnp.arange(contact.size, dtype=jnp.int32), contact.size)),
    )
    return _read(parent, roots)


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
    # Unsigned, so that XLA need not look for negative indices; H * W is dropped.
    index = roots.reshape(-1).astype(jnp.uint32)
    area = jnp.zeros(count, jnp.int32).at[index].add(1, mode="drop")
    eligible = (area >= min_area_px) & (area > 0)
    first, found = _find(eligible, max_components)

    def find_largest():
        # XLA's fast top_k is the one for float32, exact for areas up to _MAX_PIXELS.
        rank_by = jnp.where(eligible, area, 0).astype(jnp.float32)
        root = jax.lax.top_k(rank_by, min(max_components, count))[1]
        return jnp.sort(jnp.pad(root, (0, max_components - root.size), constant_values=count))

    first = jax.lax.cond(found > max_components, find_largest, lambda: first)
    kept = first < count
    number = jnp.where(kept, jnp.arange(max_components, dtype=jnp.int32), -1)
    # Unused numbers write -1 where background pixels look, at index `count`.
    table = jnp.full(count + 1, -1, jnp.int32).at[first].set(number)
    area_px = jnp.where(kept, area[jnp.minimum(first, count - 1)], 0)
    return _read(table, roots), area_px, first, jnp.maximum(found - max_components, 0)


def component_boxes(index_map: Int[Array, "H W"], num_components: int) -> Int[Array, "N 4"]:
    """Half-open boxes (y0, x0, y1, x1) of the components 0 .. N - 1, zeros for absent ones.

    Args:
      index_map: number of the component at each pixel, -1 where there is none.
      num_components: N.
    """
    height, width = index_map.shape
    index = jnp.where(index_map < 0, num_components, index_map)
    y, x = jnp.indices((height, width), dtype=jnp.int32)
    corners = jnp.stack([y, x, -(y + 1), -(x + 1)], axis=-1)
    none = jnp.int32(max(height, width))
    lanes = jnp.full((num_components + 1, _LANES, 4), none)
    box = jnp.min(lanes.at[index, x % _LANES].min(corners)[:num_components], axis=1)
    return jnp.where(box[:, :1] < none, box * jnp.asarray([1, 1, -1, -1], jnp.int32), 0)


def _shift(padded: Array, step: tuple[int, int]) -> Array:
    """The neighbour at `step` of each pixel, of an image padded by one pixel on each side."""
    dy, dx = step
    height, width = padded.shape
    return padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]


def _run_back(linked: Bool[Array, "A N B"]) -> Int[Array, "A N B"]:
    """How far before each pixel its run begins: pixels along N linked each to the one before.

    Where that is before the pixel's chunk of a few words, how far the chunk's last predecessor is:
    it belongs to the run. In a word of bits the last run begins at the highest bit that is set.
    """
    length, behind = linked.shape[1:]
    chunks = math.ceil(length / (_CHUNK_WORDS * WORD_BITS))
    words = math.ceil(length / (chunks * WORD_BITS))
    padding = (0, 0), (0, chunks * words * WORD_BITS - length), (0, 0)
    begins = jnp.pad(~linked, padding).reshape(-1, words, WORD_BITS, behind)
    bit = jnp.arange(WORD_BITS, dtype=jnp.uint32)[:, None]
    packed = jnp.sum(begins.astype(jnp.uint32) << bit, axis=2, dtype=jnp.uint32)
    place = jnp.arange(words * WORD_BITS, dtype=jnp.int32).reshape(words, WORD_BITS, 1)
    last = jnp.where(packed > 0, place[:, -1] - _leading_zeros(packed), -1)
    earlier = jnp.tri(words, k=-1, dtype=bool)[:, :, None]
    before = jnp.max(jnp.where(earlier, last[:, None], -1), axis=2)
    up_to_bit = packed[:, :, None] << (WORD_BITS - 1 - bit)
    begin = jnp.where(up_to_bit > 0, place - _leading_zeros(up_to_bit), before[:, :, None])
    return (place - begin).reshape(len(linked), -1, behind)[:, :length]


def _leading_zeros(words: UInt32[Array, "*S"]) -> Int[Array, "*S"]:
    return jax.lax.clz(words).astype(jnp.int32)


def _read(table: Array, index: Int[Array, "*S"]) -> Array:
    """Entries of a table by raster index; indices beyond it read the last.

    Unlike `table[index]` it does not look for negative indices: that would take two thirds longer
    on a CPU.
    """
    return jnp.take(table.reshape(-1), index, mode="clip")


def _find(chosen: Bool[Array, "M"], size: int) -> tuple[Int[Array, "{size}"], Int[Array, ""]]:
    """Positions of the first `size` true entries, M where there are fewer; how many there are.

    XLA is slow at the running sum that this takes, so it runs over words of bits.
    """
    words = pack_bits(chosen)
    through = jnp.cumsum(_count_bits(words))
    nth = jnp.arange(size, dtype=jnp.int32)
    at = jnp.searchsorted(through, nth, side="right")
    word = words[at]
    # Counts the true entries up to each bit; the n-th is at the first bit that has more than n.
    up_to_bit = (jnp.uint32(2) << jnp.arange(WORD_BITS, dtype=jnp.uint32)) - jnp.uint32(1)
    passed = (through[at] - _count_bits(word))[:, None] + _count_bits(word[:, None] & up_to_bit)
    bit = jnp.sum(passed <= nth[:, None], axis=1, dtype=jnp.int32)
    return jnp.where(at < words.size, at * WORD_BITS + bit, chosen.size), through[-1]


def _count_bits(words: UInt32[Array, "*S"]) -> Int[Array, "*S"]:
    return jax.lax.population_count(words).astype(jnp.int32)


def _is_new_contact(
    bridge: Int[Array, "H W"], roots: Int[Array, "H W"], corners: tuple[Int[Array, "H W"], ...]
) -> Bool[Array, "H W"]:
    """Where a component meets a bridge, unless that is known.

    It is known if one of `corners` is the same bridge, or if the pixel to the left or above is of
    the same component and has the same bridge.
    """
    count = roots.size
    new = (bridge < count) & (roots < count)
    for other in corners:
        new &= bridge != other
    padded = [jnp.pad(one, 1, constant_values=count) for one in (bridge, roots)]
    for step in ((0, -1), (-1, 0)):
        new &= (bridge != _shift(padded[0], step)) | (roots != _shift(padded[1], step))
    return new


def _join_pairs(parent: Int[Array, "T"], a: Int[Array, "M"], b: Int[Array, "M"]) -> Int[Array, "T"]:
    """Joins the trees of the roots a[i] and b[i], for all i, under the smallest root.

    `parent` is every node's root. Of the forest returned this holds for `a` and `b`, and after
    one more jump for all nodes.
    """
    nodes = jnp.concatenate([a, b])

    def hook(state):
        parent, _ = state
        above = parent[nodes]
        one, other = jnp.split(above, 2)
        # The second step up costs less than the rounds it saves.
        lowest = jnp.tile(parent[parent[jnp.minimum(one, other)]], 2)
        # This may cut a node from what it was hooked under; the pair that hooked it, which agrees
        # at the end like all pairs, brings them together again.
        hooked = parent.at[above].min(lowest, mode="promise_in_bounds")
        return hooked.at[nodes].min(lowest, mode="promise_in_bounds"), jnp.any(one != other)

    return jax.lax.while_loop(lambda state: state[1], hook, (parent, jnp.any(a != b)))[0]


def _find_first(a: Int[Array, "M"], b: Int[Array, "M"], valid: Bool[Array, "M"]) -> Int[Array, "M"]:
    """Position of one same entry for all valid entries of equal (a, b); of others their own.

    A hash table filled by scatter-min: the lowest position in a slot is the slot's key, entries
    equal to it are settled, the others are hashed anew. Exact, whatever the hash does, since the
    keys themselves are compared and every round settles at least one; no sort, which is slow.
    """
    size = a.size
    table_bits = math.ceil(math.log2(size))
    position = jnp.arange(size, dtype=jnp.int32)

    def settle(state):
        first, pending, salt = state
        slot = jnp.where(pending, _hash(a, b, salt, table_bits), jnp.int32(2**table_bits))
        table = jnp.full(2**table_bits + 1, size - 1, jnp.int32).at[slot].min(position)
        key = table[slot]
        settled = pending & (a[key] == a) & (b[key] == b)
        return jnp.where(settled, key, first), pending & ~settled, salt + jnp.uint32(1)

    state = (position, valid, jnp.uint32(0))
    return jax.lax.while_loop(lambda state: jnp.any(state[1]), settle, state)[0]


def _hash(
    a: Int[Array, "M"], b: Int[Array, "M"], salt: UInt32[Array, ""], bits: int
) -> Int[Array, "M"]:
    """Pseudo-random numbers of `bits` bits, a function of (a, b, salt)."""
    first, second, third = (jnp.uint32(multiplier) for multiplier in _HASH_MULTIPLIERS)
    mixed = (a.astype(jnp.uint32) + salt * third) * first
    mixed = (mixed ^ (mixed >> _HASH_SHIFT) ^ b.astype(jnp.uint32)) * second
    mixed = (mixed ^ (mixed >> _HASH_SHIFT)) * third
    return (mixed >> (32 - bits)).astype(jnp.int32)
