"""Colour transfer: the statistics it promises, a float64 twin, gradients where it is singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.color import COLOR_NOISE, color_map, color_statistics, transfer_color


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
    return jnp.asarray(image, jnp.float32), jnp.asarray(weight, jnp.float32)


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


def test_statistics_are_numpys():
    image, weight = random_region(0)
    mean, cov = color_statistics(image, weight)
    colors, weights = np.asarray(image).reshape(-1, 3), np.asarray(weight).reshape(-1)
    np.testing.assert_allclose(mean, np.average(colors, axis=0, weights=weights), atol=1e-6)
    np.testing.assert_allclose(cov, np.cov(colors.T, aweights=weights, ddof=0), atol=1e-7)


def test_statistics_see_only_the_weighted_pixels():
    image, weight = random_region(0)
    changed = jnp.where((weight > 0)[..., None], image, 7.0)
    both = color_statistics(image, weight), color_statistics(changed, weight)
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pair", PAIRS)
def test_map_is_the_float64_twin(pair):
    a, b = PAIRS[pair]
    expected = map_slowly(a, b)
    np.testing.assert_allclose(color_map(a, b), expected, atol=5e-3 * abs(expected).max())


@pytest.mark.parametrize("seed", range(3))
def test_transfer_reaches_the_target_statistics(seed):
    image, weight = random_region(seed, spread=0.02)
    source = color_statistics(image, weight)
    target_mean, target_cov = jnp.asarray([0.45, 0.5, 0.55], jnp.float32), random_cov(seed, 4e-4)
    moved = transfer_color(image, *source, target_mean, target_cov)
    assert moved.min() > 0  # nothing is clipped
    assert moved.max() < 1
    mean, cov = color_statistics(moved, weight)
    np.testing.assert_allclose(mean, target_mean, atol=1e-4)
    linear = color_map(source[1], target_cov)
    regularised = target_cov + COLOR_NOISE * (jnp.eye(3, dtype=jnp.float32) - linear @ linear)
    np.testing.assert_allclose(cov, regularised, atol=1e-3 * target_cov.max())
    np.testing.assert_allclose(cov, target_cov, atol=1e-2 * target_cov.max())


def test_equal_statistics_change_nothing():
    image = jnp.clip(random_region(0)[0], 0, 1)
    for cov in (random_cov(0), grey_cov(), ZERO):
        mean = jnp.full(3, 0.4, jnp.float32)
        np.testing.assert_allclose(transfer_color(image, mean, cov, mean, cov), image, atol=2e-3)


def test_flat_region_takes_the_target_mean():
    image = jnp.full((5, 6, 3), 0.2, jnp.float32)
    mean, cov = color_statistics(image, jnp.ones((5, 6), jnp.float32))
    target = jnp.asarray([0.3, 0.6, 0.9], jnp.float32)
    moved = transfer_color(image, mean, cov, target, random_cov(0))
    np.testing.assert_allclose(moved, jnp.broadcast_to(target, image.shape), atol=1e-4)


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


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_gradients_are_finite(value, weight):
    """Flat, saturated and empty regions."""

    def loss(image, weight, target_cov):
        mean, cov = color_statistics(image, weight)
        return jnp.sum(transfer_color(image, mean, cov, mean * 0.5, target_cov) ** 2)

    image = jnp.full((4, 5, 3), value, jnp.float32)
    weights = jnp.full((4, 5), weight, jnp.float32)
    slope_of = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    for cov in (ZERO, random_cov(0)):
        total, slopes = slope_of(image, weights, cov)
        assert jnp.isfinite(total)
        assert all(jnp.isfinite(slope).all() for slope in slopes)


def test_eager_jit_vmap_agree():
    regions = [random_region(seed) for seed in range(3)]
    images, weights = (jnp.stack(arrays) for arrays in zip(*regions, strict=True))

    def move(image, weight):
        mean, cov = color_statistics(image, weight)
        return transfer_color(image, mean, cov, mean, random_cov(4))

    mapped = jax.jit(jax.vmap(move))(images, weights)
    for image, weight, one in zip(images, weights, mapped, strict=True):
        np.testing.assert_allclose(move(image, weight), one, atol=1e-4)
    covs = jnp.stack([a for a, _ in PAIRS.values()])
    batched = color_map(covs, covs[::-1])
    for i in range(len(covs)):
        single = color_map(covs[i], covs[-1 - i])
        np.testing.assert_allclose(batched[i], single, atol=1e-3 * float(abs(single).max()))
