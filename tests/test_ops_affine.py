"""Affine sampling: exact cases, round trips, a numpy twin of the frames, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from sims_jax.ops.affine import (
    box_to_frame,
    compose_affine,
    crop_labels,
    crop_resize,
    identity_affine,
    look_up,
    sample_affine,
    sample_cuts,
    sample_photos,
)
from sims_jax.ops.resize import resize_labels

IDENTITY = identity_affine()
sample = jax.jit(sample_affine, static_argnums=2)
crop = jax.jit(crop_resize, static_argnums=2)


def random_image(height=18, width=23, channels=3):
    image = np.random.default_rng(0).random((height, width, channels))
    return jnp.asarray(image, jnp.float32)


def smooth_image(height=64, width=80):
    y, x = np.indices((height, width)) / height
    image = np.stack([np.sin(5 * x + 2 * y), np.cos(4 * y), x * y], axis=-1)
    return jnp.asarray(image, jnp.float32)


def random_affine(seed, spread=0.15, shift=3.0):
    rng = np.random.default_rng(seed)
    linear = np.eye(2) + rng.uniform(-spread, spread, (2, 2))
    return jnp.asarray(np.column_stack([linear, rng.uniform(-shift, shift, 2)]), jnp.float32)


def invert(affine):
    square = np.vstack([np.asarray(affine, np.float64), [0, 0, 1]])
    return jnp.asarray(np.linalg.inv(square)[:2], jnp.float32)


def shift_affine(x, y):
    return IDENTITY.at[:, 2].set(jnp.asarray([x, y], jnp.float32))


@pytest.mark.parametrize("size", [(18, 23), (7, 8), (1, 1)])
def test_identity_is_exact(size):
    image = random_image(*size)
    box = jnp.asarray([0, 0, *size])
    for result in (
        sample_affine(image, IDENTITY),
        sample(image, IDENTITY),
        crop_resize(image, box, size),
        crop(image, box, size),
        crop(image, box, size, IDENTITY),
    ):
        np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-4, 5)])
def test_integer_shift_is_a_roll(x, y):
    image = random_image()
    moved = np.asarray(sample(image, shift_affine(x, y)))
    expected = np.roll(np.asarray(image), (-y, -x), axis=(0, 1))
    rows = np.arange(18)[:, None] + y
    columns = np.arange(23) + x
    inside = (rows >= 0) & (rows < 18) & (columns >= 0) & (columns < 23)
    np.testing.assert_allclose(moved, np.where(inside[..., None], expected, 0), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_sampling_is_scipys(seed):
    image, affine = random_image(), random_affine(seed, shift=6)
    height, width, _ = image.shape
    size = (15, 20)
    x, y = np.meshgrid(np.arange(20) + 0.5 - 10, np.arange(15) + 0.5 - 7.5)
    u = np.asarray(affine, np.float64) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    where = [u[1] + height / 2 - 0.5, u[0] + width / 2 - 0.5]
    expected = np.stack(
        [
            ndimage.map_coordinates(np.pad(channel, 1), np.array(where) + 1, order=1)
            for channel in np.moveaxis(np.asarray(image), -1, 0)
        ],
        axis=-1,
    )
    found = sample(image, affine, size)
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_undo_a_random_warp(seed):
    image, affine = smooth_image(), random_affine(seed)
    undone = sample(sample(image, affine), invert(affine))
    np.testing.assert_allclose(undone[20:-20, 20:-20], image[20:-20, 20:-20], atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_compose(seed):
    outer, inner = random_affine(seed), random_affine(seed + 10)
    point = jnp.asarray([3.0, -7.0], jnp.float32)

    def move(affine, u):
        return affine[:, :2] @ u + affine[:, 2]

    composed = compose_affine(outer, inner)
    np.testing.assert_allclose(move(composed, point), move(outer, move(inner, point)), atol=1e-4)
    for both in ((outer, invert(outer)), (invert(outer), outer)):
        np.testing.assert_allclose(compose_affine(*both), IDENTITY, atol=1e-5)
    image = smooth_image()
    twice = sample(sample(image, outer), inner)[20:-20, 20:-20]
    np.testing.assert_allclose(sample(image, composed)[20:-20, 20:-20], twice, atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_box_to_frame_against_numpy(seed):
    """Moves points one at a time: frame to box, theta, box to frame."""
    rng = np.random.default_rng(seed)
    theta, size = random_affine(seed, shift=0.4), (40, 60)
    box = np.array([5, 11, 33, 29])
    affine = box_to_frame(theta, jnp.asarray(box), size)
    y0, x0, y1, x1 = box
    middle = np.array([size[1] / 2, size[0] / 2])
    for u in rng.uniform(-20, 20, (5, 2)):
        pixel = u + middle
        in_box = 2 * (pixel - [x0, y0]) / [x1 - x0, y1 - y0] - 1
        moved = np.asarray(theta)[:, :2] @ in_box + np.asarray(theta)[:, 2]
        back = (moved + 1) / 2 * [x1 - x0, y1 - y0] + [x0, y0] - middle
        found = np.asarray(affine)[:, :2] @ u + np.asarray(affine)[:, 2]
        np.testing.assert_allclose(found, back, atol=1e-3)


def test_box_to_frame_identity_is_exact_and_agrees_with_crop():
    box = jnp.asarray([3, 7, 17, 40])
    np.testing.assert_array_equal(box_to_frame(IDENTITY, box, (50, 70)), IDENTITY)
    assert jnp.isfinite(box_to_frame(IDENTITY, jnp.zeros(4, jnp.int32), (50, 70))).all()
    image, theta = smooth_image(50, 70), random_affine(0, shift=0.2)
    moved = sample(image, box_to_frame(theta, box, (50, 70)))
    cut = crop(image, box, (14, 33), theta)
    np.testing.assert_allclose(cut, moved[3:17, 7:40], atol=1e-4)


def test_crop_resize_cuts_and_pads():
    image = random_image()
    cut = crop(image, jnp.asarray([2, 3, 10, 15]), (8, 12))
    np.testing.assert_allclose(cut, image[2:10, 3:15], atol=1e-5)
    beyond = crop(image, jnp.asarray([-4, 0, 18, 23]), (22, 23))
    np.testing.assert_allclose(beyond, jnp.pad(image, ((4, 0), (0, 0), (0, 0))), atol=1e-5)
    assert not crop(image, jnp.zeros(4, jnp.int32) - 5, (3, 3)).any()


def test_crop_labels_follows_resize_labels():
    labels = np.random.default_rng(0).integers(0, 250, (20, 30)).astype(np.uint8)
    box = jnp.asarray([3, 5, 17, 28], jnp.int32)
    for size in ((14, 23), (5, 7), (40, 31)):
        found = jax.jit(crop_labels, static_argnums=2)(jnp.asarray(labels), box, size)
        assert found.dtype == jnp.uint8
        np.testing.assert_array_equal(found, resize_labels(labels[3:17, 5:28], size))


def test_gradients():
    image, affine = smooth_image(12, 14), random_affine(1, shift=0.3)
    check_grads(lambda image: sample(image, affine), (image,), 1, ("rev",), 1e-2, 1e-2)
    weight = random_image(9, 9)

    @jax.jit
    def loss(theta):
        return jnp.sum(weight * crop(image, jnp.asarray([1, 1, 11, 12]), (9, 9), theta))

    step = 1e-3
    theta = random_affine(2, spread=0.05, shift=0.05)
    slope = np.asarray(jax.grad(loss)(theta))
    for index in np.ndindex(2, 3):
        change = jnp.zeros((2, 3), jnp.float32).at[index].set(step)
        numeric = (loss(theta + change) - loss(theta - change)) / (2 * step)
        np.testing.assert_allclose(slope[index], numeric, rtol=0.1, atol=0.02 * abs(slope).max())


@pytest.mark.parametrize("affine", [IDENTITY, IDENTITY * 0, IDENTITY * 1e6, shift_affine(1e4, 0)])
def test_gradients_are_finite(affine):
    for image in (jnp.zeros((6, 7, 4), jnp.float32), jnp.ones((6, 7, 4), jnp.float32)):
        value, slopes = jax.value_and_grad(
            lambda image, affine: jnp.sum(sample(image, affine) ** 2), argnums=(0, 1)
        )(image, affine)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(slope).all() for slope in slopes)


def test_eager_jit_vmap_agree():
    images = jnp.stack([random_image(channels=4), random_image(channels=4) * 0.5])
    affines = jnp.stack([random_affine(0), random_affine(1)])
    mapped = jax.jit(jax.vmap(sample_affine))(images, affines)
    for image, affine, one in zip(images, affines, mapped, strict=True):
        np.testing.assert_allclose(sample_affine(image, affine), one, atol=1e-5)


def test_cuts_are_sampled_as_images_are():
    """At every pixel the sample of one cut; nothing at -1; gradients alike."""
    rng = np.random.default_rng(1)
    maps = rng.integers(-1, 2, (3, 18, 23)).astype(np.int16)
    affines = jnp.stack([IDENTITY, random_affine(1), random_affine(2, spread=0.9, shift=30.0)])
    place = rng.integers(0, 3, (18, 23))
    component = rng.integers(-1, 2, (18, 23))

    def one_by_one(affines):
        cuts = [jnp.asarray(maps == c, jnp.float32)[..., None] for c in range(2)]
        of_all = jnp.stack([jax.vmap(sample_affine)(cut, affines)[..., 0] for cut in cuts])
        rows, columns = np.indices(place.shape)
        some = of_all[np.maximum(component, 0), place, rows, columns]
        return jnp.where(component >= 0, some, 0.0)

    def at_once(affines, component=component):
        some = (jnp.asarray(array) for array in (maps, place, component))
        return sample_cuts(*some, *look_up(affines, jnp.asarray(place)))

    np.testing.assert_allclose(at_once(affines), one_by_one(affines), atol=1e-5)
    still = (place == 0) & (component >= 0)
    np.testing.assert_array_equal(at_once(affines)[still], (maps[0] == component)[still])
    assert not np.asarray(at_once(affines))[component == -1].any()
    nowhere = jax.grad(lambda a: at_once(a, np.full_like(component, -1)).sum())(affines)
    assert not np.asarray(nowhere).any()
    twice = jax.jit(jax.vmap(at_once))(jnp.stack([affines, affines[::-1]]))
    np.testing.assert_allclose(twice[0], at_once(affines), atol=1e-5)
    np.testing.assert_allclose(twice[1], at_once(affines[::-1]), atol=1e-5)
    slopes = [jax.grad(lambda a, f=f: (f(a) ** 2).sum())(affines) for f in (at_once, one_by_one)]
    np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-3 * float(abs(slopes[0]).max()))


def cubic_kernel(distance):
    """The cubic kernel of Keys 1981, eq. 4, with a = -1/2."""
    s = np.abs(distance)
    near, far = 1.5 * s**3 - 2.5 * s**2 + 1, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
    return np.where(s <= 1, near, np.where(s < 2, far, 0.0))


def test_cubic_samples_equal_a_slow_twin():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (3, 18, 23, 2), dtype=np.uint8)
    piece = rng.integers(-1, 3, (18, 23))
    y, x = rng.uniform(-4, 22, (18, 23)), rng.uniform(-4, 27, (18, 23))
    expected = np.zeros((18, 23, 2))
    for place in zip(*np.nonzero(piece >= 0), strict=True):
        rows, columns = np.arange(-2, 22), np.arange(-2, 27)
        image = images[piece[place]][np.clip(rows, 0, 17)][:, np.clip(columns, 0, 22)]
        at_y, at_x = np.clip(y[place], 0, 17), np.clip(x[place], 0, 22)
        expected[place] = np.einsum(
            "y,x,yxc->c", cubic_kernel(rows - at_y), cubic_kernel(columns - at_x), image
        )
    y, x = np.float32(y), np.float32(x)
    arrays = [jnp.asarray(array) for array in (images, piece, y, x)]
    for sample in (sample_photos, jax.jit(sample_photos)):
        np.testing.assert_allclose(sample(*arrays), expected, atol=1e-2)
    pairs = [jnp.stack([array, array[..., ::-1]]) for array in arrays]
    twice = jax.vmap(sample_photos)(*pairs)
    for index in range(2):
        alone = sample_photos(*(pair[index] for pair in pairs))
        np.testing.assert_allclose(twice[index], alone, atol=1e-3)


def test_cubic_samples_have_finite_gradients_and_none_of_other_images():
    """At the border, beyond it and where there is no piece, too."""
    rng = np.random.default_rng(5)
    images = jnp.asarray(rng.random((2, 18, 23, 1), np.float32))
    piece = jnp.asarray(rng.integers(-1, 1, (18, 23)))
    y, x = (jnp.asarray(at, jnp.float32) for at in np.mgrid[-3:15, 3:26])

    def total(images, y, x):
        return (sample_photos(images, piece, y, x) ** 2).sum()

    by_image, by_y, by_x = jax.grad(total, (0, 1, 2))(images, y, x)
    assert all(np.isfinite(some).all() for some in (by_image, by_y, by_x))
    assert np.asarray(by_image[0]).any() and not np.asarray(by_image[1]).any()
    for gradient in (by_y, by_x):
        assert np.asarray(gradient)[piece == 0].any()
        assert not np.asarray(gradient)[piece == -1].any()


def test_cubic_samples_are_exact_where_nothing_moves_and_on_ramps():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (1, 18, 23, 3), dtype=np.uint8)
    y, x = np.mgrid[:18, :23].astype(np.float32)
    nothing = np.zeros((18, 23), int)
    there = (jnp.asarray(array) for array in (image, nothing, y, x))
    np.testing.assert_array_equal(sample_photos(*there), image[0])
    ramp = (3 * y + 5 * x)[None, ..., None]
    inner = np.s_[2:-2, 2:-2]
    shifted = (jnp.asarray(array, jnp.float32) for array in (y + 0.3, x - 0.6))
    moved = sample_photos(jnp.asarray(ramp), jnp.asarray(nothing), *shifted)
    np.testing.assert_allclose(moved[inner], ramp[0][inner] + 3 * 0.3 - 5 * 0.6, rtol=1e-4)

    def total(shift):
        some = (jnp.asarray(array) for array in (ramp, nothing, y, x + shift))
        return sample_photos(*some)[inner].mean()

    for shift in (0.0, 0.4):
        assert jax.grad(total)(shift) == pytest.approx(5.0, rel=1e-4)


def test_cubic_samples_of_moved_photos_are_sharper_than_bilinear_ones():
    rng = np.random.default_rng(4)
    image, nothing = jnp.asarray(rng.random((1, 40, 40, 1), np.float32)), jnp.zeros((40, 40), int)
    y, x = (jnp.asarray(at, jnp.float32) + 0.5 for at in np.mgrid[:40, :40])
    cubic = sample_photos(image, nothing, y, x)
    linear = sample_affine(image[0], IDENTITY.at[:, 2].set(0.5))
    spread = [float(some[4:-4, 4:-4].std()) for some in (image[0], cubic, linear)]
    assert spread[0] > spread[1] > 1.2 * spread[2]
