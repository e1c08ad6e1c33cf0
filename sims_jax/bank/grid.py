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
    """N segments of each layout. A context is the box of a segment, enlarged.

    Counts have N last, for segments are counted side by side; all else has it first.
    """

    outline: Int[Array, "*B N 10"]  # area, box, context, labelled cells in the context
    mask_parts: UInt8[Array, "*B parts N"] | UInt16[Array, "*B parts N"]  # see `MASK_BANDS`
    context_parts: UInt8[Array, "*B counts N"] | UInt16[Array, "*B counts N"]
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
    number = jnp.arange(spec.max_segments, dtype=jnp.uint32)
    planes = _bit_planes(cells, spec.max_segments)
    mask = _equal_bits(planes[:, None], number[:, None])
    box_yx = component_boxes(cells, spec.max_segments)
    context_yx = enlarge_box(box_yx, CONTEXT_FRAC, spec.grid)
    labelled = _pack(labels != VOID)
    context = box_bits(context_yx, spec.grid) & labelled
    outline = [count_bits(mask)[:, None], box_yx, context_yx, count_bits(context)[:, None]]
    codes = jnp.minimum(labels, jnp.uint8(num_classes)).astype(jnp.int32)
    # To be counted, masks and contexts are made a second time, segments last: that is vectorised.
    return GridSegments(
        outline=jnp.concatenate(outline, axis=-1),
        mask_parts=_count_halves(_equal_bits(planes[..., None], number), spec.grid),
        context_parts=_count_kinds(context_yx, labelled, labels, spec),
        mask=mask,
        context=context,
        labels=_bit_planes(codes, num_classes + 1)[:-1],
    )


def _count_halves(mask: UInt32[Array, "words N"], grid: tuple[int, int]) -> Array:
    """Cells of masks, by part of the frame; [counts, N]."""
    halves = jnp.array([[0x0000FFFF], [0xFFFF0000]], jnp.uint32)
    halves = jnp.broadcast_to(halves, (2, len(mask)))
    return _count_in_bands(_cut_rows(mask, grid), halves, MASK_BANDS, WORD_BITS // 2)


def _count_kinds(
    context_yx: Int[Array, "N 4"],
    labelled: UInt32[Array, "words"],
    labels: UInt8[Array, "h w"],
    spec: BankSpec,
) -> Array:
    """Labels of contexts, by part of the frame and kind of class; [counts, N]."""
    kinds = min(spec.labels.num_classes, CONTEXT_KINDS)
    kind = jnp.where(labels == VOID, -1, (labels % jnp.uint8(kinds)).astype(jnp.int32))
    number = jnp.arange(kinds, dtype=jnp.uint32)[:, None]
    of_kind = _equal_bits(_bit_planes(kind, kinds)[:, None], number)
    y, column = np.indices((spec.grid[0], _words_a_row(spec.grid)), np.int32)[..., None]
    y0, x0, y1, x1 = context_yx.T
    inside = jnp.where((y >= y0) & (y < y1), _between(x0, x1, column), jnp.uint32(0))
    cells = inside & _cut_rows(labelled[:, None], spec.grid)
    return _count_in_bands(cells, of_kind, CONTEXT_BANDS, WORD_BITS)


def _cut_rows(
    words: UInt32[Array, "words N"], grid: tuple[int, int]
) -> UInt32[Array, "h columns N"]:
    columns = _words_a_row(grid)
    return words[: grid[0] * columns].reshape(grid[0], columns, -1)


def _count_in_bands(
    cells: UInt32[Array, "h columns N"], kinds: UInt32[Array, "kinds words"], bands: int, width: int
) -> Array:
    """Cells of each kind, by band of the frame, kind and column of words; [counts, N].

    Of one word are no more than `width` of a kind.
    """
    height, columns, count = cells.shape
    kinds = kinds[:, : height * columns].reshape(-1, height, columns, 1)
    ends = [band * height // bands for band in range(bands + 1)]
    rows = [range(start, stop) for start, stop in itertools.pairwise(ends)]
    # Row by row, and all segments side by side: so it is vectorised.
    none = jnp.zeros((len(kinds), columns, count), jnp.uint32)
    counts = [
        sum((jax.lax.population_count(cells[y] & kinds[:, y]) for y in band_rows), start=none)
        for band_rows in rows
    ]
    dtype = jnp.uint8 if width * max(map(len, rows)) < 2**8 else jnp.uint16
    return jnp.stack(counts).astype(dtype).reshape(-1, count)


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
    return jnp.where((y >= y0) & (y < y1), _between(x0, x1, column), jnp.uint32(0))


def _between(
    x0: Int[Array, "*#B"], x1: Int[Array, "*#B"], column: Int[np.ndarray, "*#B"]
) -> UInt32[Array, "*B"]:
    """The cells x0 to x1 of a row, in its word `column`."""

    def before(cell: Array) -> Array:
        missing = WORD_BITS - jnp.clip(cell - WORD_BITS * column, 0, WORD_BITS)
        return jnp.uint32(2**WORD_BITS - 1) >> missing.astype(jnp.uint32)  # by 32: none is left

    return before(x1) & ~before(x0)


def num_groups(grid: tuple[int, int]) -> int:
    """Of LANES words in a bit map."""
    return -(-grid[0] * _words_a_row(grid) // LANES)


def _words_a_row(grid: tuple[int, int]) -> int:
    return -(-grid[1] // WORD_BITS)


def _pack(mask: Bool[Array, "*B h w"]) -> UInt32[Array, "*B words"]:
    words = pack_bits(mask)
    words = words.reshape(*words.shape[:-2], -1)
    return jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, -words.shape[-1] % LANES)])


def _bit_planes(values: Int[Array, "h w"], count: int) -> UInt32[Array, "planes words"]:
    """Bit by bit a map of 0 to count - 1, then where it has one of these."""
    there = (values >= 0) & (values < count)
    bits = [(values >> bit) & 1 == 1 for bit in range((count - 1).bit_length())]
    return _pack(jnp.stack([*bits, there]))


def _equal_bits(
    planes: UInt32[Array, "planes *#B"], number: UInt32[Array, "*#B"]
) -> UInt32[Array, "*B"]:
    """Where a map of such planes is `number`: all cells of a word at once."""
    *bits, equal = planes
    for bit, plane in enumerate(bits):
        equal &= ~(plane ^ -(number >> bit & 1))
    return equal
