"""The training loop, one for all tasks; it is read from top to bottom."""

import dataclasses
import functools
import math
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sims_jax.checkpoints import Checkpoints, quiet_orbax
from sims_jax.config import check_numbers
from sims_jax.errors import InputError
from sims_jax.processes import Agreement, is_first, peak_memory
from sims_jax.progress import progress
from sims_jax.rng import stream_key
from sims_jax.training.batches import Feed, iterate_batches
from sims_jax.training.parallel import create_state, make_train_step, place_batch
from sims_jax.training.termination import Terminated, watch_for_signals
from sims_jax.training.writers import MetricsWriter

SCHEDULES = ("constant", "cosine", "growth")
PRECISIONS = ("float32", "bfloat16")
GROWTH_START = 1e-6  # SIMS, official code: 1e-6 · 1.1^(epoch − 1), up to a limit
GROWTH_RATE = 1.1


class Task(Protocol):
    """What the loop needs to know of a network's training."""

    name: str
    count: int  # examples an epoch

    def example(self, index: int, rng: np.random.Generator) -> Any: ...

    def init(self, key) -> Any: ...

    def loss(self, params, batch, keys) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def evaluate(self, params) -> dict[str, float]: ...

    def sheet(self, params) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how fast a network learns.

    Args:
      steps: in all.   batch_size: over all devices.
      learning_rate: Adam's, at its highest.
      schedule: "constant"; "cosine": linear warmup, then down to 0; "growth": the paper's.
      warmup_steps: of "cosine".
      growth_epochs, epoch_steps, final_rate: of "growth": how many epochs of how many steps it
        grows for, and the rate after that.
      ema_decay: of the averaged parameters.
      clip_norm: largest norm of a gradient; 0 for no limit.
      log_every, save_every, sheet_every: steps.
      precision: "float32" or "bfloat16", of what networks compute. Parameters, their gradients,
        averages and Adam's state, norms' statistics, heads and losses are float32 in both.
      accumulation: microbatches a step, one after the other, which the devices' share of the batch
        is divided into: memory of one, gradient of all.
      save_minutes: a save comes after as many without one; 0 for none but those of `save_every`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    growth_epochs: int
    epoch_steps: int
    final_rate: float
    ema_decay: float
    clip_norm: float
    log_every: int
    save_every: int
    sheet_every: int
    precision: str
    accumulation: int
    save_minutes: float

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule: found {self.schedule!r}, expected one of {', '.join(SCHEDULES)}"
            )
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision: found {self.precision!r}, expected one of {', '.join(PRECISIONS)}"
            )
        counts = ("steps", "batch_size", "accumulation", "log_every", "save_every", "sheet_every")
        least = dict.fromkeys(counts, 1)
        if self.schedule == "growth":
            least |= {"growth_epochs": 1, "epoch_steps": 1}
        check_numbers(self, **least)
        if self.schedule == "cosine" and not 0 <= self.warmup_steps < self.steps:
            raise InputError(
                f"warmup_steps: found {self.warmup_steps}, expected 0 to less than the "
                f"{self.steps} steps; lower it, to {self.steps // 20} say"
            )

    @property
    def dtype(self) -> np.dtype:
        """Of what the network computes while it learns."""
        return jnp.dtype(self.precision)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with the config's schedule, of clipped gradients."""
    rate = _learning_rate(config)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(rate))


def _learning_rate(config: TrainConfig) -> optax.Schedule:
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, config.warmup_steps, config.steps
        )
    growth = optax.exponential_decay(
        GROWTH_START,
        config.epoch_steps,
        GROWTH_RATE,
        staircase=True,
        end_value=config.learning_rate,
    )
    final = optax.constant_schedule(config.final_rate)
    return optax.join_schedules([growth, final], [config.growth_epochs * config.epoch_steps])


def train(
    task: Task,
    config: TrainConfig,
    folder: pathlib.Path,
    writer: MetricsWriter,
    seed: int,
    devices: Sequence[jax.Device] | None = None,
) -> Any:
    """Trains a task to its last step, from its latest checkpoint in `folder` if there is one.

    Args:
      devices: of all processes; default all there are.

    Returns:
      The averaged parameters.

    Raises:
      InputError: the loss is not finite; the last checkpoint is still from before that.
      Terminated: SIGTERM or Ctrl-C came; the step it came in is saved.
    """
    print(f"{task.name}: compiling", flush=True)
    devices = list(jax.devices() if devices is None else devices)
    local = [device for device in devices if device.process_index == jax.process_index()]
    optimizer = make_optimizer(config)
    key = stream_key(seed, task.name)
    state = create_state(task.init, optimizer, stream_key(key, "init"), devices)
    step_fn = make_train_step(
        task.loss,
        optimizer,
        config.ema_decay,
        stream_key(key, "steps"),
        devices,
        accumulation=config.accumulation,
    )
    with quiet_orbax(), watch_for_signals() as came, Checkpoints(folder) as checkpoints:
        state = checkpoints.restore(state)
        done, saved = int(state.step), time.monotonic()
        writer.rewind(task.name, done)
        batches = iterate_batches(task, seed=seed, batch_size=config.batch_size, first_step=done)
        place = functools.partial(place_batch, devices=local)
        stop, save = Agreement(f"{task.name}: stop"), Agreement(f"{task.name}: save")
        bar = progress(task.name, config.steps, done, shown=is_first())
        with Feed(batches, place) as feed, bar:
            metrics = None
            for step in range(done + 1, config.steps + 1):
                batch, before = feed.take(running=metrics), metrics
                state, metrics = step_fn(state, *batch)
                jax.block_until_ready(before)  # one step waits behind the one that runs, not more
                last = step == config.steps
                logs, saves = (last or step % n == 0 for n in (config.log_every, config.save_every))
                late = 0 < config.save_minutes <= (time.monotonic() - saved) / 60
                stops, due = stop.reached(step, came() is not None), save.reached(step, late)
                saves |= stops or due
                if logs or saves:
                    values = {name: float(x) for name, x in metrics.items()}
                    _check_finite(values, task.name, step, checkpoints.latest_step)
                if logs:
                    values["input_wait_share"] = feed.wait_share()
                    values["peak_memory_gib"] = peak_memory(local) / 2**30
                    writer.write(task.name, step, values)
                    bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
                if not bar.update() and step == done + 1:  # compiled: that is said at once
                    bar.refresh()
                if step % config.sheet_every == 0 and not last:
                    writer.write_sheet(task.name, step, task.sheet(state.ema))
                if saves:
                    checkpoints.save(step, state, state.ema)
                    saved = time.monotonic()
                if stops and not last:
                    by = came() or signal.SIGTERM  # which came to another process
                    raise Terminated(f"{task.name}: stopped by {by.name}, step {step} is saved", by)
    return state.ema


def _check_finite(values: dict[str, float], stage: str, step: int, saved: int | None) -> None:
    bad = sorted(name for name, value in values.items() if not math.isfinite(value))
    if bad:
        raise InputError(
            f"{stage}, step {step}: found {bad[0]} = {values[bad[0]]}, expected a finite number; "
            f"the last checkpoint is of step {saved}; lower the learning rate of {stage}"
        )
