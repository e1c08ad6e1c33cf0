"""The smallest task: what tests of the loop and of checkpoints train."""

import numpy as np

from sims_jax.training.loop import TrainConfig


class Toy:
    """Learn a number, and leave `size` others as they are."""

    name, count = "toy", 50

    def __init__(self, scale=1.0, size=1):
        self.scale, self.size = scale, size

    def example(self, index, rng):
        return {"x": np.float32(index * self.scale + rng.normal())}

    def init(self, key):
        del key
        return {
            "w": np.zeros((), np.float32),
            "still": np.linspace(0, 1, self.size, dtype=np.float32),
        }

    def loss(self, params, batch, keys):
        del keys
        return abs(params["w"] - batch["x"]), {}

    def evaluate(self, params):
        return {}

    def sheet(self, params):
        return np.zeros((4, 4, 3), np.uint8)


def toy_config(**changes):
    values = dict(
        steps=12, batch_size=8, learning_rate=0.1, schedule="constant", warmup_steps=0,
        growth_epochs=0, epoch_steps=0, final_rate=0.0, ema_decay=0.9, clip_norm=0.0,
        log_every=1, save_every=4, sheet_every=100, precision="float32", accumulation=1,
        save_minutes=0,
    )  # fmt: skip
    return TrainConfig(**values | changes)
