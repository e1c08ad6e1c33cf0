"""Nearest labels against scipy's exact distances."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from sims_jax.ops import nearest

fill = jax.jit(nearest.fill_nearest)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (24, 37)])
def test_equals_exact_distances(size):
    """Labels are positions here, so that they tell where they come from."""
    rng = np.random.default_rng(0)
    share = np.array([0.0, 0.01, 0.1, 0.5, 1.0])[:, None, None]
    known = rng.random((5, *size)) < share
    known[1, -1, -1] = True  # in a corner, perhaps alone
    place = np.broadcast_to(np.arange(np.prod(size), dtype=np.int32).reshape(size), known.shape)
    label, distance = fill(place, known)
    y, x = np.indices(size)
    for found, away, some in zip(np.asarray(label), np.asarray(distance), known, strict=True):
        if not some.any():
            np.testing.assert_array_equal(found, place[0])
            np.testing.assert_array_equal(away, sum(size))
            continue
        assert some.ravel()[found].all()
        expected = ndimage.distance_transform_edt(~some)
        np.testing.assert_allclose(away, expected, atol=1e-4)
        source_y, source_x = np.divmod(found, size[1])
        np.testing.assert_allclose(np.hypot(source_y - y, source_x - x), expected, atol=1e-4)


def test_one_layout_equals_its_batch():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, (3, 16, 20)).astype(np.uint8)
    known = rng.random(labels.shape) < 0.05
    label, distance = fill(labels, known)
    assert label.dtype == labels.dtype
    for index in range(len(labels)):
        one, away = fill(labels[index], known[index])
        np.testing.assert_array_equal(one, label[index])
        np.testing.assert_array_equal(away, distance[index])
