"""The ordering network: which of two adjacent segments lies in front."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.config import check_as_many
from sims_jax.nets.layers import LEAK, Trunk, check_layout_channels


@dataclasses.dataclass(frozen=True)
class OrderingConfig:
    """The ordering network's sizes.

    Args:
      widths: channels of each group of 3x3 convolutions.
      convs: convolutions of each group.
      final_pool: the head sees the mean over space (the paper's), or else all positions.
      hidden: channels of the 1x1 convolution after the trunk.
      dropout: rate of dropout after it.
      box_size: (h, w) that the pair's enlarged box is resampled to; None for the full frame.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    final_pool: bool = True
    hidden: int = 1024
    dropout: float = 0.5
    box_size: tuple[int, int] | None = (64, 128)

    def __post_init__(self):
        check_as_many(self, "convs", "widths")


@struct.dataclass
class OrderingOutput:
    """The ordering network's two answers, as logits."""

    class_logits: Float[Array, "*B channels"]  # the class in front; the last channel is void
    first_logit: Float[Array, "*B"]  # above 0: A lies in front of B


class Ordering(nn.Module):
    """Predicts which of the segments A and B lies in front.

    Source: SIMS, Sec. 5 and official code.
    Differs: the code's input is 6 channels, the colour-coded layouts of the pair and of the frame;
    ours is the one-hot layout and a mask each for A and B, with which two segments of one class
    can be told apart. `first_logit`, the answer for those, is ours.
    """

    config: OrderingConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        layout_onehot: Float[Array, "B h w channels"],
        mask_a: Float[Array, "B h w"],
        mask_b: Float[Array, "B h w"],
        *,
        train: bool = False,
    ) -> OrderingOutput:
        """Both answers for each pair.

        Args:
          layout_onehot: the layout around the pair, C + 1 channels.
          mask_a: 1 inside segment A.
          mask_b: 1 inside segment B.
          train: drop features out, which needs the rng stream "dropout".
        """
        check_layout_channels(layout_onehot, self.num_classes)
        inputs = jnp.concatenate(
            [
                layout_onehot.astype(self.dtype),
                mask_a[..., None].astype(self.dtype),
                mask_b[..., None].astype(self.dtype),
            ],
            axis=-1,
        )
        config = self.config
        trunk = Trunk(config.widths, config.convs, config.final_pool, self.dtype, name="trunk")
        features = trunk(inputs)
        hidden = nn.Dense(self.config.hidden, dtype=self.dtype, name="hidden")(features)
        hidden = nn.leaky_relu(hidden, LEAK).astype(jnp.float32)
        hidden = nn.Dropout(self.config.dropout, deterministic=not train)(hidden)
        return OrderingOutput(
            class_logits=nn.Dense(self.num_classes + 1, name="front_class")(hidden),
            first_logit=nn.Dense(1, name="front_first")(hidden)[:, 0],
        )
