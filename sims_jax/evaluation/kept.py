"""Networks that an evaluation trains: each once, kept under a name of what it has learned from."""

import hashlib
import json
import pathlib
from collections.abc import Sequence

import jax

from sims_jax.atomic import write_json
from sims_jax.checkpoints import DONE_FILE, digest_params, restore_finished
from sims_jax.training.loop import Task, TrainConfig, train
from sims_jax.training.writers import MetricsWriter

_NAME_DIGITS = 16


def train_once(
    task: Task,
    config: TrainConfig,
    folder: pathlib.Path,
    learned_from: Sequence,
    seed: int,
    devices: Sequence[jax.Device] | None = None,
):
    """The averaged parameters of a task trained to its end.

    Args:
      folder: where such networks are kept; interrupted, the training goes on there.
      learned_from: all that the parameters depend on, as JSON has it.
      devices: default all.

    Raises:
      InputError: what was kept is damaged.
    """
    digest = hashlib.sha256(json.dumps(learned_from).encode()).hexdigest()
    folder = folder / f"{task.name}-{digest[:_NAME_DIGITS]}"
    checkpoints = folder / "checkpoints"
    if not (checkpoints / DONE_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with MetricsWriter(folder) as writer:
            params = train(task, config, checkpoints, writer, seed, devices)
            writer.write_sheet(task.name, config.steps, task.sheet(params))
        write_json(checkpoints / DONE_FILE, {"sha256": digest_params(params)})
    return restore_finished(checkpoints)
