"""Morphology against scipy, distances against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sims_jax.ops import morphology
from sims_jax.ops.morphology import distance_to_change, distance_to_higher, smooth_labels

dilate = jax.jit(morphology.dilate, static_argnums=1)


def random_mask(density=0.5):
    return np.random.default_rng(0).random((2, 15, 22)) < density


@pytest.mark.parametrize("radius_px", [0, 1, 2, 20])
def test_dilate_is_scipys(radius_px):
    square = np.ones((1, 2 * radius_px + 1, 2 * radius_px + 1))
    mask = random_mask(0.03)
    grown = ndimage.binary_dilation(mask, square)
    np.testing.assert_array_equal(dilate(jnp.asarray(mask), radius_px), grown)


def test_nothing_dilates_into_the_frame():
    assert not dilate(jnp.zeros((6, 7), bool), 3).any()


@pytest.mark.parametrize("max_px", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_distance_is_the_nearest_other_label(max_px, dtype):
    coarse = np.random.default_rng(1).integers(0, 4, (4, 5))
    labels = np.kron(coarse, np.ones((4, 5))).astype(dtype)
    y, x = (axis.reshape(-1) for axis in np.indices(labels.shape))
    apart = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x))
    differs = labels.reshape(-1, 1) != labels.reshape(-1)
    expected = np.where(differs, apart, max_px).min(axis=1).clip(max=max_px)
    found = distance_to_change(jnp.asarray(labels), max_px)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected.reshape(labels.shape))


@pytest.mark.parametrize("max_px", [1, 2, 7])
def test_distance_is_the_nearest_higher_label(max_px):
    labels = np.kron(np.random.default_rng(3).integers(-1, 3, (4, 5)), np.ones((4, 5), np.int32))
    y, x = (axis.reshape(-1) for axis in np.indices(labels.shape))
    apart = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x))
    higher = labels.reshape(-1, 1) < labels.reshape(-1)
    expected = np.where(higher, apart, max_px).min(axis=1).clip(max=max_px)
    found = distance_to_higher(jnp.asarray(labels), max_px)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected.reshape(labels.shape))


@pytest.mark.parametrize("radius_px", [0, 1, 2, 3, 9, 20])
def test_smooth_labels_takes_what_most_around_have(radius_px):
    ids, void = (2, 0, 3), 255
    labels = np.random.default_rng(2).choice(np.uint8([0, 1, 2, 3, void]), (13, 17))
    expected = labels.copy()
    for y, x in np.argwhere(np.isin(labels, ids)):
        rows, columns = (slice(max(0, at - radius_px), at + radius_px + 1) for at in (y, x))
        around = labels[rows, columns]
        expected[y, x] = max(ids, key=lambda i: ((around == i).sum(), i == labels[y, x]))
    smooth = jax.jit(smooth_labels, static_argnums=(1, 2))
    eager = smooth_labels(jnp.asarray(labels), ids, radius_px)
    for found in (eager, smooth(labels, ids, radius_px)):
        assert found.dtype == labels.dtype
        np.testing.assert_array_equal(found, expected)
    both = jnp.stack([jnp.roll(labels, 1), jnp.asarray(labels)])
    mapped = jax.vmap(lambda one: smooth_labels(one, ids, radius_px))(both)
    np.testing.assert_array_equal(mapped[1], expected)
    np.testing.assert_array_equal(smooth(labels, (), radius_px), labels)


@pytest.mark.parametrize("name", ["dilate", "distance_to_change"])
def test_eager_jit_vmap_agree(name):
    operation = getattr(morphology, name)
    mask = jnp.asarray(random_mask(0.9))
    eager = operation(mask, 3)
    np.testing.assert_array_equal(eager, jax.jit(operation, static_argnums=1)(mask, 3))
    mapped = jax.jit(jax.vmap(lambda one: operation(one, 3)))(mask)
    np.testing.assert_array_equal(eager, mapped)
