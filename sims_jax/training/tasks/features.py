"""Φ, the network whose features the perceptual loss compares; trained here where it is not given.

With a file of VGG-19 weights Φ is the paper's. Without one, its trunk learns to segment the
training photos: features that tell road from sky also tell a good photo from a bad one.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sims_jax.bank.store import Store
from sims_jax.labels import LabelSpace, colorize
from sims_jax.losses import calibrate_weights, cross_entropy, perceptual_loss
from sims_jax.metrics import confusion_matrix, mean_iou, pixel_accuracy
from sims_jax.nets.layers import input_pyramid
from sims_jax.nets.vgg import FEATURES, VGG, VGGConfig, VGGSegmenter
from sims_jax.ops.sheet import contact_sheet
from sims_jax.training.tasks.heldout import average_over, map_examples, spread

MAX_GAIN = 1.3  # of the random brightness, or its inverse; hues stay, for Φ must see a tint
COLOR, CHROMA = "color", "chroma"  # the layers that Φ does not have
COLOR_HALVINGS = 3  # colours are compared at an eighth of the size
CHROMA_WEIGHT = 4.0  # where each other layer counts 1: without it, bare trees turn pink
CALIBRATION_PHOTOS = 64


@dataclasses.dataclass(frozen=True)
class Features:
    """Φ and the weights λ of its layers.

    Differs: two further layers look at the photo itself. Where a canvas is empty, features alone
    leave the colour of large areas to chance, so one is the photo at an eighth of its size; and
    they let hues drift in fine structure, so the other is red and blue against green, pixel by
    pixel.
    """

    config: VGGConfig
    params: Any
    weights: dict[str, float]

    @classmethod
    def calibrate(cls, config: VGGConfig, params, store: Store) -> "Features":
        """Weighs each layer by the inverse of its mean distance between two different photos.

        The paper's λ are such inverses, for the published VGG-19 (SIMS, Sec. 6).
        """
        some = spread(len(store.ids), CALIBRATION_PHOTOS)
        photos = store.photo[some]
        examples = [{"a": a, "b": b} for a, b in zip(photos, np.roll(photos, 1, 0), strict=True)]

        @jax.jit
        def compare(params, batch, position):
            del position
            a, b = (batch[side].astype(jnp.float32) / 255 for side in "ab")
            unweighted = cls(config, params, dict.fromkeys((*FEATURES, COLOR, CHROMA), 1.0))
            return unweighted.distance(a, b)[1]

        distances = average_over(compare, params, examples)
        if not distances[CHROMA]:  # all photos are grey
            del distances[CHROMA]
        weights = calibrate_weights(distances)
        if CHROMA in weights:
            weights[CHROMA] *= CHROMA_WEIGHT
        return cls(config, params, weights)

    def distance(
        self, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
        """Perceptual loss of each example, and its layers' distances; no gradient reaches `b`."""
        features_b = jax.lax.stop_gradient(self._look(b))
        return perceptual_loss(self._look(a), features_b, self.weights)

    def _look(self, photo):
        color = input_pyramid(photo, COLOR_HALVINGS + 1)[-1]
        chroma = photo[..., ::2] - photo[..., 1:2]
        return VGG(self.config).apply(self.params, photo) | {COLOR: color, CHROMA: chroma}


@dataclasses.dataclass(frozen=True)
class FeaturesTask:
    """Examples are photos and their layouts; mirrored, lighter or darker at random."""

    config: VGGConfig
    store: Store
    heldout: Store
    name: str = "features"

    @property
    def labels(self) -> LabelSpace:
        return self.store.spec.labels

    @property
    def count(self) -> int:
        return len(self.store.ids)

    @property
    def network(self) -> VGGSegmenter:
        return VGGSegmenter(self.config, self.labels.num_classes)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = _photo_example(self.store, index)
        return {k: x[:, ::-1] for k, x in example.items()} if rng.random() < 0.5 else example

    def init(self, key):
        return self.network.init(key, jnp.asarray(self.store.photo[:1]).astype(jnp.float32) / 255)

    def loss(self, params, batch, keys):
        """Cross-entropy with the layout, void left out."""
        limit = jnp.log(jnp.float32(MAX_GAIN))

        def light(key, photo):
            gain = jnp.exp(jax.random.uniform(key, (), minval=-limit, maxval=limit))
            return jnp.clip(photo.astype(jnp.float32) / 255 * gain, 0.0, 1.0)

        logits = self.network.apply(params, jax.vmap(light)(keys, batch["photo"]))
        found = jnp.argmax(logits, -1).astype(jnp.uint8)
        right = (found == batch["layout"]).astype(jnp.float32)
        return cross_entropy(logits, batch["layout"]), {"accuracy": right.mean(axis=(1, 2))}

    def evaluate(self, params) -> dict[str, float]:
        """`val_accuracy` and `val_miou` of the segmenter that Φ was."""
        confusion = confusion_matrix(
            self._segment(params, range(len(self.heldout.ids))),
            self.heldout.layout,
            self.labels.num_classes,
        )
        return {
            "val_accuracy": float(pixel_accuracy(confusion)),
            "val_miou": float(mean_iou(confusion)),
        }

    def sheet(self, params) -> np.ndarray:
        """Rows of: photo | its segmentation | its layout."""
        chosen = spread(len(self.heldout.ids), 6)
        return contact_sheet([
            [self.heldout.photo[i], colorize(found, self.labels),
             colorize(self.heldout.layout[i], self.labels)]
            for i, found in zip(chosen, self._segment(params, chosen), strict=True)
        ])  # fmt: skip

    def _segment(self, params, indices) -> np.ndarray:
        examples = [_photo_example(self.heldout, i) for i in indices]
        return map_examples(self._find_classes, params, examples)["found"]

    @functools.cached_property
    def _find_classes(self):
        def find(params, batch, position):
            del position
            logits = self.network.apply(params, batch["photo"].astype(jnp.float32) / 255)
            return {"found": jnp.argmax(logits, -1).astype(jnp.uint8)}

        return jax.jit(find)


def _photo_example(store: Store, index: int) -> dict[str, np.ndarray]:
    return {"photo": store.photo[index], "layout": store.layout[index]}
