"""What the ordering network learns from: pairs that only instances cut apart among them."""

import dataclasses

import numpy as np
import pytest

from sims_jax.bank.pairs import find_pairs
from sims_jax.networks import make_networks
from sims_jax.training.loop import TrainConfig, train
from sims_jax.training.tasks.ordering import OrderingTask
from sims_jax.training.writers import MetricsWriter

STEPS = 80


@pytest.fixture(scope="module")
def upside_down(tiny_stores):
    """Scenes in which what is far lies in front: the prior is wrong where it was right."""
    store = tiny_stores[0]
    return dataclasses.replace(store, depth=1 / store.depth)


def test_instances_give_pairs_of_one_class(upside_down, tiny_stores):
    pairs, turned = find_pairs(tiny_stores[0]), find_pairs(upside_down)
    alike = pairs.of_one_class()
    assert alike.sum() > 5
    assert (pairs.a_in_front != turned.a_in_front)[alike].all()
    for photo, a, b in zip(pairs.photo[alike], pairs.a[alike], pairs.b[alike], strict=True):
        component, instances = tiny_stores[0].component[photo], tiny_stores[0].instances[photo]
        assert not np.isin(instances[component == a], instances[component == b]).any()


def test_the_order_of_one_class_is_learnt_from_depth(
    upside_down, tiny_config, tiny_stores, tmp_path
):
    """A short run turns the prior around, on the pairs it learns from."""
    networks = make_networks(tiny_config, upside_down.spec.labels)
    task = OrderingTask.create(networks.ordering, upside_down, upside_down)
    few = dict(
        steps=STEPS, batch_size=32, learning_rate=3e-3, warmup_steps=10, ema_decay=0.9,
        log_every=STEPS, save_every=STEPS, sheet_every=STEPS,
    )  # fmt: skip
    config = TrainConfig(**tiny_config.ordering.train.to_dict() | few)
    with MetricsWriter(tmp_path) as writer:
        scores = task.evaluate(train(task, config, tmp_path / "ordering", writer, 0))
    assert scores["same_class_pairs"] == find_pairs(upside_down).of_one_class().sum()
    assert scores["same_class_prior"] < 0.25
    assert scores["same_class_accuracy"] > 0.6
