"""Every program is lowered for accelerators that are not here: what only a CPU can do is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_params

from sims_jax import pipeline
from sims_jax.bank.device import to_device
from sims_jax.networks import Params, make_networks
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks
from sims_jax.training.parallel import AXIS, mean_gradient

PLATFORMS = ("cpu", "cuda", "tpu")
NETWORKS = ("features", "transformer", "ordering", "densifier", "synthesis")


def lower(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported


@pytest.fixture(scope="module")
def tasks(tiny_config, tiny_stores):
    return invent_tasks(tiny_config, *tiny_stores)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_lowered_for_every_platform(tasks, name):
    task = tasks[name]
    optimizer = optax.adam(1e-3)
    batch, position = next(iterate_batches(task, seed=0, batch_size=4, first_step=0))
    params = jax.eval_shape(task.init, jax.random.key(0))
    state = params, jax.eval_shape(optimizer.init, params)

    def step(state, batch, position):
        params, opt_state = state
        keys = example_keys(jax.random.key(0), jnp.int32(0), position)
        one_device = jax.vmap(  # stands for the axis of devices
            lambda batch, keys: mean_gradient(task.loss, params, batch, keys), axis_name=AXIS
        )
        gradient, metrics = one_device(jax.tree.map(lambda x: x[None], batch), keys[None])
        gradient, metrics = jax.tree.map(lambda x: x[0], (gradient, metrics))
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    lower(step, state, batch, position)


@pytest.mark.parametrize("adherence", ["segment", "layout"])
def test_synthesize_is_lowered_for_every_platform(tiny_config, tiny_stores, adherence):

    labels = tiny_stores[0].spec.labels
    networks = make_networks(tiny_config, labels)
    params = Params(**random_params(networks, labels.num_classes), networks=networks)
    bank = to_device(tiny_stores[0], jax.devices()[:1])
    layouts = np.asarray(tiny_stores[1].layout[:2])

    def run(params, bank, layouts):
        return pipeline.synthesize(params, bank, layouts, adherence=adherence)[0].photo

    leaves, tree = jax.tree.flatten((params, bank, layouts))
    exported = lower(lambda *leaves: run(*jax.tree.unflatten(tree, leaves)), *leaves)
    assert exported.out_avals[0].shape == (2, *tiny_stores[0].spec.image_size, 3)
