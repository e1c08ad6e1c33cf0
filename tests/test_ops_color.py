"""Colour maps: the statistics they promise, a float64 twin, gradients where they are singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.color import COLOR_NOISE, color_map


def random_cov(seed, scale=0.02):
    factor = np.random.default_rng(seed).normal(size=(3, 3))
    return jnp.asarray(scale * factor @ factor.T, jnp.float32)


def grey_cov(chroma=2e-5, luma=0.06):
    """As photographs have it: light varies a thousand times more than hue."""
    axis = np.ones(3) / np.sqrt(3)
    return jnp.asarray(chroma * np.eye(3) + luma * np.outer(axis, axis), jnp.float32)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def map_slowly(a, b):
    a, b = (np.asarray(cov, np.float64) + COLOR_NOISE * np.eye(3) for cov in (a, b))
    inverse = np.linalg.inv(root(a))
    return inverse @ root(root(a) @ b @ root(a)) @ inverse


def random_region(seed, spread=0.08):
    rng = np.random.default_rng(seed)
    image = 0.5 + spread * rng.normal(size=(24, 20, 3)) @ rng.normal(size=(3, 3))
    weight = rng.random((24, 20)) * (rng.random((24, 20)) < 0.7)
    return image, weight


def statistics(image, weight):
    colors, weights = image.reshape(-1, 3), weight.reshape(-1)
    cov = np.cov(colors.T, aweights=weights, ddof=0)
    return np.average(colors, axis=0, weights=weights), jnp.asarray(cov, jnp.float32)


def transfer(image, source, target):
    """x -> (x - source mean) T + target mean."""
    (source_mean, source_cov), (target_mean, target_cov) = source, target
    return (image - source_mean) @ np.asarray(color_map(source_cov, target_cov)) + target_mean


ZERO = jnp.zeros((3, 3), jnp.float32)
PAIRS = {
    "random": (random_cov(0), random_cov(1)),
    "grey": (grey_cov(), grey_cov(luma=0.01)),
    "hue": (grey_cov(), random_cov(2)),
    "from flat": (ZERO, random_cov(3)),
    "to flat": (random_cov(3), ZERO),
    "flat": (ZERO, ZERO),
    "equal": (grey_cov(), grey_cov()),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_map_is_the_float64_twin(pair):
    a, b = PAIRS[pair]
    expected = map_slowly(a, b)
    np.testing.assert_allclose(color_map(a, b), expected, atol=5e-3 * abs(expected).max())


@pytest.mark.parametrize("seed", range(3))
def test_transfer_reaches_the_target_statistics(seed):
    image, weight = random_region(seed, spread=0.02)
    source = statistics(image, weight)
    target_mean, target_cov = np.array([0.45, 0.5, 0.55]), random_cov(seed, 4e-4)
    mean, cov = statistics(transfer(image, source, (target_mean, target_cov)), weight)
    np.testing.assert_allclose(mean, target_mean, atol=1e-4)
    linear = color_map(source[1], target_cov)
    regularised = target_cov + COLOR_NOISE * (jnp.eye(3, dtype=jnp.float32) - linear @ linear)
    np.testing.assert_allclose(cov, regularised, atol=1e-3 * target_cov.max())
    np.testing.assert_allclose(cov, target_cov, atol=1e-2 * target_cov.max())


def test_equal_statistics_change_nothing():
    image, _ = random_region(0)
    for cov in (random_cov(0), grey_cov(), ZERO):
        same = (np.full(3, 0.4), cov)
        np.testing.assert_allclose(transfer(image, same, same), image, atol=2e-3)


@pytest.mark.parametrize("pair", PAIRS)
def test_map_gradient_is_the_twins(pair):
    """Along a symmetric direction, against differences of the float64 twin."""
    a, b = PAIRS[pair]
    da, db = random_cov(5, 1.0), random_cov(6, 1.0)
    step = 1e-9

    def shifted(sign):
        moved_a = np.asarray(a, np.float64) + sign * step * np.asarray(da)
        return map_slowly(moved_a, np.asarray(b, np.float64) + sign * step * np.asarray(db))

    expected = (shifted(1) - shifted(-1)) / (2 * step)
    _, slope = jax.jvp(color_map, (a, b), (da, db))
    np.testing.assert_allclose(slope, expected, atol=0.02 * abs(expected).max())


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_are_finite(pair):
    """In reverse, with flat regions on either side."""
    slopes = jax.jit(jax.grad(lambda a, b: jnp.sum(color_map(a, b) ** 2), (0, 1)))(*PAIRS[pair])
    assert all(jnp.isfinite(slope).all() for slope in slopes)


def test_eager_jit_vmap_agree():
    covs = jnp.stack([a for a, _ in PAIRS.values()])
    batched = color_map(covs, covs[::-1])
    mapped = jax.jit(jax.vmap(color_map))(covs, covs[::-1])
    for i in range(len(covs)):
        single = color_map(covs[i], covs[-1 - i])
        tolerance = 1e-3 * float(abs(single).max())
        np.testing.assert_allclose(batched[i], single, atol=tolerance)
        np.testing.assert_allclose(mapped[i], single, atol=tolerance)
