"""The transformation network T: aligns a retrieved segment with its place in the layout."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.config import check_as_many
from sims_jax.nets.layers import Trunk, check_layout_channels

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The transformation network's sizes.

    Args:
      widths: channels of each group of 3x3 convolutions.
      convs: convolutions of each group.
      box_size: (h, w) that the segment's enlarged box is resampled to; None for the full frame.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    box_size: tuple[int, int] | None = (64, 128)

    def __post_init__(self):
        check_as_many(self, "convs", "widths")


class Transformer(nn.Module):
    """Predicts the affine that moves a retrieved segment onto its place: theta [2, 3].

    theta acts on normalised coordinates (x, y) of the box, -1 to 1 from edge to edge, and maps
    target to source: u_source = theta[:, :2] @ u_target + theta[:, 2]. Untrained, it is the
    identity.

    Source: SIMS, Sec. 4 and official code.
    Differs: theta's translation is in halves of the box, the code's in pixels from the centre.
    """

    config: TransformerConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        segment_rgb: Float[Array, "B h w 3"],
        target_mask: Float[Array, "B h w"],
        layout_onehot: Float[Array, "B h w channels"],
    ) -> Float[Array, "B 2 3"]:
        """Affine of each segment.

        Args:
          segment_rgb: the retrieved segment's colours, [0, 1], black outside of it.
          target_mask: 1 inside the layout's component that it is to fill.
          layout_onehot: the layout around, C + 1 channels.
        """
        check_layout_channels(layout_onehot, self.num_classes)
        inputs = jnp.concatenate(
            [
                segment_rgb.astype(self.dtype),
                target_mask[..., None].astype(self.dtype),
                layout_onehot.astype(self.dtype),
            ],
            axis=-1,
        )
        trunk = Trunk(self.config.widths, self.config.convs, dtype=self.dtype, name="trunk")
        features = trunk(inputs)
        theta = nn.Dense(
            6,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(IDENTITY, dtype).reshape(shape),
            name="theta",
        )(features.astype(jnp.float32))
        return theta.reshape(-1, 2, 3)
