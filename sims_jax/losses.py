"""The losses of training, and the statistics they compare: float32.

A loss is one number an example; the mean over examples is the caller's.

Every function is finite, in value and gradient, where there is nothing to measure.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from sims_jax.labels import VOID

LEAST_VARIANCE = (
    1e-4  # small beside that of any texture, so that flat features have a gradient, too
)


def perceptual_loss(
    features_a: Mapping[str, Float[Array, "B _h _w _F"]],
    features_b: Mapping[str, Float[Array, "B _h _w _F"]],
    weights: Mapping[str, float],
) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
    """Weighted distance of features: sum over layers l of weights[l] * mean |a_l - b_l|.

    Args:
      features_a: features by layer, as `nets.vgg.VGG` gives them.
      features_b: those of the other photos.
      weights: the weight of each layer that counts.

    Returns:
      (loss, distances): the sum, 0 of no layers, and each one's mean |a_l - b_l| before weighting.

    Source: SIMS, Sec. 6.
    Differs: means in place of sums, so that weights do not depend on the image's size.
    """
    distances = {
        layer: jnp.abs(
            features_a[layer].astype(jnp.float32) - features_b[layer].astype(jnp.float32)
        ).mean(axis=(1, 2, 3))
        for layer in weights
    }
    nothing = jnp.zeros(len(next(iter(features_a.values()))))
    return sum((weight * distances[layer] for layer, weight in weights.items()), nothing), distances


def local_deviations(
    features: Float[Array, "B H W F"], window: int
) -> Float[Array, "B rows columns F"]:
    """Standard deviations in tiles, side by side: how strong a texture is, not where its lines are.

    As many tiles as squares of `window` fit, one at least, so that a tile may be larger. What
    cannot be shared out, fewer rows and columns than there are tiles, is not measured.

    Source: the texture matching loss of Sajjadi et al. 2017 (EnhanceNet), Sec. 4.2.3, which also
    compares statistics of patches.
    Differs: deviations of each channel in place of Gram matrices, which compare pairs of channels.
    """
    batch, *sides, channels = features.shape
    rows, columns = (max(1, side // window) for side in sides)
    height, width = sides[0] // rows, sides[1] // columns
    whole = features[:, : rows * height, : columns * width].astype(jnp.float32)
    tiles = whole.reshape(batch, rows, height, columns, width, channels)
    return jnp.sqrt(tiles.var(axis=(2, 4)) + LEAST_VARIANCE)


def calibrate_weights(distances: Mapping[str, float]) -> dict[str, float]:
    """Weights under which every layer counts the same: the inverse of each initial distance.

    Args:
      distances: mean distance of each layer before training.

    Raises:
      ValueError: a distance is not above 0; that layer's features do not depend on the photo.

    Source: SIMS, official code, calibrates its lambdas so.
    """
    for layer, distance in distances.items():
        if not 0 < float(distance) < float("inf"):
            raise ValueError(f"{layer}: expected a finite distance above 0, found {distance}")
    return {layer: 1.0 / float(distance) for layer, distance in distances.items()}


def cross_entropy(
    logits: Float[Array, "B H W channels"],
    labels: UInt8[Array, "B H W"],
    class_weights: Float[np.ndarray, "channels"] | None = None,
) -> Float[Array, "B"]:
    """Mean cross-entropy over the labelled pixels of each example; 0 where there is none.

    Args:
      logits: unnormalised log probabilities; a channel that no label names only competes.
      labels: class ids; void (255) is ignored.
      class_weights: what a pixel of each class counts; default 1.
    """
    labelled = labels != VOID
    target = jnp.where(labelled, labels, jnp.uint8(0)).astype(jnp.int32)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), target
    )
    if class_weights is not None:
        losses *= jnp.asarray(class_weights)[target]
    count = jnp.maximum(labelled.sum(axis=(1, 2)), 1).astype(jnp.float32)
    return jnp.where(labelled, losses, 0.0).sum(axis=(1, 2)) / count


def masked_l1(
    a: Float[Array, "B H W F"], b: Float[Array, "B H W F"], mask: Float[Array, "B H W"]
) -> Float[Array, "B"]:
    """Mean of |a - b| over channels and over the mask's area; 0 for an empty mask.

    Source: SIMS, official code: the transformer's loss is divided by the mask's area.
    """
    weight = mask.astype(jnp.float32)
    difference = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean(axis=-1)
    area = weight.sum(axis=(1, 2))
    return (difference * weight).sum(axis=(1, 2)) / jnp.where(area > 0, area, 1.0)
