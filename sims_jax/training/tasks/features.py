"""Φ, the network whose features the perceptual loss compares; trained here where it is not given.

With a file of VGG-19 weights Φ is the paper's. Without one, its trunk learns to segment the
training photos: features that tell road from sky also tell a good photo from a bad one.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.bank.photo import as_float
from sims_jax.bank.store import Store
from sims_jax.errors import InputError
from sims_jax.losses import calibrate_weights, local_deviations, perceptual_loss
from sims_jax.nets.scales import input_pyramid
from sims_jax.nets.vgg import FEATURES, VGG, VGGConfig, VGGSegmenter
from sims_jax.training.tasks.heldout import average_over, spread
from sims_jax.training.tasks.segmenter import SegmenterTask, mirrored

MAX_GAIN = 1.3  # of the random brightness, or its inverse; hues stay, for Φ must see a tint
COLOR, CHROMA = "color", "chroma"  # the layers that Φ does not have
COLOR_HALVINGS = 3  # colours are compared at an eighth of the size
CHROMA_WEIGHT = 4.0  # where each other layer counts 1: without it, bare trees turn pink
# Where textures are compared (Sajjadi et al. 2017: three layers of these blocks, 16 pixels).
TEXTURES = {f"{layer}_texture": layer for layer in ("input", "conv1_2", "conv2_2", "conv3_2")}
TEXTURE_WINDOW = 8  # pixels of the layer
COMPARED = (*FEATURES, COLOR, CHROMA, *TEXTURES)
CALIBRATION_PHOTOS = 64


class Comparison(NamedTuple):
    """What Φ finds in photos `a` beside photos `b`."""

    distance: Float[Array, "B"]  # the perceptual loss
    by_layer: dict[str, Float[Array, "B"]]  # its layers' distances, unweighted
    texture: Float[Array, "B"]  # how far textures differ in strength, wherever their lines are
    by_texture: dict[str, Float[Array, "B"]]  # of the layers they are seen in, unweighted
    logits: Float[Array, "B H W classes"] | None  # of the classes that Φ sees in `a`, if it can


@dataclasses.dataclass(frozen=True)
class Features:
    """Φ and the weights λ of its layers.

    Args:
      params: of `VGGSegmenter` with `num_classes`; or of `VGG`, which cannot name classes, where
        that is 0.
      weights: λ by layer, and by texture.

    Differs: two further layers look at the photo itself. Where a canvas is empty, features alone
    leave the colour of large areas to chance, so one is the photo at an eighth of its size; and
    they let hues drift in fine structure, so the other is red and blue against green, pixel by
    pixel. Textures are compared beside them: where f cannot know where a texture's lines are,
    leaving them out costs it least by all layers.
    """

    config: VGGConfig
    num_classes: int
    params: Any
    weights: dict[str, float]

    @classmethod
    def calibrate(cls, config: VGGConfig, num_classes: int, params, store: Store) -> "Features":
        """Weighs each layer by the inverse of its mean distance between two different photos.

        The paper's λ are such inverses, for the published VGG-19 (SIMS, Sec. 6).
        """
        some = spread(len(store.ids), CALIBRATION_PHOTOS)
        photos = store.photo[some]
        if (photos == photos[:1]).all():
            raise InputError(
                f"{store.folder}: found training photos that are all the same, expected two that "
                "differ; add some"
            )
        examples = [{"a": a, "b": b} for a, b in zip(photos, np.roll(photos, 1, 0), strict=True)]

        @jax.jit
        def compare(params, batch, position):
            del position
            a, b = (as_float(batch[side]) for side in "ab")
            weights = dict.fromkeys(COMPARED, 1.0)
            found = cls(config, num_classes, params, weights).compare(a, b)
            return found.by_layer | found.by_texture

        distances = average_over(compare, params, examples)
        for name in (CHROMA, *TEXTURES):
            if not distances[name]:  # all photos are grey, or flat
                del distances[name]
        weights = calibrate_weights(distances)
        if CHROMA in weights:
            weights[CHROMA] *= CHROMA_WEIGHT
        return cls(config, num_classes, params, weights)

    def compare(
        self,
        a: Float[Array, "B H W 3"],
        b: Float[Array, "B H W 3"],
        dtype: DTypeLike = jnp.float32,
    ) -> Comparison:
        """Photos in [0, 1] beside others; no gradient reaches `b`.

        Args:
          dtype: of what Φ computes; distances are float32.
        """
        features_b, _ = jax.lax.stop_gradient(self._look(b, dtype))
        features_a, logits = self._look(a, dtype)
        layers = {name: weight for name, weight in self.weights.items() if name not in TEXTURES}
        textures = {name: weight for name, weight in self.weights.items() if name in TEXTURES}
        return Comparison(
            *perceptual_loss(features_a, features_b, layers),
            *perceptual_loss(features_a, features_b, textures),
            logits,
        )

    def _look(self, photo, dtype):
        if self.num_classes:
            network = VGGSegmenter(self.config, self.num_classes, dtype)
            logits, features = network.apply(self.params, photo)
        else:
            logits, features = None, VGG(self.config, dtype).apply(self.params, photo)
        color = input_pyramid(photo, COLOR_HALVINGS + 1)[-1]
        chroma = photo[..., ::2] - photo[..., 1:2]
        textures = {
            name: local_deviations(features[layer], TEXTURE_WINDOW)
            for name, layer in TEXTURES.items()
        }
        return features | {COLOR: color, CHROMA: chroma} | textures, logits


@dataclasses.dataclass(frozen=True)
class FeaturesTask(SegmenterTask):
    """Examples are photos and their layouts; mirrored, lighter or darker at random."""

    config: VGGConfig
    store: Store
    heldout: Store
    dtype: DTypeLike = jnp.float32  # of what the network computes
    name: str = "features"

    @property
    def count(self) -> int:
        return len(self.store.ids)

    @property
    def network(self) -> VGGSegmenter:
        return VGGSegmenter(self.config, self.labels.num_classes, self.dtype)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        photo, layout = self.store.photo[index], self.store.layout[index]
        return mirrored({"photo": photo, "layout": layout}, rng)

    def init(self, key):
        return self.network.init(key, as_float(self.store.photo[:1]))

    def segment(self, params, photo):
        return self.network.apply(params, photo)[0]

    def disturb(self, key, photo):
        limit = jnp.log(jnp.float32(MAX_GAIN))
        gain = jnp.exp(jax.random.uniform(key, (), minval=-limit, maxval=limit))
        return jnp.clip(photo * gain, 0.0, 1.0)
