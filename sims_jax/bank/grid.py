"""Segments on the retrieval grid: all that a score, or a bound of one, asks of a segment.

Cells are packed bits: a bit map has h rows of ceil(w / 32) words, flattened, and words of zero up
to a multiple of LANES.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8, UInt16, UInt32

from sims_jax.labels import VOID
from sims_jax.ops.affine import enlarge_box
from sims_jax.ops.bits import LANES, WORD_BITS, count_bits, pack_bits
from sims_jax.ops.components import component_boxes
from sims_jax.ops.resize import resize_labels
from sims_jax.types import BankSpec

# Of a side, on each side: the paper's context is the box enlarged by 25 %.
CONTEXT_FRAC = 0.125
# Where an outline has what; boxes are (y0, x0, y1, x1) in cells.
AREA, BOX, CONTEXT, LABELLED, OUTLINE = 0, 1, 5, 9, 10
# Counts in parts of the frame say roughly what a bit map holds. For masks a part is half a word
# wide, for contexts a word, and the frame has so many rows of parts.
MASK_BANDS, CONTEXT_BANDS = 5, 2
# Contexts are counted by class; of more classes than these, some share a count.
CONTEXT_KINDS = 16


@struct.dataclass
class GridSegments:
    """N segments of each layout. A context is the box of a segment, enlarged."""

    outline: Int[Array, "*B N 10"]  # area, box, context, labelled cells in the context
    mask_parts: UInt8[Array, "*B N parts"] | UInt16[Array, "*B N parts"]  # see `MASK_BANDS`
    context_parts: UInt8[Array, "*B N counts"] | UInt16[Array, "*B N counts"]
    mask: UInt32[Array, "*B N words"]
    context: UInt32[Array, "*B N words"]  # its labelled cells
    labels: UInt32[Array, "*B bits words"]  # bit by bit the class ids of the layout, void as C


def describe_segments(
    component: Int[Array, "B H W"], layouts: UInt8[Array, "B H W"], spec: BankSpec
) -> GridSegments:
    """Describes the segments of layouts; both maps are sampled nearest to `spec.grid`.

    A segment that falls between the cells has no bit, area 0 and empty boxes (0, 0, 0, 0).

    Args:
      component: index of the segment at each pixel, -1 where there is none.
      layouts: class ids, void 255.
    """
    return jax.vmap(functools.partial(_describe_one, spec=spec))(component, layouts)


def _describe_one(
    component: Int[Array, "H W"], layout: UInt8[Array, "H W"], spec: BankSpec
) -> GridSegments:
    cells, labels = resize_labels(component, spec.grid), resize_labels(layout, spec.grid)
    num_classes = spec.labels.num_classes
    mask = _equal_bits(cells, spec.max_segments)
    box_yx = component_boxes(cells, spec.max_segments)
    context_yx = enlarge_box(box_yx, CONTEXT_FRAC, spec.grid)
    labelled = labels != VOID
    context = box_bits(context_yx, spec.grid) & _pack(labelled)
    codes = jnp.minimum(labels, jnp.uint8(num_classes))
    bit = jnp.arange(num_classes.bit_length(), dtype=jnp.uint8)[:, None, None]
    bits = _pack(((codes >> bit) & jnp.uint8(1)).astype(bool))
    return GridSegments(
        outline=jnp.concatenate(
            [count_bits(mask)[:, None], box_yx, context_yx, count_bits(context)[:, None]], axis=-1
        ),
        mask_parts=_count_halves(mask, spec.grid),
        context_parts=_count_kinds(context, labels, spec),
        mask=mask,
        context=context,
        labels=bits,
    )


def _count_halves(mask: UInt32[Array, "N words"], grid: tuple[int, int]) -> Array:
    """Cells of masks, by part of the frame; [N, counts]."""
    halves = jnp.array([[0x0000FFFF], [0xFFFF0000]], jnp.uint32)
    halves = jnp.broadcast_to(halves, (2, mask.shape[-1]))
    return _count_in_bands(mask, halves, MASK_BANDS, WORD_BITS // 2, grid)


def _count_kinds(
    context: UInt32[Array, "N words"], labels: UInt8[Array, "h w"], spec: BankSpec
) -> Array:
    """Labels of contexts, by part of the frame and kind of class; [N, counts]."""
    kinds = min(spec.labels.num_classes, CONTEXT_KINDS)
    of_kind = jnp.where(labels == VOID, kinds, labels % jnp.uint8(kinds)).astype(jnp.int32)
    return _count_in_bands(
        context, _equal_bits(of_kind, kinds), CONTEXT_BANDS, WORD_BITS, spec.grid
    )


def _count_in_bands(
    cells: UInt32[Array, "N words"],
    kinds: UInt32[Array, "kinds words"],
    bands: int,
    width: int,
    grid: tuple[int, int],
) -> Array:
    """Cells of each kind, by band of the frame, kind and column of words; [N, counts].

    Of one word are no more than `width` of a kind.
    """
    height, columns = grid[0], _words_a_row(grid)
    cells, kinds = (x[:, : height * columns].reshape(-1, height, columns) for x in (cells, kinds))
    # The segments side by side: all are counted at once.
    cells = jax.lax.optimization_barrier(jnp.moveaxis(cells, 0, -1))
    ends = [band * height // bands for band in range(bands + 1)]
    rows = [range(start, stop) for start, stop in itertools.pairwise(ends)]
    dtype = jnp.uint8 if width * max(map(len, rows)) < 2**8 else jnp.uint16
    counts = jnp.zeros((bands, len(kinds), columns, cells.shape[-1]), dtype)
    for band, band_rows in enumerate(rows):
        total = jnp.uint32(0)
        for y in band_rows:
            total += jax.lax.population_count(cells[y] & kinds[:, y, :, None])
        counts = counts.at[band].set(total.astype(dtype))
    return counts.reshape(-1, counts.shape[-1]).T


def box_bits(box_yx: Int[Array, "N 4"], grid: tuple[int, int]) -> UInt32[Array, "N words"]:
    """The cells inside boxes."""
    groups = [box_group(box_yx, index, grid) for index in range(num_groups(grid))]
    return jnp.concatenate(groups, axis=-1)


def box_group(
    box_yx: Int[Array, "N 4"], index: int, grid: tuple[int, int]
) -> UInt32[Array, "N LANES"]:
    """Words index · LANES to (index + 1) · LANES of `box_bits`."""
    y0, x0, y1, x1 = (box_yx[:, i, None] for i in range(4))
    words = _words_a_row(grid)
    y, column = np.divmod(np.arange(index * LANES, (index + 1) * LANES, dtype=np.int32), words)

    def before(cell: Int[Array, "N 1"]) -> UInt32[Array, "N LANES"]:
        missing = WORD_BITS - jnp.clip(cell - WORD_BITS * column, 0, WORD_BITS)
        return jnp.uint32(2**WORD_BITS - 1) >> missing.astype(jnp.uint32)  # by 32: none is left

    return jnp.where((y >= y0) & (y < y1), before(x1) & ~before(x0), jnp.uint32(0))


def num_groups(grid: tuple[int, int]) -> int:
    """Of LANES words in a bit map."""
    return -(-grid[0] * _words_a_row(grid) // LANES)


def _words_a_row(grid: tuple[int, int]) -> int:
    return -(-grid[1] // WORD_BITS)


def _pack(mask: Bool[Array, "*B h w"]) -> UInt32[Array, "*B words"]:
    words = pack_bits(mask)
    words = words.reshape(*words.shape[:-2], -1)
    return jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, -words.shape[-1] % LANES)])


def _equal_bits(values: Int[Array, "h w"], count: int) -> UInt32[Array, "count words"]:
    """Where a map is 0, where it is 1, and so on."""
    missing = -values.shape[1] % WORD_BITS
    values = jnp.pad(values, ((0, 0), (0, missing)), constant_values=-1).reshape(-1, WORD_BITS)
    values = jnp.pad(values, ((0, -len(values) % LANES), (0, 0)), constant_values=-1)
    # One bit of all words after the other, read from maps that have it side by side.
    bits = jax.lax.optimization_barrier(values.T)
    number = jnp.arange(count, dtype=values.dtype)[:, None]
    words = jnp.zeros((count, len(values)), jnp.uint32)
    for bit in range(WORD_BITS):
        words |= (bits[bit] == number).astype(jnp.uint32) << jnp.uint32(bit)
    return words
