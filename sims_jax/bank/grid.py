"""Segments on the retrieval grid: all that a score, or a bound of one, asks of a segment.

Cells are packed bits: a bit map has ceil(w / 32) columns of h words, each with words of zero up to
a multiple of LANES, flattened. LANES words, which lie one below the other, are a block.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt8, UInt16, UInt32

from sims_jax.ops.bits import LANES, WORD_BITS, count_bits
from sims_jax.ops.boxes import enlarge_box
from sims_jax.ops.resize import resize_labels
from sims_jax.types import BankSpec

# Of a side, on each side: the paper's context is the box enlarged by 25 %.
CONTEXT_FRAC = 0.125
# Where an outline has what; boxes are (y0, x0, y1, x1) in cells.
AREA, BOX, CONTEXT, LABELLED, OUTLINE = 0, 1, 5, 9, 10
# Counts in parts of the frame say roughly what a bit map holds. For masks a part is half a word
# wide, for contexts a word, and the frame has so many rows of parts.
MASK_BANDS, CONTEXT_BANDS = 8, 2
# Contexts are counted by class; of more classes than these, some share a count.
CONTEXT_KINDS = 16


@struct.dataclass
class GridSegments:
    """N segments of each layout. A context is the box of a segment, enlarged.

    Counts have N last, for segments are counted side by side; all else has it first.
    """

    outline: Int[Array, "*B N 10"]  # area, box, context, labelled cells in the context
    mask_parts: UInt8[Array, "*B parts N"] | UInt16[Array, "*B parts N"]  # see `MASK_BANDS`
    context_parts: UInt8[Array, "*B counts N"] | UInt16[Array, "*B counts N"]
    mask: UInt32[Array, "*B N words"]
    context: UInt32[Array, "*B N words"]  # its labelled cells
    labels: UInt32[Array, "*B blocks bits lanes"]  # class ids of the layout bit by bit, void as C


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
    number = jnp.arange(spec.max_segments, dtype=jnp.uint32)
    planes = _bit_planes(cells, spec.max_segments)
    mask = _equal_bits(planes[:, None], number[:, None])
    box_yx = _bound_masks(mask, spec.grid)
    context_yx = enlarge_box(box_yx, CONTEXT_FRAC, spec.grid)
    codes = jnp.minimum(labels, jnp.uint8(num_classes)).astype(jnp.int32)
    codes = _bit_planes(codes, num_classes + 1)
    codes, inside = codes[:-1], codes[-1]
    labelled = inside & ~_equal_bits([*codes, inside], jnp.uint32(num_classes))
    context = box_bits(context_yx, spec.grid) & labelled
    outline = [count_bits(mask)[:, None], box_yx, context_yx, count_bits(context)[:, None]]
    # To be counted, masks and contexts are made a second time, segments last: that is vectorised.
    return GridSegments(
        outline=jnp.concatenate(outline, axis=-1),
        mask_parts=_count_halves(_equal_bits(planes[..., None], number), spec.grid),
        context_parts=_count_kinds(context_yx, labelled, codes, spec),
        mask=mask,
        context=context,
        labels=jnp.swapaxes(cut_blocks(codes), 0, 1),
    )


def _bound_masks(mask: UInt32[Array, "N words"], grid: tuple[int, int]) -> Int[Array, "N 4"]:
    """The box of each mask; (0, 0, 0, 0) of an empty one."""
    mask = mask.reshape(-1, *_shape(grid))
    rows, words = jnp.bitwise_or.reduce(mask, axis=1), jnp.bitwise_or.reduce(mask, axis=2)
    y, x = (jnp.arange(count, dtype=jnp.int32) for count in mask.shape[:0:-1])
    x *= WORD_BITS
    leading = jax.lax.clz(words).astype(jnp.int32)
    trailing = jax.lax.population_count(~words & (words - 1)).astype(jnp.int32)
    far = np.iinfo(np.int32).max
    box = [
        jnp.where(rows > 0, y, far).min(axis=1),
        jnp.where(words > 0, x + trailing, far).min(axis=1),
        jnp.where(rows > 0, y + 1, 0).max(axis=1),
        jnp.where(words > 0, x + WORD_BITS - leading, 0).max(axis=1),
    ]
    return jnp.where((rows > 0).any(axis=1)[:, None], jnp.stack(box, axis=1), 0)


def _count_halves(mask: UInt32[Array, "words N"], grid: tuple[int, int]) -> Array:
    """Cells of masks, by part of the frame; [counts, N]."""
    halves = jnp.array([[0x0000FFFF], [0xFFFF0000]], jnp.uint32)
    halves = jnp.broadcast_to(halves, (2, len(mask)))
    return _count_in_bands(mask, halves, grid, MASK_BANDS, WORD_BITS // 2)


def _count_kinds(
    context_yx: Int[Array, "N 4"],
    labelled: UInt32[Array, "words"],
    codes: UInt32[Array, "bits words"],
    spec: BankSpec,
) -> Array:
    """Labels of contexts, by part of the frame and kind of class; [counts, N]."""
    kinds = min(spec.labels.num_classes, CONTEXT_KINDS)
    # Of more classes than kinds, those that are alike in the lower bits are one kind.
    planes = [*codes[: (kinds - 1).bit_length(), None], labelled]
    of_kind = _equal_bits(planes, jnp.arange(kinds, dtype=jnp.uint32)[:, None])
    column, y = np.indices(_shape(spec.grid), np.int32)[..., None]
    y0, x0, y1, x1 = context_yx.T
    inside = jnp.where((y >= y0) & (y < y1), _between(x0, x1, column), jnp.uint32(0))
    cells = inside.reshape(len(labelled), -1) & labelled[:, None]
    return _count_in_bands(cells, of_kind, spec.grid, CONTEXT_BANDS, WORD_BITS)


def _count_in_bands(
    cells: UInt32[Array, "words N"],
    kinds: UInt32[Array, "kinds words"],
    grid: tuple[int, int],
    bands: int,
    width: int,
) -> Array:
    """Cells of each kind, by band of the frame, kind and column of words; [counts, N].

    Of one word are no more than `width` of a kind.
    """
    cells = cells.reshape(*_shape(grid), -1)
    kinds = kinds.reshape(-1, *_shape(grid), 1)
    ends = [band * grid[0] // bands for band in range(bands + 1)]
    counts = [
        jax.lax.population_count(cells[:, y0:y1] & kinds[:, :, y0:y1]).sum(axis=2, dtype=jnp.uint32)
        for y0, y1 in itertools.pairwise(ends)
    ]
    rows = max(y1 - y0 for y0, y1 in itertools.pairwise(ends))
    dtype = jnp.uint8 if width * rows < 2**8 else jnp.uint16
    return jnp.stack(counts).astype(dtype).reshape(-1, cells.shape[-1])


def box_bits(box_yx: Int[Array, "N 4"], grid: tuple[int, int]) -> UInt32[Array, "N words"]:
    """The cells inside boxes."""
    y0, x0, y1, x1 = (box_yx[:, i, None, None] for i in range(4))
    column, y = np.indices(_shape(grid), np.int32)
    inside = jnp.where((y >= y0) & (y < y1), _between(x0, x1, column), jnp.uint32(0))
    return inside.reshape(len(box_yx), -1)


def row_bits(
    x0: Int[Array, "N"], x1: Int[Array, "N"], grid: tuple[int, int]
) -> UInt32[Array, "N columns"]:
    """The cells x0 to x1 of a row of the frame."""
    return _between(x0[:, None], x1[:, None], np.arange(_shape(grid)[0], dtype=np.int32))


def _between(
    x0: Int[Array, "*#B"], x1: Int[Array, "*#B"], column: Int[np.ndarray, "*#B"]
) -> UInt32[Array, "*B"]:
    """The cells x0 to x1 of a row, in its word `column`."""

    def before(cell: Array) -> Array:
        missing = WORD_BITS - jnp.clip(cell - WORD_BITS * column, 0, WORD_BITS)
        return jnp.uint32(2**WORD_BITS - 1) >> missing.astype(jnp.uint32)  # by 32: none is left

    return before(x1) & ~before(x0)


def cut_blocks(words: UInt32[Array, "*B words"]) -> UInt32[Array, "*B blocks lanes"]:
    return words.reshape(*words.shape[:-1], -1, LANES)


def count_blocks(box_yx: Int[Array, "*B 4"]) -> Int[Array, "*B"]:
    """Blocks that boxes have cells of."""
    y0, x0, y1, x1 = (box_yx[..., i] for i in range(4))
    return (-(-y1 // LANES) - y0 // LANES) * (-(-x1 // WORD_BITS) - x0 // WORD_BITS)


def blocks_a_column(grid: tuple[int, int]) -> int:
    return -(-grid[0] // LANES)


def _shape(grid: tuple[int, int]) -> tuple[int, int]:
    """Columns of a bit map, and words of each."""
    return -(-grid[1] // WORD_BITS), blocks_a_column(grid) * LANES


def _bit_planes(values: Int[Array, "h w"], count: int) -> UInt32[Array, "planes words"]:
    """Bit by bit a map of 0 to count - 1, then where it has one of these."""
    columns, _ = _shape(values.shape)
    missing = columns * WORD_BITS - values.shape[1]
    cells = jnp.pad(values, ((0, -len(values) % LANES), (0, missing)), constant_values=-1)
    # The cells of a word come first: so all words are made side by side, and it is vectorised.
    cells = cells.reshape(-1, columns, WORD_BITS).T.reshape(WORD_BITS, -1)
    there = (cells >= 0) & (cells < count)
    # A bit for each plane; above them, where there is one of these.
    bits = (count - 1).bit_length()
    cells = jnp.where(there, cells | 1 << bits, 0).astype(jnp.uint32)
    plane = jnp.arange(bits + 1, dtype=jnp.uint32)[:, None, None]
    position = jnp.arange(WORD_BITS, dtype=jnp.uint32)[:, None]
    return jnp.sum((cells >> plane & 1) << position, axis=1, dtype=jnp.uint32)


def _equal_bits(
    planes: UInt32[Array, "planes *#B"], number: UInt32[Array, "*#B"]
) -> UInt32[Array, "*B"]:
    """Where a map of such planes is `number`: all cells of a word at once."""
    *bits, equal = planes
    for bit, plane in enumerate(bits):
        equal &= ~(plane ^ -(number >> bit & 1))
    return equal
