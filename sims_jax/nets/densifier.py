"""The densifier: makes a dense layout of a coarse, incomplete one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.nets.layers import ConvBlock, check_layout_channels
from sims_jax.nets.scales import input_pyramid, upsample
from sims_jax.ops.nearest import fill_nearest

CONVS_A_SCALE = 2  # Chen & Koltun 2017, Sec. 3
FIRST_TRUST = 4.0  # logit of the nearest label before training: about 0.8 among ten classes


@dataclasses.dataclass(frozen=True)
class DensifierConfig:
    """The densifier's sizes.

    Args:
      widths: channels at each scale, from the coarsest; every scale doubles the size. Gaps are
        filled before, and what is corrected is local: 4 to 5 scales do at 120x160.
    """

    widths: tuple[int, ...] = (256, 256, 256, 128, 128, 64)


class Densifier(nn.Module):
    """Cascaded refinement network from a coarse layout to logits of the dense one.

    At each scale, from the coarsest: features = block(concat(resized input, upsampled features));
    logits = trust * onehot(nearest label) + dense(features), which begin with the first term alone.

    Source: SIMS, Sec. 6 (sparse layouts); the network is Chen & Koltun 2017, Sec. 3.
    Differs: theirs sees the coarse layout alone. Ours sees it filled with its nearest labels and
    their distances, too, and learns what to add to that: most of a gap is right already, and what
    is not (a pole between two trees shows as a gap between equal labels) is left to the network.
    """

    config: DensifierConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, layout_onehot: Float[Array, "B H W channels"]
    ) -> Float[Array, "B H W classes"]:
        """Logits of the C classes (never void), from a coarse layout of C + 1 channels."""
        check_layout_channels(layout_onehot, self.num_classes)
        coarse = jnp.argmax(layout_onehot, axis=-1)
        nearest, distance_px = fill_nearest(coarse, coarse < self.num_classes)
        nearest_onehot = jax.nn.one_hot(nearest, self.num_classes, dtype=jnp.float32)
        inputs = jnp.concatenate(
            [layout_onehot, nearest_onehot, jnp.log1p(distance_px)[..., None]], axis=-1
        )
        widths = self.config.widths
        pyramid = input_pyramid(inputs.astype(self.dtype), len(widths))
        features = None
        for index, (width, x) in enumerate(zip(widths, reversed(pyramid), strict=True)):
            if features is not None:
                x = jnp.concatenate([x, upsample(features, x.shape[1:3])], axis=-1)
            features = ConvBlock(width, CONVS_A_SCALE, self.dtype, name=f"scale_{index}")(x)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="logits")
        trust = self.param("trust", nn.initializers.constant(FIRST_TRUST), ())
        return trust * nearest_onehot + logits(features.astype(jnp.float32))
