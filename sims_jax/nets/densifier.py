"""The densifier: makes a dense layout of a coarse, incomplete one."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.nets.layers import ConvBlock, check_layout_channels, input_pyramid, upsample

CONVS_A_SCALE = 2  # Chen & Koltun 2017, Sec. 3


@dataclasses.dataclass(frozen=True)
class DensifierConfig:
    """The densifier's sizes.

    Args:
      widths: channels at each scale, from the coarsest; every scale doubles the size. The coarsest
        must see far enough to fill the largest gaps: 4 to 5 scales at 120x160.
    """

    widths: tuple[int, ...] = (256, 256, 256, 128, 128, 64)


class Densifier(nn.Module):
    """Cascaded refinement network from a coarse layout to logits of the dense one.

    At each scale, from the coarsest: features = block(concat(resized input, upsampled features)).

    Source: SIMS, Sec. 6 (sparse layouts); the network is Chen & Koltun 2017, Sec. 3.
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
        widths = self.config.widths
        pyramid = input_pyramid(layout_onehot.astype(self.dtype), len(widths))
        features = None
        for index, (width, x) in enumerate(zip(widths, reversed(pyramid), strict=True)):
            if features is not None:
                x = jnp.concatenate([x, upsample(features, x.shape[1:3])], axis=-1)
            features = ConvBlock(width, CONVS_A_SCALE, self.dtype, name=f"scale_{index}")(x)
        return nn.Dense(self.num_classes, name="logits")(features.astype(jnp.float32))
