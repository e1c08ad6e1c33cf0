"""The synthesis network f: makes the photo of the canvas and the layout."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sims_jax.config import check_as_many
from sims_jax.errors import InputError
from sims_jax.nets.layers import ConvBlock, check_layout_channels
from sims_jax.nets.scales import (
    average_pool,
    average_pool_products,
    input_pyramid,
    upsample,
    upsample_own,
)

CONVS_A_SCALE = 2  # of the decoder: SIMS, Sec. 6
FILL_SCALES = 7  # halvings: pixels up to about 2^7 apart fill each other's holes
FULL_COVER = 0.25  # of a window: from here on its own pixels alone give its colour
LEAST_COVER = 1e-7  # of a window: less than one pixel in the corner of one of 2^14


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """The synthesis network's sizes; the defaults are the paper's at 256x512.

    Args:
      encoder_widths: channels of each encoder group, from full size; a pool follows each group.
      encoder_convs: 3x3 convolutions of each group.
      decoder_widths: channels of each decoder scale, from the coarsest: one more than groups, and
        one for each time that the input is halved before the encoder reads it (the paper's 512x1024
        network: once).
      remat: in training, what lies inside a decoder scale is computed again for its gradient, and
        not kept. Slower, with less memory; the results are the same.
    """

    encoder_widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3, 3)
    decoder_widths: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 256)
    remat: bool = False

    def __post_init__(self):
        check_as_many(self, "encoder_convs", "encoder_widths")
        if self.halvings < 0:
            raise InputError(
                f"decoder_widths: found {len(self.decoder_widths)} scales, expected at least "
                f"{len(self.encoder_widths) + 1}, one more than encoder_widths"
            )

    @property
    def halvings(self) -> int:
        """From full size to what the encoder reads."""
        return len(self.decoder_widths) - len(self.encoder_widths) - 1


def fill_canvas(
    canvas_rgb: Float[Array, "B H W 3"],
    canvas_mask: Float[Array, "B H W"],
    layout_onehot: Float[Array, "B H W channels"],
) -> Float[Array, "B H W 3"]:
    """The canvas with colour in its holes: what lies nearby in the same class, or else in any.

    Pull-push: pixels are averaged to coarser and coarser scales, one field of colour a class, and
    from the coarsest on each scale overrules what it inherits as far as it has pixels of its own.
    Of an empty canvas it makes black. Differentiable in `canvas_rgb`.

    Args:
      canvas_rgb, canvas_mask: as `Synthesis` takes them.
      layout_onehot: of one class a pixel.

    Source: Gortler et al., "The Lumigraph", 1996, Sec. 3.4.
    """
    mask = canvas_mask[..., None]
    weight = jnp.concatenate([layout_onehot * mask, mask], axis=-1)  # the last: of any class
    color = jnp.concatenate([canvas_rgb, jnp.ones_like(mask)], axis=-1)
    # Colours times weight, and weight: sums of these are means of what was seen, and how much.
    # Pixels themselves take part in none of the scales, so that the finest is half their size.
    pyramid = input_pyramid(average_pool_products(color, weight), FILL_SCALES)
    pyramid = [x.reshape(*x.shape[:-1], color.shape[-1], -1) for x in pyramid]
    seen = [pulled[..., 3:, :] for pulled in pyramid]
    filled = pyramid[-1] / jnp.maximum(seen[-1], LEAST_COVER)
    for pulled, cover in zip(pyramid[-2::-1], seen[-2::-1], strict=True):
        own = jnp.minimum(cover / FULL_COVER, 1.0)
        inherited = upsample(filled, pulled.shape[1:3])
        filled = own * pulled / jnp.maximum(cover, LEAST_COVER) + (1.0 - own) * inherited
    pushed = upsample_own(filled[..., :-1], jnp.argmax(layout_onehot, axis=-1))
    pushed += (1.0 - pushed[..., 3:]) * upsample(filled[..., -1], canvas_mask.shape[1:])
    pushed = pushed[..., :3] / jnp.maximum(pushed[..., 3:], LEAST_COVER)
    return mask * canvas_rgb + (1.0 - mask) * pushed


@struct.dataclass
class SynthesisOutput:
    """What f makes of a canvas; the segmentation is an auxiliary target of training."""

    photo: Float[Array, "B H W 3"]  # unclipped: trained to lie in [0, 1]
    segmentation_logits: Float[Array, "B H W channels"]  # the last channel is void


class Synthesis(nn.Module):
    """Encoder of the canvas and layout, and a cascaded refinement decoder.

    The encoder's features of a scale are those after the pool that leads to it, so the size that it
    reads has none, nor have larger ones. From the coarsest scale on:
    features = block(concat(resized input, encoder features, upsampled features)).

    Source: SIMS, Sec. 6 and official code; this wiring has their 55.67 M parameters.
    Differs: the network reads the canvas with colour in its holes and says what to add to it, so
    that real pixels are kept, and no area is left to find its colour by itself. The photo is not
    squashed, so that no gradient vanishes: callers clip it outside of training.
    """

    config: SynthesisConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        layout_onehot: Float[Array, "B H W channels"],
        canvas_rgb: Float[Array, "B H W 3"],
        canvas_mask: Float[Array, "B H W"],
    ) -> SynthesisOutput:
        """The photo and its segmentation.

        Args:
          layout_onehot: C + 1 channels, the last one void.
          canvas_rgb: [0, 1]; elided pixels white, empty ones black.
          canvas_mask: 1 where a segment gave the pixel.
        """
        check_layout_channels(layout_onehot, self.num_classes)
        canvas_rgb, canvas_mask = (x.astype(jnp.float32) for x in (canvas_rgb, canvas_mask))
        filled = fill_canvas(canvas_rgb, canvas_mask, layout_onehot)
        inputs = jnp.concatenate([layout_onehot, filled, canvas_mask[..., None]], axis=-1)
        inputs = inputs.astype(self.dtype)
        pyramid = input_pyramid(inputs, len(self.config.decoder_widths))
        encoded = self._encode(pyramid[self.config.halvings])
        features = self._decode(pyramid, encoded).astype(jnp.float32)
        return SynthesisOutput(
            photo=filled + nn.Dense(3, name="photo")(features),
            segmentation_logits=nn.Dense(self.num_classes + 1, name="segmentation")(features),
        )

    def _encode(self, x: Float[Array, "B H W F"]) -> list[Array]:
        """The pooled features of each group, from fine to coarse."""
        pooled = []
        groups = zip(self.config.encoder_widths, self.config.encoder_convs, strict=True)
        for index, (width, convs) in enumerate(groups):
            x = average_pool(ConvBlock(width, convs, self.dtype, name=f"encoder_{index}")(x))
            pooled.append(x)
        return pooled

    def _decode(self, pyramid: list[Array], encoded: list[Array]) -> Array:
        """Features at full size."""
        block_of = nn.remat(ConvBlock) if self.config.remat else ConvBlock
        features = None
        for index, width in enumerate(self.config.decoder_widths):
            scale = len(pyramid) - 1 - index  # halvings from full size
            parts = [pyramid[scale]]
            if scale > self.config.halvings:
                parts.append(encoded[scale - self.config.halvings - 1])
            if features is not None:
                parts.append(upsample(features, pyramid[scale].shape[1:3]))
            block = block_of(width, CONVS_A_SCALE, self.dtype, name=f"decoder_{index}")
            features = block(jnp.concatenate(parts, axis=-1))
        return features
