"""The light of photos: a float64 twin, what a relit photo promises, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.light import (
    DARK,
    MAX_SHARPENED,
    SPLINE,
    Light,
    measure_light,
    relight,
    relight_pieces,
    sharpen,
)


@pytest.fixture(scope="module")
def photos():
    """Two photos, one dark and of little contrast."""
    rng = np.random.default_rng(0)
    tint = rng.normal(size=(3, 3)) / 4
    bright, dark = rng.normal(size=(2, 24, 32, 3)).astype(np.float32)
    return jnp.asarray([0.6 + 0.1 * bright @ tint, 0.2 + 0.03 * dark], jnp.float32)


def test_light_is_mean_and_covariance_of_logarithms(photos):
    light = measure_light(photos)
    for i, photo in enumerate(np.asarray(photos, np.float64)):
        colors = np.log(photo.reshape(-1, 3) + DARK)
        np.testing.assert_allclose(light.mean[i], colors.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(light.cov[i], np.cov(colors.T, ddof=0), rtol=1e-3, atol=1e-6)


def test_a_relit_photo_has_the_light_of_the_reference(photos):
    reference = measure_light(photos[1])
    relit = jax.jit(relight)(photos, measure_light(photos), reference)
    assert relit.min() > 0 and relit.max() < 1  # nothing is clipped, so that
    found = measure_light(relit)
    for i in range(2):
        np.testing.assert_allclose(found.mean[i], reference.mean, atol=1e-4)
        np.testing.assert_allclose(found.cov[i], reference.cov, atol=2e-4)


def test_a_photo_in_its_own_light_stays(photos):
    own = measure_light(photos)
    np.testing.assert_allclose(relight(photos, own, own), photos, atol=1e-4)


def test_colours_stay_in_range_and_in_order():
    """Whatever the reference: a brighter grey stays the brighter one."""
    grey = jnp.repeat(jnp.linspace(0, 1, 64).reshape(8, 8, 1), 3, axis=-1)
    extreme = Light(mean=jnp.full(3, -1.0), cov=8.0 * jnp.eye(3), sharpness=jnp.float32(1.0))
    relit = relight(grey, measure_light(grey), extreme)
    assert relit.min() == 0 and relit.max() == 1
    assert (jnp.diff(relit.reshape(-1, 3), axis=0) >= 0).all()


def test_flat_photos_and_gradients_are_finite(photos):
    flat, reference = jnp.full((4, 4, 3), 0.5), measure_light(photos[0])

    def move(photo):
        return relight(photo, measure_light(photo), reference)

    expected = jnp.exp(reference.mean) - DARK
    np.testing.assert_allclose(move(flat), jnp.broadcast_to(expected, flat.shape), atol=1e-4)
    assert np.isfinite(jax.grad(lambda photo: move(photo)[0, 0].sum())(flat)).all()


def test_vmap_is_the_batch(photos):
    own, reference = measure_light(photos), measure_light(photos[1])
    one_by_one = jax.vmap(relight, (0, 0, None))(photos, own, reference)
    np.testing.assert_allclose(one_by_one, relight(photos, own, reference), atol=1e-6)


def test_pieces_move_as_the_photos_they_are_of(photos):
    own, reference = measure_light(photos), measure_light(photos[0] ** 2)
    piece = jnp.asarray(np.indices(photos.shape[1:3]).sum(axis=0) % 2)
    mixed = jnp.where(piece[..., None] == 0, photos[0], photos[1])
    first, second = relight(photos, own, reference)
    expected = jnp.where(piece[..., None] == 0, first, second)
    np.testing.assert_allclose(relight_pieces(mixed, piece, own, reference), expected, atol=1e-5)


def test_where_there_is_no_piece_nothing_is_relit_and_slopes_are_finite(photos):
    """Not even where the last piece has no light, for it was never measured."""
    measured = measure_light(photos)
    own = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])]), measured)
    strong = Light(mean=jnp.full(3, -1.0), cov=8.0 * jnp.eye(3), sharpness=jnp.float32(1.0))
    piece = jnp.asarray(np.indices(photos.shape[1:3]).sum(axis=0) % 2 - 1)
    holey = jnp.where(piece[..., None] >= 0, photos[0], 0.0)
    relit = relight_pieces(holey, piece, own, strong)
    assert not np.asarray(relit)[np.asarray(piece) < 0].any()
    slopes = jax.grad(lambda *x: relight_pieces(x[0], piece, *x[1:]).sum(), argnums=(0, 1, 2))
    for slope in jax.tree.leaves(slopes(holey, own, strong)):
        assert np.isfinite(slope).all()


def smooth(colors, step):
    """The twin of `_smooth`, tap by tap, edges repeated."""
    for axis in (0, 1):
        index = np.arange(colors.shape[axis])
        taps = [np.clip(index + (tap - 2) * step, 0, len(index) - 1) for tap in range(5)]
        colors = sum(w * colors.take(at, axis=axis) for w, at in zip(SPLINE, taps, strict=True))
    return colors


def test_sharpness_is_the_finest_scale_over_the_next(photos):
    for photo, found in zip(photos, measure_light(photos).sharpness, strict=True):
        colors = np.log(np.asarray(photo, np.float64) + DARK)
        finest, following = colors - smooth(colors, 1), smooth(colors, 1)
        following = following - smooth(following, 2)
        assert found == pytest.approx(np.abs(finest).mean() / np.abs(following).mean(), rel=0.01)


def test_a_sharpened_photo_is_as_sharp_as_the_reference():
    """Within the most that is done; what has no detail gets none; its own changes nothing."""
    rng = np.random.default_rng(1)
    noise = smooth(rng.normal(size=(48, 64, 3)), 1)
    photo = jnp.asarray(0.4 + 0.1 * noise + 0.02 * rng.normal(size=noise.shape), jnp.float32)
    own = measure_light(photo)
    np.testing.assert_allclose(sharpen(photo, own), photo, atol=1e-6)
    for wanted in (0.9, 1.15):
        reference = own.replace(sharpness=wanted * own.sharpness)
        found = measure_light(sharpen(photo, reference))
        assert found.sharpness == pytest.approx(float(reference.sharpness), rel=0.01)
    most, beyond = (own.replace(sharpness=x * own.sharpness) for x in (MAX_SHARPENED, 9.0))
    np.testing.assert_allclose(sharpen(photo, beyond), sharpen(photo, most), atol=1e-6)
    flat = jnp.full((8, 8, 3), 0.5)
    np.testing.assert_allclose(sharpen(flat, beyond), flat, atol=1e-6)
    assert np.isfinite(jax.grad(lambda photo: sharpen(photo, most)[2, 2, 0])(flat)).all()


def test_sharpening_eager_is_jit_and_a_batch_its_photos(photos):
    reference = measure_light(photos[1])
    eager = sharpen(photos, reference)
    np.testing.assert_allclose(jax.jit(sharpen)(photos, reference), eager, atol=1e-6)
    one_by_one = jax.vmap(sharpen, (0, None))(photos, reference)
    np.testing.assert_allclose(one_by_one, eager, atol=1e-6)
    assert np.abs(eager[0] - photos[0]).max() > 1e-3
