"""Nearest labels by the stated rule; images keep constants and means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.resize import resize_image, resize_labels

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


def test_image_of_the_same_size_is_itself():
    image = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(resize_image(jnp.asarray(image), (6, 9)), image)


def test_image_keeps_constants_and_averages():
    flat = jnp.full((2, 8, 12, 3), 0.3, jnp.float32)
    for size in ((4, 6), (16, 24), (5, 7)):
        np.testing.assert_allclose(resize_image(flat, size), 0.3, rtol=1e-6)
    stripes = jnp.tile(jnp.asarray([0.0, 1.0], jnp.float32), 16)[None, :, None]
    shrunk = resize_image(jnp.broadcast_to(stripes, (32, 32, 1)), (8, 8))
    np.testing.assert_allclose(shrunk[:, 1:-1], 0.5, atol=0.01)  # antialiased: no moire
