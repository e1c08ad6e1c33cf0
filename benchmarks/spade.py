"""SPADE's generator in PyTorch, at its published widths: the peer of `benchmarks.synthesize`.

Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", 2019, and its
official code at ngf 64, without its encoder, for the 19 classes of Cityscapes and void. Spectral
norms are folded into the weights, as one does for inference. With 92.6 million parameters it is the
published one; at 256x512 it has 283 GMAC, of which 281 are published (Li et al., "GAN Compression",
2020).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CHANNELS = 20  # one-hot: 19 classes and void
WIDTH = 64
HIDDEN = 128  # of every normalisation's own network
HALVINGS = 5
LEAK = 0.2


class SPADE(nn.Module):
    """Batch normalisation whose scale and shift are read from the layout, pixel by pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1)
        self.gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Tensor, layout: Tensor) -> Tensor:
        hidden = F.relu(self.shared(F.interpolate(layout, x.shape[2:])))
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class Block(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        middle = min(channels, width)
        self.norm_0, self.norm_1 = SPADE(channels), SPADE(middle)
        self.conv_0 = nn.Conv2d(channels, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, width, 3, padding=1)
        self.shortcut = None
        if channels != width:
            self.norm_s = SPADE(channels)
            self.shortcut = nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, x: Tensor, layout: Tensor) -> Tensor:
        y = self.conv_0(F.leaky_relu(self.norm_0(x, layout), LEAK))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, layout), LEAK))
        return y + (self.shortcut(self.norm_s(x, layout)) if self.shortcut else x)


class Generator(nn.Module):
    """(one-hot layout [B, 20, H, W]) -> photo [B, 3, H, W] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        widths = [WIDTH * times for times in (16, 16, 16, 16, 8, 4, 2, 1)]
        self.first = nn.Conv2d(CHANNELS, widths[0], 3, padding=1)
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairs)
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, layout: Tensor) -> Tensor:
        size = layout.shape[2:]
        scales = [tuple(side >> halvings for side in size) for halvings in range(HALVINGS, -1, -1)]
        x = self.first(F.interpolate(layout, scales[0]))
        # The second and third block share a scale.
        for block, scale in zip(self.blocks, (scales[0], *scales[1:2], *scales[1:]), strict=True):
            x = block(F.interpolate(x, scale), layout)
        return torch.tanh(self.last(F.leaky_relu(x, LEAK)))


def make_generator() -> Generator:
    """With weights as drawn, for inference in channels_last."""
    torch.manual_seed(0)
    return Generator().eval().to(memory_format=torch.channels_last)


def count_macs(height: int, width: int) -> int:
    """Multiply-accumulates of one photo's convolutions."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Generator()(torch.empty(1, CHANNELS, height, width))
    return counter.get_total_flops() // 2
