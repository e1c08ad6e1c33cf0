"""Losses and metrics: numpy twins, void, empty inputs; what f learns by is their sum."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax import losses, metrics
from sims_jax.labels import VOID
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks

RNG = np.random.default_rng(0)


def random_array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_perceptual_loss_is_the_weighted_sum_of_layer_means():
    a = {"input": random_array(2, 8, 8, 3), "conv1_2": random_array(2, 4, 4, 5)}
    b = {name: random_array(*array.shape) for name, array in a.items()}
    loss, distances = losses.perceptual_loss(a, b, {"input": 2.0, "conv1_2": 0.5})
    expected = {
        name: np.abs(np.asarray(a[name]) - np.asarray(b[name])).mean(axis=(1, 2, 3)) for name in a
    }
    np.testing.assert_allclose(loss, 2 * expected["input"] + 0.5 * expected["conv1_2"], rtol=1e-5)
    for name in a:
        np.testing.assert_allclose(distances[name], expected[name], rtol=1e-5)
    zero, _ = losses.perceptual_loss(a, a, {"input": 1.0})
    np.testing.assert_array_equal(zero, 0)


def test_no_layers_have_no_distance():
    value, distances = losses.perceptual_loss({"a": jnp.ones((3, 2, 2, 1))}, {}, {})
    np.testing.assert_array_equal(value, np.zeros(3))
    assert not distances


def test_local_deviations_are_those_of_tiles():
    features = random_array(2, 17, 11, 3)
    found = losses.local_deviations(features, 4)
    assert found.shape == (2, 4, 2, 3)  # tiles of 4 x 5
    for row in range(4):
        for column in range(2):
            tile = np.asarray(features)[:, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
            expected = np.sqrt(tile.var(axis=(1, 2)) + losses.LEAST_VARIANCE)
            np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-5)
    assert losses.local_deviations(features, 32).shape == (2, 1, 1, 3)
    for other in (
        jax.jit(losses.local_deviations, static_argnums=1)(features, 4),
        jax.vmap(lambda one: losses.local_deviations(one[None], 4)[0])(features),
    ):
        np.testing.assert_allclose(other, found, rtol=1e-5)
    assert losses.local_deviations(features.astype(jnp.bfloat16), 4).dtype == jnp.float32
    # However the pixels of a tile lie, the texture is as strong; and a flat one has a gradient.
    turned = features[:, :16, :10].reshape(2, 4, 4, 2, 5, 3)[:, :, ::-1].reshape(2, 16, 10, 3)
    np.testing.assert_allclose(losses.local_deviations(turned, 4), found, rtol=1e-4)
    flat = jnp.zeros((1, 4, 4, 1))
    gradient = jax.grad(lambda x: losses.local_deviations(x, 4).sum())(flat)
    assert bool(jnp.isfinite(gradient).all())


def test_calibrated_weights_make_layers_count_the_same():
    weights = losses.calibrate_weights({"input": 0.25, "conv1_2": jnp.float32(4.0)})
    assert weights == {"input": 4.0, "conv1_2": 0.25}
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="conv1_2"):
            losses.calibrate_weights({"conv1_2": bad})


def test_cross_entropy_ignores_void():
    logits = random_array(2, 4, 5, 3)
    labels = RNG.integers(0, 3, (2, 4, 5)).astype(np.uint8)
    labels[0, :2] = VOID
    found = losses.cross_entropy(logits, jnp.asarray(labels))
    weights = np.array([0.5, 1.0, 3.0], np.float32)
    weighted = losses.cross_entropy(logits, jnp.asarray(labels), weights)
    scores = np.asarray(logits, np.float64)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    for example in range(2):
        where = labels[example] != VOID
        picked = log_p[example][where][np.arange(where.sum()), labels[example][where]]
        np.testing.assert_allclose(found[example], -picked.mean(), rtol=1e-5)
        picked *= weights[labels[example][where]]
        np.testing.assert_allclose(weighted[example], -picked.mean(), rtol=1e-5)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, jnp.asarray(labels)).sum())(logits)
    np.testing.assert_array_equal(gradient[0, :2], 0)
    assert float(jnp.abs(gradient[0, 2:]).min()) > 0


def test_cross_entropy_of_nothing_is_zero_with_zero_gradient():
    labels = jnp.full((1, 2, 2), VOID, jnp.uint8)
    value, gradient = jax.value_and_grad(lambda x: losses.cross_entropy(x, labels).sum())(
        random_array(1, 2, 2, 3)
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_masked_l1_sees_the_mask_only():
    a, b = random_array(2, 4, 4, 3), random_array(2, 4, 4, 3)
    mask = jnp.zeros((2, 4, 4), jnp.float32).at[0, :2, :3].set(1.0)
    found, gradient = jax.value_and_grad(lambda a: losses.masked_l1(a, b, mask).sum())(a)
    expected = np.abs(np.asarray(a - b))[0, :2, :3].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert bool(jnp.isfinite(gradient).all())
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_array_equal(gradient[0, 2:], 0)


def test_losses_are_float32_and_jit_agrees():
    a, b = (random_array(2, 4, 4, 3).astype(jnp.bfloat16) for _ in range(2))
    mask = jnp.ones((2, 4, 4), jnp.bfloat16)
    labels = jnp.zeros((2, 4, 4), jnp.uint8)
    for loss, inputs in (
        (losses.masked_l1, (a, b, mask)),
        (losses.cross_entropy, (a, labels)),
        (lambda a, b: losses.perceptual_loss({"l": a}, {"l": b}, {"l": 1.0})[0], (a, b)),
    ):
        value = loss(*inputs)
        assert value.dtype == jnp.float32 and value.shape == (2,)
        np.testing.assert_allclose(value, jax.jit(loss)(*inputs), rtol=1e-5)


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_metrics_match_a_count_by_hand(as_array):
    labels = as_array(np.array([[0, 0, 1, 1, VOID, 3]], np.uint8))
    prediction = as_array(np.array([[0, 1, 1, VOID, 0, 3]], np.uint8))
    confusion = np.asarray(metrics.confusion_matrix(prediction, labels, 4))
    expected = np.zeros((4, 5), np.int32)
    expected[0, 0] = expected[0, 1] = expected[1, 1] = expected[1, 4] = expected[3, 3] = 1
    np.testing.assert_array_equal(confusion, expected)
    # IoU: class 0 1/2, class 1 1/3, class 2 absent, class 3 1/1.
    assert metrics.mean_iou(confusion) == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert metrics.pixel_accuracy(confusion) == pytest.approx(3 / 5)


def test_metrics_of_nothing_are_nan():
    confusion = np.zeros((2, 3), np.int64)
    assert np.isnan(metrics.mean_iou(confusion)) and np.isnan(metrics.pixel_accuracy(confusion))


@pytest.mark.parametrize(
    ("weight", "term"), [("consistency_weight", "consistency"), ("texture_weight", "texture")]
)
def test_the_loss_of_synthesis_is_the_weighted_sum_of_what_it_tells(
    tiny_config, tiny_stores, weight, term
):
    """What Φ reads, and textures, count as their weights say, in the gradient, too."""
    task = invent_tasks(tiny_config, *tiny_stores)["synthesis"]
    only = dataclasses.replace(task.losses, consistency_weight=0.0, texture_weight=0.0)
    params = jax.jit(task.init)(jax.random.key(0))
    batch, position = next(iterate_batches(task, seed=0, batch_size=2, first_step=0))
    batch, position = jax.tree.map(jnp.asarray, (batch, position))
    keys = example_keys(jax.random.key(1), jnp.int32(0), position)

    def mean_loss(params, task):
        loss, metrics = task.loss(params, batch, keys)
        return loss.mean(), metrics | {"loss": loss}

    @jax.jit
    def look(params):
        found = []
        for value in (0.0, 1.0, 3.0):
            some = dataclasses.replace(task, losses=dataclasses.replace(only, **{weight: value}))
            found.append(jax.grad(mean_loss, has_aux=True)(params, some))
        return found

    (g0, without), (g1, once), (g3, thrice) = jax.device_get(look(params))
    weighted = task.losses.segmentation_weight * once["segmentation"]
    np.testing.assert_allclose(once["loss"], once["perceptual"] + weighted + once[term], rtol=1e-5)
    np.testing.assert_allclose(thrice["loss"] - once["loss"], 2 * once[term], rtol=1e-4)
    np.testing.assert_allclose(once["loss"] - without["loss"], once[term], rtol=1e-4)
    assert term not in without
    one, three = (jax.tree.map(np.subtract, g, g0) for g in (g1, g3))
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))
    assert size > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, atol=1e-3 * size), one, three)
