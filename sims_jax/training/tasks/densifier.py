"""The densifier's task: the dense layout of a coarse one. Source: SIMS, Sec. 6."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from sims_jax.bank.store import Store
from sims_jax.labels import VOID, LabelSpace, colorize
from sims_jax.losses import cross_entropy
from sims_jax.metrics import confusion_matrix, mean_iou
from sims_jax.nets.densifier import Densifier, DensifierConfig
from sims_jax.nets.layers import one_hot_layout
from sims_jax.ops.nearest import fill_nearest
from sims_jax.ops.sheet import contact_sheet
from sims_jax.training.tasks.heldout import map_examples, spread


@dataclasses.dataclass(frozen=True)
class DensifierTask:
    """Examples are photos' layouts, coarse and fine, mirrored at random."""

    config: DensifierConfig
    store: Store
    heldout: Store
    dtype: DTypeLike = jnp.float32  # of what the network computes
    name: str = "densifier"

    @property
    def labels(self) -> LabelSpace:
        return self.store.spec.labels

    @property
    def count(self) -> int:
        return len(self.store.ids)

    @property
    def network(self) -> Densifier:
        return Densifier(self.config, self.labels.num_classes, self.dtype)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = _layouts(self.store, index)
        return {k: x[:, ::-1] for k, x in example.items()} if rng.random() < 0.5 else example

    def init(self, key):
        coarse = jnp.asarray(self.store.coarse[:1])
        return self.network.init(key, one_hot_layout(coarse, self.labels.num_classes))

    def loss(self, params, batch, keys):
        """Cross-entropy with the fine layout, void left out."""
        del keys
        logits = self._logits(params, batch)
        found = jnp.argmax(logits, -1).astype(jnp.uint8)
        right = (found == batch["layout"]).astype(jnp.float32)
        return cross_entropy(logits, batch["layout"]), {"accuracy": right.mean(axis=(1, 2))}

    def evaluate(self, params) -> dict[str, float]:
        """`val_miou`, and `nearest_miou`: every unlabelled pixel takes its nearest label."""
        examples = [_layouts(self.heldout, i) for i in range(len(self.heldout.ids))]
        found, fine = map_examples(self._densify, params, examples), self.heldout.layout
        named = {"val_miou": "dense", "nearest_miou": "nearest"}
        return {name: self._miou(found[layout], fine) for name, layout in named.items()}

    def sheet(self, params) -> np.ndarray:
        """Rows of: coarse | dense | fine."""
        examples = [_layouts(self.heldout, i) for i in spread(len(self.heldout.ids), 6)]
        dense = map_examples(self._densify, params, examples)["dense"]
        rows = [
            [colorize(layout, self.labels) for layout in (example["coarse"], d, example["layout"])]
            for example, d in zip(examples, dense, strict=True)
        ]
        return contact_sheet(rows, ["coarse", "dense", "fine"])

    @functools.cached_property
    def _densify(self):
        def densify(params, batch, position):
            del position
            nearest, _ = fill_nearest(batch["coarse"], batch["coarse"] != VOID)
            dense = jnp.argmax(self._logits(params, batch), -1).astype(jnp.uint8)
            return {"dense": dense, "nearest": nearest}

        return jax.jit(densify)

    def _logits(self, params, batch):
        onehot = one_hot_layout(batch["coarse"], self.labels.num_classes)
        return self.network.apply(params, onehot)

    def _miou(self, predicted, truth) -> float:
        return float(mean_iou(confusion_matrix(predicted, truth, self.labels.num_classes)))


def _layouts(store: Store, index: int) -> dict[str, np.ndarray]:
    return {"coarse": store.coarse[index], "layout": store.layout[index]}
