"""Segments on the retrieval grid: all that a score, or a bound of one, asks of a segment.

Cells are packed bits: a bit map has h rows of ceil(w / 32) words, flattened.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8, UInt16, UInt32

from sims_jax.labels import VOID
from sims_jax.ops.affine import enlarge_box
from sims_jax.ops.bits import WORD_BITS, count_bits, pack_bits, pack_bits_numpy
from sims_jax.ops.components import component_boxes
from sims_jax.ops.resize import resize_labels
from sims_jax.types import BankSpec

# Of a side, on each side: the paper's context is the box enlarged by 25 %.
CONTEXT_FRAC = 0.125
# Where an outline has what; boxes are (y0, x0, y1, x1) in cells.
AREA, BOX, CONTEXT, LABELLED, OUTLINE = 0, 1, 5, 9, 10
# A sketch counts a context's labels in this many parts of the frame, ...
SKETCH_ROWS, SKETCH_COLUMNS = 2, 4
# ... one count a class; of more classes, some share a count.
SKETCH_CLASSES = 16


@struct.dataclass
class GridSegments:
    """N segments of each layout. A context is the box of a segment, enlarged."""

    outline: Int[Array, "*B N 10"]  # area, box, context, labelled cells in the context
    sketch: UInt16[Array, "*B N counts"]  # labels of the context, roughly: see `SKETCH_ROWS`
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
    return jax.lax.map(lambda one: _describe_one(*one, spec), (component, layouts))


def _describe_one(
    component: Int[Array, "H W"], layout: UInt8[Array, "H W"], spec: BankSpec
) -> GridSegments:
    cells, labels = resize_labels(component, spec.grid), resize_labels(layout, spec.grid)
    num_classes = spec.labels.num_classes
    index = jnp.arange(spec.max_segments, dtype=cells.dtype)
    mask = _pack(cells == index[:, None, None])
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
        sketch=_sketch(labels, context, spec),
        mask=mask,
        context=context,
        labels=bits,
    )


def box_bits(box_yx: Int[Array, "N 4"], grid: tuple[int, int]) -> UInt32[Array, "N words"]:
    """The cells inside boxes."""
    y0, x0, y1, x1 = (box_yx[:, i, None] for i in range(4))
    words = -(-grid[1] // WORD_BITS)
    y, column = np.divmod(np.arange(grid[0] * words, dtype=np.int32), words)

    def before(cell: Int[Array, "N 1"]) -> UInt32[Array, "N words"]:
        missing = WORD_BITS - jnp.clip(cell - WORD_BITS * column, 0, WORD_BITS)
        return jnp.uint32(2**WORD_BITS - 1) >> missing.astype(jnp.uint32)  # by 32: none is left

    return jnp.where((y >= y0) & (y < y1), before(x1) & ~before(x0), jnp.uint32(0))


def _pack(mask: Bool[Array, "*B h w"]) -> UInt32[Array, "*B words"]:
    words = pack_bits(mask)
    return words.reshape(*words.shape[:-2], -1)


def _sketch(
    labels: UInt8[Array, "h w"], context: UInt32[Array, "N words"], spec: BankSpec
) -> UInt16[Array, "N counts"]:
    """Labels of each context, counted by part of the frame and class."""
    height, width = spec.grid
    cells = -(-height // SKETCH_ROWS) * -(-width // SKETCH_COLUMNS)
    if cells >= 2**16:
        raise ValueError(f"grid: found {spec.grid}, expected less than 2^16 cells in a part of it")
    kinds = min(spec.labels.num_classes, SKETCH_CLASSES)
    kind = jnp.arange(kinds, dtype=jnp.uint8)[:, None, None]
    of_kind = _pack((labels % jnp.uint8(kinds) == kind) & (labels != VOID))
    row, column = (
        np.arange(side) * parts // side
        for side, parts in ((height, SKETCH_ROWS), (width, SKETCH_COLUMNS))
    )
    part = row[:, None] * SKETCH_COLUMNS + column
    parts = part == np.arange(SKETCH_ROWS * SKETCH_COLUMNS)[:, None, None]
    in_part = jnp.asarray(pack_bits_numpy(parts).reshape(len(parts), 1, -1))
    counted = (in_part & of_kind).reshape(-1, of_kind.shape[-1])

    def count(words: UInt32[Array, "words"]) -> UInt16[Array, "counts"]:
        return count_bits(counted & words).astype(jnp.uint16)

    def count_some(words: UInt32[Array, "words"]) -> UInt16[Array, "counts"]:
        nothing = jnp.zeros(len(counted), jnp.uint16)
        return jax.lax.cond(jnp.any(words > 0), count, lambda _: nothing, words)

    return jax.lax.map(count_some, context)
