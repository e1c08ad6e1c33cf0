"""Scores: twins, invariances, and what each must not notice."""

import numpy as np
import pytest
import scipy.linalg

from sims_jax.evaluation import scores


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_distance_is_that_of_the_matrix_root(rng):
    a, b = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)) + 1.0
    cov_a, cov_b = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        cov_a + cov_b - 2 * np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    )
    gaussians = [scores.Moments.of(x[:, None]).gaussian(np.arange(40)) for x in (a, b)]
    assert scores.frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-9)
    assert scores.frechet_distance(gaussians[0], gaussians[0]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_few_is_that_of_their_gaussians(rng):
    a, b = rng.normal(size=(9, 30)), 2.0 * rng.normal(size=(12, 30)) + 0.3
    gaussians = [(x.mean(axis=0), np.cov(x.T)) for x in (a, b)]
    expected = scores.frechet_distance(*gaussians)
    assert scores.frechet_distance_of_few(a, b) == pytest.approx(expected, rel=1e-6)
    assert scores.frechet_distance_of_few(a, a) == pytest.approx(0, abs=1e-9)


def test_moments_of_a_choice_are_those_of_its_vectors(rng):
    features = rng.normal(size=(7, 5, 3))
    chosen = np.array([0, 3, 3, 6])  # one twice, as a bootstrap draws
    mean, cov = scores.Moments.of(features).gaussian(chosen)
    vectors = features[chosen].reshape(-1, 3)
    np.testing.assert_allclose(mean, vectors.mean(axis=0))
    np.testing.assert_allclose(cov, np.cov(vectors.T, bias=True), atol=1e-12)


def test_kernel_distance_is_that_of_loops(rng):
    a, b = rng.normal(size=(6, 1, 4)), rng.normal(size=(6, 1, 4)) + 0.5

    def mean(x, y):
        values = [(x[i, 0] @ y[j, 0] / 4 + 1) ** 3 for i in range(6) for j in range(6) if i != j]
        return np.mean(values)

    found = scores.kernel_distance(scores.Kernels.of(a, b), np.arange(6))
    assert found == pytest.approx(mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert scores.kernel_distance(scores.Kernels.of(a, a), np.arange(6)) == pytest.approx(0)


def test_the_spectrum_says_how_fine_and_how_strong_a_texture_is(rng):
    noise = np.repeat(rng.normal(0.5, 0.1, size=(40, 32, 48, 1)), 3, axis=-1)
    soft = (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)) / 3
    sharp, strong, blurred = (scores.log_spectrum(x).mean(axis=0) for x in (noise, 2 * noise, soft))
    assert sharp.shape == (16,)
    assert np.ptp(sharp[1:]) < 0.5  # noise has the same power at all frequencies
    np.testing.assert_allclose(strong - sharp, np.log(4), atol=1e-6)
    assert blurred[1] - sharp[1] > -0.2 and blurred[-1] - sharp[-1] < -1.5


def test_gradients_and_chroma_are_means():
    ramp = np.broadcast_to(np.arange(10)[:, None] * 0.1, (1, 10, 12))
    photos = np.stack([ramp, ramp, ramp + 0.02], axis=-1)
    assert scores.mean_gradient(photos) == pytest.approx([0.1])
    np.testing.assert_allclose(scores.mean_chroma(photos), [[0.0, 5.1]], atol=1e-9)


def test_flat_squares_are_holes_unless_they_are_white(rng):
    photos = rng.integers(255, size=(3, 70, 70, 3), dtype=np.uint8)
    photos[1, :14, :21] = 0
    photos[2, :14, :21] = 255
    np.testing.assert_allclose(scores.flat_share(photos), [0.0, 6 / 100, 0.0])


def test_a_copy_is_found_out(rng):
    others = rng.random((5, 6, 8, 3))
    photos = np.stack([others[3], others[2] + 10 / 255])
    np.testing.assert_allclose(scores.nearest_distance(photos, others), [0.0, 10.0], atol=1e-4)


def test_a_bootstrap_holds_its_value_and_narrows(rng):
    def interval(count):
        values = rng.normal(size=count)
        return scores.bootstrap(lambda chosen: values[chosen].mean(), count, 200, 0.95, 0)

    few, many = interval(10), interval(1000)
    assert all(low < value < high for value, low, high in (few, many))
    assert many[2] - many[1] < (few[2] - few[1]) / 5
