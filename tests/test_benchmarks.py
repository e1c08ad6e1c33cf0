"""The benchmarks compare what they say: the same network in PyTorch, and the published peer."""

import jax
import numpy as np
import pytest

from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks

pytest.importorskip("torch", reason="the extra `bench` is not installed")

from benchmarks import spade, timing, train_step

OUTPUT_ERROR = 1e-3  # of photos and logits
GRADIENT_ERROR = 1e-2  # of a parameter's, by norm; |a - b| has no gradient where a is b


def test_our_step_and_the_twins_agree(tiny_config, tiny_stores):
    task = invent_tasks(tiny_config, *tiny_stores)["synthesis"]
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0)))
    batch, position = next(iterate_batches(task, seed=0, batch_size=2, first_step=0))
    keys = example_keys(jax.random.key(1), np.int32(0), position)
    canvas, photo = jax.device_get(
        jax.jit(lambda batch, keys: task.simulate(batch, keys, task.simulation))(batch, keys)
    )
    loss = train_step.make_twin(task, params)
    inputs = train_step.torch_inputs(canvas, photo, batch["layout"])
    found = train_step.compare(task, params, batch, keys, canvas, loss, inputs)
    assert found["max_abs_diff"] < OUTPUT_ERROR
    assert found["max_rel_grad_diff"] < GRADIENT_ERROR
    ours = float(jax.jit(lambda p, b: task.loss(p, b, keys)[0].mean())(params, batch))
    assert loss(*inputs).item() == pytest.approx(ours, rel=1e-4)


def test_a_call_beyond_its_budget_has_fewer_rounds(monkeypatch):
    made = []

    def take(seconds):
        made.append(seconds)
        return seconds

    monkeypatch.setattr(timing, "time_once", lambda call, warm: call())
    calls = {seconds: lambda s=seconds: take(s) for seconds in (1.0, 15.0, 40.0)}
    found = timing.repeat_in_turn(calls, rounds=5, budget_s=60.0)
    assert {seconds: len(ms) for seconds, ms in found.items()} == {1.0: 5, 15.0: 3, 40.0: 1}
    assert found[15.0] == [15e3] * 3 and made[:6] == [1.0, 15.0, 40.0] * 2


def test_calls_before_a_timed_one_are_its_own(monkeypatch):
    made = []
    calls = {name: lambda n=name: made.append(n) for name in "ab"}
    timing.time_in_turn(calls, rounds=1, warm=2)
    assert "".join(made) == "aaabbb" * 2


def test_spade_is_the_published_generator():
    parameters = sum(parameter.numel() for parameter in spade.Generator().parameters())
    assert parameters == pytest.approx(92.6e6, rel=1e-3)
    assert spade.count_macs(256, 512) == pytest.approx(281e9, rel=0.01)
