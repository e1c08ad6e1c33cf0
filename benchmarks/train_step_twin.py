"""The synthesis step in PyTorch: the same networks, loss and update, from the same weights.

Written as one would write it in PyTorch: NCHW in channels_last, fused Adam, and the library's own
pooling, norms and resizing, but where a pixel is resized in one class alone. Modules have the names
of ours, so that `copy_weights` goes by name. The canvas is given; making it is left to us.
"""

from collections.abc import Callable, Mapping

import flax
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sims_jax.labels import VOID
from sims_jax.losses import LEAST_VARIANCE
from sims_jax.nets.layers import LEAK, NORM_EPSILON
from sims_jax.nets.synthesis import (
    CONVS_A_SCALE,
    FILL_SCALES,
    FULL_COVER,
    LEAST_COVER,
    SynthesisConfig,
)
from sims_jax.nets.vgg import CONVS, FEATURES, SEGMENTER_FEATURES, VGGConfig
from sims_jax.training.tasks.features import (
    CHROMA,
    COLOR,
    COLOR_HALVINGS,
    TEXTURE_WINDOW,
    TEXTURES,
)
from sims_jax.training.tasks.synthesis import LossConfig


def average_pool(x: Tensor) -> Tensor:
    """3x3 with stride 2 and TensorFlow's SAME: an even side is padded at its end alone."""
    padding = tuple(size % 2 for size in x.shape[2:])
    return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def input_pyramid(x: Tensor, scales: int) -> list[Tensor]:
    pyramid = [x]
    for _ in range(scales - 1):
        pyramid.append(average_pool(pyramid[-1]))
    return pyramid


def fill_canvas(rgb: Tensor, mask: Tensor, onehot: Tensor) -> Tensor:
    """As `nets.synthesis.fill_canvas`; rgb [B, 3, H, W], mask [B, 1, H, W]."""
    weight = torch.cat([onehot * mask, mask], 1)
    color = torch.cat([rgb, torch.ones_like(mask)], 1)
    fields = (weight[:, :, None] * color[:, None]).flatten(1, 2)
    fields = fields.contiguous(memory_format=torch.channels_last)
    pyramid = input_pyramid(fields, FILL_SCALES + 1)
    seen = [pulled[:, 3::4].repeat_interleave(4, 1) for pulled in pyramid]
    filled = pyramid[-1] / seen[-1].clamp(min=LEAST_COVER)
    for pulled, cover in zip(pyramid[-2:0:-1], seen[-2:0:-1], strict=True):
        own = (cover / FULL_COVER).clamp(max=1.0)
        inherited = upsample(filled, pulled.shape[2:])
        filled = own * pulled / cover.clamp(min=LEAST_COVER) + (1.0 - own) * inherited
    pushed = upsample_own(filled.unflatten(1, (-1, 4)), onehot.argmax(1))
    pushed = pushed + (1.0 - pushed[:, 3:]) * upsample(filled[:, -4:], rgb.shape[2:])
    pushed = pushed[:, :3] / pushed[:, 3:].clamp(min=LEAST_COVER)
    return mask * rgb + (1.0 - mask) * pushed


def upsample_own(x: Tensor, channel: Tensor) -> Tensor:
    """As `nets.scales.upsample_own`; x [B, C, K, h, w], channel [B, H, W]."""
    x = x.permute(0, 3, 4, 1, 2)
    (batch, *of, channels, _), (_, *size) = x.shape, channel.shape
    entries = x.flatten(0, 3)
    image = torch.arange(batch)[:, None, None]
    (above, below, down), (left, right, across) = (
        neighbors(*lengths) for lengths in zip(of, size, strict=True)
    )

    def read(row: Tensor, column: Tensor) -> Tensor:
        pixel = (image * of[0] + row[:, None]) * of[1] + column
        return entries[pixel * channels + channel]

    def blend(row: Tensor) -> Tensor:
        return torch.lerp(read(row, left), read(row, right), across[:, None])

    return torch.lerp(blend(above), blend(below), down[:, None, None]).permute(0, 3, 1, 2)


def neighbors(size: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of an axis brought to `length`: the two entries each lies between, and how far on."""
    at = ((torch.arange(length) + 0.5) * size / length - 0.5).clamp(0, size - 1)
    before = at.floor().long()
    return before, (before + 1).clamp(max=size - 1), at - before


class ConvBlock(nn.Module):
    def __init__(self, channels: int, width: int, convs: int):
        super().__init__()
        self.convs = convs
        for index in range(convs):
            conv = nn.Conv2d(width if index else channels, width, 3, padding=1, bias=False)
            self.add_module(f"conv_{index}", conv)
            self.add_module(f"norm_{index}", nn.GroupNorm(1, width, NORM_EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        for index in range(self.convs):
            x = self.get_submodule(f"conv_{index}")(x)
            x = F.leaky_relu(self.get_submodule(f"norm_{index}")(x), LEAK)
        return x


class Synthesis(nn.Module):
    """f: (layout ids [B, H, W], canvas [B, 3, H, W], mask [B, 1, H, W]) -> (photo, logits)."""

    def __init__(self, config: SynthesisConfig, num_classes: int):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        inputs = channels = num_classes + 1 + 3 + 1
        groups = zip(config.encoder_widths, config.encoder_convs, strict=True)
        for index, (width, convs) in enumerate(groups):
            self.add_module(f"encoder_{index}", ConvBlock(channels, width, convs))
            channels = width
        skips, below = (*config.encoder_widths[::-1], 0), 0
        for index, (width, skip) in enumerate(zip(config.decoder_widths, skips, strict=True)):
            block = ConvBlock(inputs + skip + below, width, CONVS_A_SCALE)
            self.add_module(f"decoder_{index}", block)
            below = width
        self.photo = nn.Conv2d(below, 3, 1)
        self.segmentation = nn.Conv2d(below, num_classes + 1, 1)

    def forward(self, layout: Tensor, rgb: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        onehot = F.one_hot(layout.clamp(max=self.num_classes), self.num_classes + 1)
        onehot = onehot.permute(0, 3, 1, 2).float()
        filled = fill_canvas(rgb, mask, onehot)
        x = inputs = torch.cat([onehot, filled, mask], 1)
        encoded = []
        for index in range(len(self.config.encoder_widths)):
            x = average_pool(self.get_submodule(f"encoder_{index}")(x))
            encoded.append(x)
        pyramid = input_pyramid(inputs, len(encoded) + 1)
        x = None
        for index in range(len(pyramid)):
            scale = len(encoded) - index
            parts = [pyramid[scale]]
            if scale:
                parts.append(encoded[scale - 1])
            if x is not None:
                parts.append(upsample(x, pyramid[scale].shape[2:]))
            x = self.get_submodule(f"decoder_{index}")(torch.cat(parts, 1))
        return filled + self.photo(x), self.segmentation(x)


class VGG(nn.Module):
    """Φ: photos [B, 3, H, W] -> features by layer."""

    def __init__(self, config: VGGConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).reshape(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(config.std).reshape(3, 1, 1), False)
        channels = 3
        for block, (width, convs) in enumerate(zip(config.widths, CONVS, strict=True), 1):
            for index in range(1, convs + 1):
                self.add_module(f"conv{block}_{index}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width

    def forward(self, photo: Tensor) -> dict[str, Tensor]:
        photo = photo.flip(1) if self.config.bgr else photo
        x = (photo * self.config.input_scale - self.mean) / self.std
        features = {"input": x}
        for block, convs in enumerate(CONVS, 1):
            if block > 1:
                x = F.max_pool2d(x, 2)
            for index in range(1, convs + 1):
                name = f"conv{block}_{index}"
                x = F.relu(self.get_submodule(name)(x))
                if name in FEATURES:
                    features[name] = x
        return features


class VGGSegmenter(nn.Module):
    """Φ as it is trained here: photos [B, 3, H, W] -> (logits, features)."""

    def __init__(self, config: VGGConfig, num_classes: int):
        super().__init__()
        self.vgg = VGG(config)
        for layer, width in zip(SEGMENTER_FEATURES, config.widths[1:], strict=True):
            self.add_module(f"head_{layer}", nn.Conv2d(width, num_classes, 1))

    def forward(self, photo: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features, logits = self.vgg(photo), None
        for layer in reversed(SEGMENTER_FEATURES):
            here = self.get_submodule(f"head_{layer}")(features[layer])
            logits = here if logits is None else here + upsample(logits, here.shape[2:])
        return upsample(logits, photo.shape[2:]), features


class SynthesisLoss(nn.Module):
    """The mean loss of a batch: Φ's distances, and cross-entropies of the labelled pixels."""

    def __init__(
        self,
        network: Synthesis,
        features: VGGSegmenter,
        weights: Mapping[str, float],
        losses: LossConfig,
    ):
        super().__init__()
        self.network, self.features = network, features.requires_grad_(False)
        self.weights, self.losses = dict(weights), losses

    def forward(self, layout: Tensor, rgb: Tensor, mask: Tensor, truth: Tensor, labels: Tensor):
        photo, segmentation = self.network(layout, rgb, mask)
        logits, features = self.features(photo)
        ours = self._look(photo, features)
        with torch.no_grad():
            real = self._look(truth, self.features.vgg(truth))
        loss = self.losses.segmentation_weight * cross_entropy(segmentation, labels)
        for layer, weight in self.weights.items():
            weight *= self.losses.texture_weight if layer in TEXTURES else 1.0
            if weight:
                distance = (ours[layer].float() - real[layer].float()).abs()
                loss += weight * distance.mean((1, 2, 3))
        if self.losses.consistency_weight:
            loss += self.losses.consistency_weight * cross_entropy(logits, labels)
        return loss.mean()

    def _look(self, photo: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
        seen = features | {COLOR: input_pyramid(photo, COLOR_HALVINGS + 1)[-1]}
        seen[CHROMA] = photo[:, ::2] - photo[:, 1:2]
        if self.losses.texture_weight:
            for name, layer in TEXTURES.items():
                seen[name] = local_deviations(features[layer].float(), TEXTURE_WINDOW)
        return seen


def local_deviations(features: Tensor, window: int) -> Tensor:
    """Standard deviations in tiles, side by side, that squares of `window` would fit in."""
    height, width = features.shape[2:]
    rows, columns = max(1, height // window), max(1, width // window)
    whole = features[:, :, : height - height % rows, : width - width % columns]
    tiles = whole.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
    return tiles.var((3, 5), correction=0).add(LEAST_VARIANCE).sqrt()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of each example's labelled pixels."""
    entropy = F.cross_entropy(logits.float(), labels, ignore_index=VOID, reduction="none")
    return entropy.sum((1, 2)) / (labels != VOID).sum((1, 2)).clamp(min=1)


def make_step(
    loss: SynthesisLoss,
    learning_rate: float,
    clip_norm: float,
    ema_decay: float,
    *,
    compiled: bool,
    bfloat16: bool,
) -> Callable[[tuple[Tensor, ...]], float]:
    """A function of a batch that does one step of training and returns the loss before it.

    Args:
      learning_rate: Adam's.     clip_norm: 0 for no limit.
      compiled: by `torch.compile`.     bfloat16: under autocast.
    """
    params = list(loss.network.parameters())
    optimizer = torch.optim.Adam(params, learning_rate, fused=True)
    ema = [param.detach().clone() for param in params]
    run = torch.compile(loss) if compiled else loss
    done = 0

    def step(batch: tuple[Tensor, ...]) -> float:
        nonlocal done
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = run(*batch)
        value.backward()
        norm = torch.nn.utils.get_total_norm([param.grad for param in params])
        if clip_norm:
            torch.nn.utils.clip_grads_with_norm_(params, clip_norm, norm)
        optimizer.step()
        decay = min(ema_decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(ema, [param.detach() for param in params], 1 - decay)
        done += 1
        return value.item()

    return step


def copy_weights(module: nn.Module, params: Mapping) -> None:
    """Gives a module our parameters, by name; nothing of either may be left over."""
    state = {name: torch.from_numpy(value) for name, value in rename(params).items()}
    module.load_state_dict(state)
    module.to(memory_format=torch.channels_last)


def rename(params: Mapping) -> dict[str, np.ndarray]:
    """Linen's parameters, or their gradients, as a state dict would have them.

    Kernels are turned to OIHW, from HWIO or, of dense layers, from IO.
    """
    names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    found = {}
    for path, value in flax.traverse_util.flatten_dict(params["params"]).items():
        value = np.asarray(value)
        if path[-1] == "kernel":
            kernel = value if value.ndim == 4 else value[None, None]
            value = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        found[".".join((*path[:-1], names[path[-1]]))] = np.array(value)
    return found


def to_nchw(images: np.ndarray) -> Tensor:
    """Images [B, H, W, F] as [B, F, H, W] in channels_last: the same bytes."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
