"""One and several devices agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from sims_jax.errors import InputError
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks
from sims_jax.training.parallel import (
    AXIS,
    create_state,
    make_train_step,
    mean_gradient,
    shard_batch,
)

BATCH = 16


def init(key):
    a, b = jax.random.split(key)
    return {"a": jax.random.normal(a, (5, 8)), "b": jax.random.normal(b, (8, 2))}


def loss(params, batch, keys):
    """A small network with dropout, so that keys matter."""
    hidden = jnp.tanh(batch["x"] @ params["a"])
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (8,)))(keys)
    out = jnp.where(kept, hidden, jnp.zeros_like(hidden)) @ params["b"]
    error = jnp.square(out - batch["y"]).mean(axis=1)
    return error, {"twice": 2 * error}


def make_batch(dtype):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(BATCH, 5)), rng.normal(size=(BATCH, 2))
    return {"x": x.astype(dtype), "y": y.astype(dtype)}, np.arange(BATCH, dtype=np.int32)


def gradient_on(count, loss, params, batch, position, accumulation=1):
    devices = jax.devices()[:count]

    def gradient(params, batch, position):
        keys = example_keys(jax.random.key(1), jnp.int32(3), position)
        return mean_gradient(loss, params, batch, keys, accumulation)

    mapped = jax.pmap(gradient, AXIS, in_axes=(None, 0, 0), out_axes=None, devices=devices)
    return jax.device_get(mapped(params, *shard_batch((batch, position), devices)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_gradients_of_eight_devices_equal_those_of_one(dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        params = jax.tree.map(lambda x: x.astype(dtype), init(jax.random.key(0)))
        inputs = loss, params, *make_batch(dtype)
        one, metrics_one = gradient_on(1, *inputs)
        eight, metrics_eight = gradient_on(8, *inputs)
    for name, gradient in one.items():
        assert gradient.dtype == dtype
        difference = np.linalg.norm(eight[name] - gradient)
        assert difference <= tolerance * np.linalg.norm(gradient)
    assert metrics_eight["twice"] == pytest.approx(2 * metrics_one["loss"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
@pytest.mark.parametrize("count", [1, 2])
def test_accumulated_gradients_equal_those_of_the_large_batch(count, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        params = jax.tree.map(lambda x: x.astype(dtype), init(jax.random.key(0)))
        inputs = loss, params, *make_batch(dtype)
        whole, metrics_whole = gradient_on(1, *inputs)
        parts, metrics_parts = gradient_on(count, *inputs, accumulation=4)
    for name, gradient in whole.items():
        assert parts[name].dtype == dtype
        assert np.linalg.norm(parts[name] - gradient) <= tolerance * np.linalg.norm(gradient)
    assert metrics_parts.keys() == metrics_whole.keys()
    for metric, value in metrics_whole.items():
        np.testing.assert_allclose(metrics_parts[metric], value, rtol=tolerance)


@pytest.mark.parametrize("name", ["features", "transformer", "ordering", "densifier", "synthesis"])
def test_every_networks_gradient_is_the_same_on_eight_devices(name, tiny_config, tiny_stores):
    """The first batch of its training, and parameters none of which is zero."""
    task = invent_tasks(tiny_config, *tiny_stores)[name]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + rng.normal(0, 0.02, x.shape).astype(np.float32),
        jax.device_get(jax.jit(task.init)(jax.random.key(0))),
    )
    batch, position = next(iterate_batches(task, seed=0, batch_size=8, first_step=0))
    one, metrics_one = gradient_on(1, task.loss, params, batch, position)
    eight, metrics_eight = gradient_on(8, task.loss, params, batch, position)
    difference = optax.tree.norm(jax.tree.map(np.subtract, one, eight))
    assert 0 < optax.tree.norm(one) < np.inf
    assert difference <= 1e-4 * optax.tree.norm(one)
    assert metrics_eight.keys() == metrics_one.keys()
    for metric, value in metrics_one.items():
        np.testing.assert_allclose(metrics_eight[metric], value, rtol=1e-4, err_msg=metric)


@pytest.mark.parametrize("name", ["features", "transformer", "ordering", "densifier", "synthesis"])
def test_bfloat16_is_of_convolutions_alone(name, tiny_config, tiny_stores):
    """Every convolution's operands; no parameter, gradient, loss or metric."""
    config = tiny_config.copy_and_resolve_references()
    config[name].train.precision = "bfloat16"
    task = invent_tasks(config, *tiny_stores)[name]
    batch, position = next(iterate_batches(task, seed=0, batch_size=2, first_step=0))
    params = jax.eval_shape(task.init, jax.random.key(0))

    def gradient(params, batch, position):
        keys = example_keys(jax.random.key(1), jnp.int32(3), position)
        loss, slope = jax.value_and_grad(lambda x: task.loss(x, batch, keys)[0].mean())(params)
        return loss, slope, task.loss(params, batch, keys)

    jaxpr, given = jax.make_jaxpr(gradient, return_shape=True)(params, batch, position)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, given)))
    found = [x.aval.dtype for eqn in convolutions(jaxpr.jaxpr) for x in eqn.invars]
    assert found and set(found) == {jnp.dtype("bfloat16")}


def convolutions(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from convolutions(inner)


def test_training_on_eight_devices_equals_training_on_one():
    batch, position = make_batch(np.float32)
    states = []
    for count in (1, 8):
        devices = jax.devices()[:count]
        optimizer = optax.sgd(0.1)
        state = create_state(init, optimizer, jax.random.key(0), devices)
        step = make_train_step(loss, optimizer, 0.9, jax.random.key(1), devices)
        for _ in range(5):
            state, metrics = step(state, *shard_batch((batch, position), devices))
        assert int(state.step) == 5 and float(metrics["gradient_norm"]) > 0
        states.append(jax.device_get(state))
    for one, eight in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-6)


def step_once(**changes):
    """(compiled step, what it was given, what it gave), of `loss` on two devices."""
    devices = jax.devices()[:2]
    optimizer = optax.adam(0.1)
    state = create_state(init, optimizer, jax.random.key(0), devices)
    step = make_train_step(loss, optimizer, 0.9, jax.random.key(1), devices, **changes)
    batch = shard_batch(make_batch(np.float32), devices)
    compiled = step.lower(state, *batch).compile()
    return compiled, state, step(state, *batch)[0]


def test_accumulated_updates_equal_those_of_the_large_batch():
    whole, parts = (step_once(accumulation=count)[2] for count in (1, 4))
    for one, other in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_state_is_given_away_and_its_memory_used_again():
    compiled, before, after = step_once()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(after))
    assert compiled.memory_analysis().alias_size_in_bytes == size


def test_the_average_follows_the_parameters():
    devices = jax.devices()[:1]
    optimizer = optax.sgd(0.1)
    state = create_state(init, optimizer, jax.random.key(0), devices)
    first = jax.device_get(state.params)
    step = make_train_step(loss, optimizer, 0.999, jax.random.key(1), devices)
    state, _ = step(state, *shard_batch(make_batch(np.float32), devices))
    for name, ema in state.ema.items():
        expected = 0.1 * first[name] + 0.9 * np.asarray(state.params[name])
        np.testing.assert_allclose(ema, expected, rtol=1e-5)


def test_an_indivisible_batch_is_named():
    with pytest.raises(InputError, match="16 examples on 3 devices"):
        shard_batch(make_batch(np.float32), jax.devices()[:3])
