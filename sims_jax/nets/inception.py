"""Inception-v3 as the standard Fréchet inception distance uses it, with the weights of a file.

Modules are named as in the file, so that loading is renaming. Batch normalisation, whose statistics
are fixed, is folded into the convolutions.

Source: Szegedy et al. 2016; pytorch-fid's port of TensorFlow's `pt_inception-2015-12-05`, which
differs from torchvision's: averages leave the padding out, and Mixed_7c's pool is a maximum.
"""

import hashlib
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Float
from safetensors import SafetensorError

from sims_jax.errors import InputError

SIZE_PX = 299  # a side of what it looks at
FEATURES = 2048
MIN_SIZE_PX = 75  # smaller photos vanish on the way
BATCH_NORM_EPSILON = 1e-3
Params = dict[str, Any]

# Branches of each kind of block: (name, channels, kernel) of its convolutions in a row.
Conv = tuple[str, int, tuple[int, int]]
ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


class ConvReLU(nn.Module):
    """Convolution with folded normalisation, then ReLU."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B h w G"]:
        strides = (self.stride, self.stride)
        conv = nn.Conv(self.channels, self.kernel, strides, padding=self.padding, name="conv")
        return nn.relu(conv(x))


class Block(nn.Module):
    """Branches side by side, concatenated.

    Args:
      branches: each a row of convolutions; a last pair of (1, 3) and (3, 1) is side by side, too.
      pool: "average" or "max", before a convolution to `pool_channels`; or "halve": a maximum at
        half of the size, to which the last convolution of each branch goes, too.
    """

    branches: tuple[tuple[Conv, ...], ...]
    pool: str
    pool_channels: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B h w G"]:
        found = []
        for branch in self.branches:
            y = x
            split = branch[-2:] if branch[-1][2] == (3, 1) else ()
            row = branch[: len(branch) - len(split)]
            for number, (name, channels, kernel) in enumerate(row, 1):
                ends = self.pool == "halve" and number == len(row)
                stride, padding = (2, "VALID") if ends else (1, "SAME")
                y = ConvReLU(channels, kernel, stride, padding, name=name)(y)
            found += [ConvReLU(n, kernel, name=name)(y) for name, n, kernel in split] or [y]
        if self.pool == "halve":
            return jnp.concatenate([*found, halve(x)], axis=-1)
        if self.pool == "average":
            y = nn.avg_pool(x, THREE, padding="SAME", count_include_pad=False)
        else:
            y = nn.max_pool(x, THREE, padding="SAME")
        found.append(ConvReLU(self.pool_channels, ONE, name="branch_pool")(y))
        return jnp.concatenate(found, axis=-1)


def halve(x: Float[Array, "B H W F"]) -> Float[Array, "B h w F"]:
    return nn.max_pool(x, THREE, strides=(2, 2))


def block_a(pool_channels: int, name: str) -> Block:
    branches = (
        (("branch1x1", 64, ONE),),
        (("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE)),
        (
            ("branch3x3dbl_1", 64, ONE),
            ("branch3x3dbl_2", 96, THREE),
            ("branch3x3dbl_3", 96, THREE),
        ),
    )
    return Block(branches, "average", pool_channels, name=name)


def block_b(name: str) -> Block:
    double = (("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE))
    branches = ((("branch3x3", 384, THREE),), (*double, ("branch3x3dbl_3", 96, THREE)))
    return Block(branches, "halve", name=name)


def block_c(inner: int, name: str) -> Block:
    branches = (
        (("branch1x1", 192, ONE),),
        (("branch7x7_1", inner, ONE), ("branch7x7_2", inner, ROW), ("branch7x7_3", 192, COLUMN)),
        (
            ("branch7x7dbl_1", inner, ONE),
            ("branch7x7dbl_2", inner, COLUMN),
            ("branch7x7dbl_3", inner, ROW),
            ("branch7x7dbl_4", inner, COLUMN),
            ("branch7x7dbl_5", 192, ROW),
        ),
    )
    return Block(branches, "average", 192, name=name)


def block_d(name: str) -> Block:
    branches = (
        (("branch3x3_1", 192, ONE), ("branch3x3_2", 320, THREE)),
        (
            ("branch7x7x3_1", 192, ONE),
            ("branch7x7x3_2", 192, ROW),
            ("branch7x7x3_3", 192, COLUMN),
            ("branch7x7x3_4", 192, THREE),
        ),
    )
    return Block(branches, "halve", name=name)


def block_e(pool: str, name: str) -> Block:
    branches = (
        (("branch1x1", 320, ONE),),
        (
            ("branch3x3_1", 384, ONE),
            ("branch3x3_2a", 384, (1, 3)),
            ("branch3x3_2b", 384, (3, 1)),
        ),
        (
            ("branch3x3dbl_1", 448, ONE),
            ("branch3x3dbl_2", 384, THREE),
            ("branch3x3dbl_3a", 384, (1, 3)),
            ("branch3x3dbl_3b", 384, (3, 1)),
        ),
    )
    return Block(branches, pool, 192, name=name)


class Inception(nn.Module):
    """Pooled features [B, 2048] of photos in [0, 1], of 75 pixels a side or more."""

    @nn.compact
    def __call__(self, photo: Float[Array, "B H W 3"]) -> Float[Array, "B features"]:
        x = 2.0 * photo - 1.0
        x = ConvReLU(32, THREE, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvReLU(32, THREE, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = halve(ConvReLU(64, THREE, name="Conv2d_2b_3x3")(x))
        x = ConvReLU(80, ONE, name="Conv2d_3b_1x1")(x)
        x = halve(ConvReLU(192, THREE, 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, channels in {"Mixed_5b": 32, "Mixed_5c": 64, "Mixed_5d": 64}.items():
            x = block_a(channels, name)(x)
        x = block_b("Mixed_6a")(x)
        inner = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}
        for name, channels in inner.items():
            x = block_c(channels, name)(x)
        x = block_d("Mixed_7a")(x)
        x = block_e("average", "Mixed_7b")(x)
        return block_e("max", "Mixed_7c")(x).mean(axis=(1, 2))


def resize_for_inception(photo: Float[Array, "B H W 3"]) -> Float[Array, "B h w 3"]:
    """To 299 x 299, bilinear and without antialiasing, as pytorch-fid does it."""
    size = (photo.shape[0], SIZE_PX, SIZE_PX, photo.shape[3])
    return jax.image.resize(photo, size, "bilinear", antialias=False)


def load_inception(path: pathlib.Path) -> tuple[Params, str]:
    """Weights of a file, and the file's SHA-256: `Inception().apply({"params": params}, photo)`.

    Args:
      path: pytorch-fid's state dict, as `.safetensors`.

    Raises:
      InputError: the file cannot be read, or is not this network.
    """
    advice = "save the state dict of pytorch-fid's weights with safetensors.torch.save_file"
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path}: found the suffix {path.suffix!r}, expected .safetensors; {advice}"
        )
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        arrays = safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: found {str(error).splitlines()[0]}, expected Inception-v3's weights; {advice}"
        ) from error
    photo = jax.ShapeDtypeStruct((1, MIN_SIZE_PX, MIN_SIZE_PX, 3), jnp.float32)
    expected = jax.eval_shape(Inception().init, jax.random.key(0), photo)["params"]

    def fold(modules: Params, prefix: str) -> Params:
        if "conv" not in modules:
            return {name: fold(inner, f"{prefix}{name}.") for name, inner in modules.items()}

        def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
            found = arrays.get(prefix + name)
            if found is None or found.shape != shape:
                there = "nothing" if found is None else f"shape {found.shape}"
                raise InputError(
                    f"{path}: {prefix}{name}: found {there}, expected shape {shape}; {advice}"
                )
            return found.astype(np.float32)

        height, width, inputs, outputs = modules["conv"]["kernel"].shape
        kernel = take("conv.weight", (outputs, inputs, height, width)).transpose(2, 3, 1, 0)
        gain, shift, mean, variance = (
            take(f"bn.{name}", (outputs,))
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON))
        return {"conv": {"kernel": kernel * gain, "bias": shift - mean * gain}}

    return fold(expected, ""), sha256
