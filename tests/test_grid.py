"""Segments on the retrieval grid, against python loops."""

import jax
import numpy as np
from test_match import nearest, twin_context
from test_segments import blocky_layouts, jitted_split, toy_spec

from sims_jax.bank.grid import (
    AREA,
    BOX,
    CONTEXT,
    CONTEXT_BANDS,
    LABELLED,
    MASK_BANDS,
    box_bits,
    count_blocks,
    cut_blocks,
    describe_segments,
)
from sims_jax.labels import VOID
from sims_jax.ops.bits import WORD_BITS

describe = jax.jit(describe_segments, static_argnames="spec")


def unpack(words, grid):
    """Bit maps as masks [..., h, w]."""
    words = np.asarray(words)
    words = words.reshape(*words.shape[:-1], -(-grid[1] // WORD_BITS), -1)
    words = np.ascontiguousarray(np.swapaxes(words, -2, -1))
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    assert not bits[..., grid[0] :, :].any() and not bits[..., grid[1] :].any()
    return bits[..., : grid[0], : grid[1]].astype(bool)


def test_description_equals_twin():
    for grid in [(7, 11), (6, 40)]:
        spec = toy_spec(size=(25, 43), grid=grid, min_area_frac=0.0)
        layouts = blocky_layouts(3, 3, spec.image_size)
        component = jitted_split(layouts, spec=spec).component
        found = jax.device_get(describe(component, layouts, spec=spec))
        masks, contexts = unpack(found.mask, grid), unpack(found.context, grid)
        labels = np.swapaxes(found.labels, 1, 2)
        bits = unpack(labels.reshape(*labels.shape[:2], -1), grid)
        for b in range(3):
            cells, labels = nearest(np.asarray(component)[b], grid), nearest(layouts[b], grid)
            codes = sum(bits[b, i].astype(int) << i for i in range(bits.shape[1]))
            np.testing.assert_array_equal(codes, np.where(labels == VOID, 6, labels))
            for n in range(spec.max_segments):
                mask = cells == n
                context = twin_context(mask, grid) & (labels != VOID)
                np.testing.assert_array_equal(masks[b, n], mask)
                np.testing.assert_array_equal(contexts[b, n], context)
                outline = found.outline[b, n]
                assert outline[AREA] == mask.sum() and outline[LABELLED] == context.sum()
                ys, xs = np.nonzero(mask)
                box = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1] if ys.size else [0] * 4
                assert outline[BOX : BOX + 4].tolist() == box
                ys, xs = np.nonzero(twin_context(mask, grid))
                box = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1] if ys.size else [0] * 4
                assert outline[CONTEXT : CONTEXT + 4].tolist() == box


def test_parts_count_every_labelled_cell_and_bound_what_contexts_share():
    spec = toy_spec(size=(24, 32), grid=(12, 16))
    layouts = blocky_layouts(4, 4, spec.image_size)
    component = jitted_split(layouts, spec=spec).component
    found = jax.device_get(describe(component, layouts, spec=spec))
    counts = found.context_parts.astype(int).swapaxes(1, 2)
    assert counts.shape[-1] == CONTEXT_BANDS * 6
    np.testing.assert_array_equal(counts.sum(axis=-1), found.outline[..., LABELLED])
    contexts = unpack(found.context, spec.grid)
    labels = np.stack([nearest(layout, spec.grid) for layout in layouts])
    for a, b in [(0, 1), (2, 3), (0, 0)]:
        equal = labels[a] == labels[b]
        shared = (contexts[a][:, None] & contexts[b][None] & equal).sum(axis=(-2, -1))
        bound = np.minimum(counts[a][:, None], counts[b][None]).sum(axis=-1)
        assert (bound >= shared).all()
    parts = found.mask_parts.astype(int).swapaxes(1, 2)
    masks = unpack(found.mask, spec.grid)
    assert parts.shape[-1] == MASK_BANDS * 2
    np.testing.assert_array_equal(parts.sum(axis=-1), found.outline[..., AREA])
    bound = np.minimum(parts[0][:, None], parts[1][None]).sum(axis=-1)
    assert (bound >= (masks[0][:, None] & masks[1][None]).sum(axis=(-2, -1))).all()


def test_box_bits_equal_slices():
    grid = (35, 70)
    boxes = np.array([[0, 0, 35, 70], [1, 31, 3, 33], [15, 64, 17, 70], [0, 32, 16, 64], [0] * 4])
    boxes = jax.numpy.asarray(boxes, jax.numpy.int32)
    bits = box_bits(boxes, grid)
    blocks = np.asarray(cut_blocks(bits)).any(axis=-1).sum(axis=-1)
    np.testing.assert_array_equal(count_blocks(boxes), blocks)
    found = unpack(bits, grid)
    for mask, (y0, x0, y1, x1) in zip(found, boxes, strict=True):
        expected = np.zeros(grid, bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(mask, expected)
