"""Boxes, beside numpy twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.boxes import enlarge_box, mask_box, union_box


def test_enlarge_box_is_exact():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 60, (50, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 40, (50, 2))], axis=1).astype(np.int32)
    size = (64, 96)
    for box, found in zip(boxes, enlarge_box(jnp.asarray(boxes), 0.125, size), strict=True):
        sides = (box[2:] - box[:2]) / 8
        expected = [
            *np.maximum(np.floor(box[:2] - sides), 0),
            *np.minimum(np.ceil(box[2:] + sides), size),
        ]
        np.testing.assert_array_equal(found, expected)
    tenth = enlarge_box(jnp.asarray([10, 10, 20, 30]), 0.1, size)
    np.testing.assert_array_equal(tenth, [9, 8, 21, 32])
    with pytest.raises(ValueError, match="expected a fraction"):
        enlarge_box(jnp.zeros(4, jnp.int32), 8.0, size)


def test_union_box():
    union = union_box(jnp.asarray([1, 5, 3, 9]), jnp.asarray([[0, 6, 2, 7], [2, 2, 9, 3]]))
    np.testing.assert_array_equal(union, [[0, 5, 3, 9], [1, 2, 9, 9]])


def test_mask_box():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        mask = np.zeros((9, 12), bool)
        mask[rng.integers(9, size=count), rng.integers(12, size=count)] = True
        rows, columns = np.nonzero(mask)
        expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_array_equal(mask_box(jnp.asarray(mask)), expected)
        several = jnp.asarray([mask, ~mask, mask & ~mask])
        boxes = jax.jit(jax.vmap(mask_box))(several)
        np.testing.assert_array_equal(boxes, [mask_box(one) for one in several])
        np.testing.assert_array_equal(boxes[2], [0, 0, 0, 0])
