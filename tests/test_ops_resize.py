"""Nearest labels by the stated rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.resize import resize_labels

SIZES = [((7, 5), (3, 8)), ((12, 16), (12, 16)), ((1, 1), (4, 3)), ((36, 48), (12, 16))]


@pytest.mark.parametrize(("size", "new_size"), SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_labels_follow_the_rule(size, new_size, dtype):
    labels = np.random.default_rng(0).integers(0, 200, (2, *size)).astype(dtype)
    expected = np.empty((2, *new_size), dtype)
    for i in range(new_size[0]):
        for j in range(new_size[1]):
            y = int((i + 0.5) * size[0] / new_size[0])
            x = int((j + 0.5) * size[1] / new_size[1])
            expected[:, i, j] = labels[:, y, x]
    on_host = resize_labels(labels, new_size)
    on_device = jax.jit(resize_labels, static_argnums=1)(jnp.asarray(labels), new_size)
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == on_device.dtype == dtype
    np.testing.assert_array_equal(on_host, expected)
    np.testing.assert_array_equal(on_device, expected)


def test_enlarged_labels_shrink_back():
    labels = np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(resize_labels(resize_labels(labels, (12, 25)), (4, 5)), labels)
