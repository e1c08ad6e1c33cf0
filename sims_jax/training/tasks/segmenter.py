"""What networks that segment photos have in common: their loss, their score and their sheet."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from sims_jax.bank.photo import as_float
from sims_jax.bank.store import Store
from sims_jax.labels import LabelSpace, colorize
from sims_jax.losses import cross_entropy
from sims_jax.metrics import confusion_matrix, mean_iou, pixel_accuracy
from sims_jax.ops.sheet import contact_sheet
from sims_jax.training.tasks.heldout import map_examples, spread

SHEET_ROWS = 6


class SegmenterTask:
    """Examples are photos and their layouts; a subclass says which, and how they are disturbed."""

    store: Store
    heldout: Store
    class_weights: Float[np.ndarray, "C"] | None = None  # of the loss

    @property
    def labels(self) -> LabelSpace:
        return self.store.spec.labels

    def segment(self, params: Any, photo: Float[Array, "B H W 3"]) -> Float[Array, "B H W C"]:
        """Class logits of photos in [0, 1]."""
        raise NotImplementedError

    def disturb(self, key: Array, photo: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        """A photo as training sees it."""
        raise NotImplementedError

    def loss(self, params, batch, keys):
        """Cross-entropy with the layout, void left out."""
        photo = jax.vmap(self.disturb)(keys, as_float(batch["photo"]))
        logits = self.segment(params, photo)
        right = (most_likely(logits) == batch["layout"]).astype(jnp.float32)
        loss = cross_entropy(logits, batch["layout"], self.class_weights)
        return loss, {"accuracy": right.mean(axis=(1, 2))}

    def evaluate(self, params) -> dict[str, float]:
        """`val_accuracy` and `val_miou` on the held-out photos."""
        found = self._find(params, self.heldout.photo)
        confusion = confusion_matrix(found, self.heldout.layout, self.labels.num_classes)
        return {"val_accuracy": pixel_accuracy(confusion), "val_miou": mean_iou(confusion)}

    def sheet(self, params) -> np.ndarray:
        """Rows of: photo | its segmentation | its layout."""
        chosen = spread(len(self.heldout.ids), SHEET_ROWS)
        found = self._find(params, self.heldout.photo[chosen])
        return contact_sheet([
            [self.heldout.photo[i], colorize(f, self.labels),
             colorize(self.heldout.layout[i], self.labels)]
            for i, f in zip(chosen, found, strict=True)
        ], ["photo", "segmentation", "layout"])  # fmt: skip

    def _find(self, params, photos: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W"]:
        examples = [{"photo": photo} for photo in photos]
        return map_examples(self._find_classes, params, examples)["found"]

    @functools.cached_property
    def _find_classes(self):
        def find(params, batch, position):
            del position
            return {"found": most_likely(self.segment(params, as_float(batch["photo"])))}

        return jax.jit(find)


def most_likely(logits: Float[Array, "*B C"]) -> UInt8[Array, "*B"]:
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def mirrored(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An example [H, W, ...], or as likely its mirror image."""
    return {k: x[:, ::-1] for k, x in example.items()} if rng.random() < 0.5 else example
