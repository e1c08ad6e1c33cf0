"""The dry run: figures of the compiler's, and nothing trained."""

import dataclasses

import jax
import numpy as np
import pytest

from sims_jax.data.source import dataset_labels
from sims_jax.errors import InputError
from sims_jax.labels import SCENES, VOID
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import draw_store, dry_run, invent_tasks
from sims_jax.training.settings import STAGES, read_settings

FLOAT_BYTES = 4
KEPT = 4  # times a parameter: itself, its average, Adam's two


def test_every_stage_is_compiled_and_measured(tiny_config, tmp_path):
    store = draw_store(read_settings(tiny_config), dataset_labels(tiny_config.data), tmp_path)
    tasks = invent_tasks(tiny_config, store, store)
    costs = {cost.stage: cost for cost in dry_run(tiny_config)}
    assert tuple(costs) == STAGES[1:]
    for stage, cost in costs.items():
        params = jax.eval_shape(tasks[stage].init, jax.random.key(0))
        assert cost.parameters == sum(x.size for x in jax.tree.leaves(params))
        assert cost.flops > cost.parameters
        assert cost.peak_bytes > KEPT * FLOAT_BYTES * cost.parameters
        assert f"{cost.parameters:,} parameters" in str(cost)


def test_labels_of_fewer_classes_are_as_good(tiny_config, tmp_path):
    """Than the scenes have that are drawn in place of the photos; in coarse layouts, too."""
    labels = dataclasses.replace(SCENES, classes=SCENES.classes[:2], palette=SCENES.palette[:2],
                                 planar=(), thin=(), context=())  # fmt: skip
    store = draw_store(read_settings(tiny_config), labels, tmp_path)
    for ids in (store.layout, store.coarse):
        assert set(np.unique(ids)) <= {0, 1, VOID}


def test_a_dry_run_refuses_what_training_would(tiny_config):
    config = tiny_config.copy_and_resolve_references()
    config.synthesis.train.batch_size = 12
    with pytest.raises(InputError, match=r"config\.synthesis\.train\.batch_size: found 12"):
        list(dry_run(config))


def test_published_weights_name_no_classes_and_need_not(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.features.weights, config.synthesis.consistency_weight = "vgg19.safetensors", 0.0
    store = draw_store(read_settings(config), dataset_labels(config.data), tmp_path)
    task = invent_tasks(config, store, store)["synthesis"]
    batch, position = next(iterate_batches(task, seed=0, batch_size=2, first_step=0))
    keys = example_keys(jax.random.key(0), np.int32(0), position)
    params = jax.eval_shape(task.init, jax.random.key(0))
    loss, metrics = jax.eval_shape(task.loss, params, batch, keys)
    assert loss.shape == (2,) and "consistency" not in metrics


def test_as_many_donors_are_invented_as_layers_may_ask_for(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.bank.donors = config.canvas.layers = config.pipeline.candidates = 3
    store = draw_store(read_settings(config), dataset_labels(config.data), tmp_path)
    task = invent_tasks(config, store, store)["synthesis"]
    donors = task.example(0, np.random.default_rng(0))["donors"]
    assert donors.found.size == 3 * config.bank.max_segments
    jax.eval_shape(task.init, jax.random.key(0))
