"""VGG-19, the Phi of the perceptual loss: the trunk, its weight files, and a head to train it.

Layers are named as in Simonyan & Zisserman 2014, configuration E: `convB_I` is convolution I of
block B. Features are taken after the ReLU (Chen & Koltun 2017, official code).
"""

import dataclasses
import hashlib
import pathlib

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from safetensors import SafetensorError

from sims_jax.errors import InputError
from sims_jax.nets.scales import upsample

WIDTHS = (64, 128, 256, 512, 512)
CONVS = (2, 2, 4, 4, 2)  # of VGG-19's (2, 2, 4, 4, 4); nothing after conv5_2 is used
FEATURES = ("input", "conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")  # SIMS, Sec. 6
SEGMENTER_FEATURES = FEATURES[2:]
MIN_SIZE_PX = 16  # four 2x2 pools

# Position of each convolution in torchvision's `vgg19().features`.
TORCHVISION_INDEX = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30)
TORCHVISION_MEAN = (0.485, 0.456, 0.406)  # RGB, of inputs in [0, 1]
TORCHVISION_STD = (0.229, 0.224, 0.225)
KERAS_MEAN = (103.939, 116.779, 123.68)  # BGR, of inputs in [0, 255]
KERAS_SCALE = 255.0

Params = dict[str, dict[str, Float[np.ndarray, "..."]]]


@dataclasses.dataclass(frozen=True)
class VGGConfig:
    """Width of the trunk and the preprocessing its weights were trained with.

    The network reads (input_scale * photo - mean) / std, channels reversed first where `bgr`.

    Args:
      width_multiplier: times VGG-19's channels; 1 for published weights.
      bgr: the weights want channels in the order blue, green, red.
      input_scale: the weights want inputs in [0, input_scale].
      mean: subtracted, in the weights' channel order and scale.
      std: divided by.
    """

    width_multiplier: float = 1.0
    bgr: bool = False
    input_scale: float = 1.0
    mean: tuple[float, float, float] = TORCHVISION_MEAN
    std: tuple[float, float, float] = TORCHVISION_STD

    def __post_init__(self):
        if not self.width_multiplier > 0:
            raise InputError(
                f"width_multiplier: found {self.width_multiplier}, expected more than 0; 1 has "
                "VGG-19's channels"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block."""
        return tuple(max(1, round(width * self.width_multiplier)) for width in WIDTHS)


class VGG(nn.Module):
    """VGG-19 up to conv5_2: features by layer name (FEATURES).

    Source: SIMS, Sec. 6. The feature "input" is the preprocessed photo.
    """

    config: VGGConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, photo: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B h w F"]]:
        """Features of photos in [0, 1]; block B is at size floor(H / 2^(B-1)).

        Raises:
          ValueError: a photo smaller than 16 pixels.
        """
        if min(photo.shape[1:3]) < MIN_SIZE_PX:
            raise ValueError(f"VGG needs {MIN_SIZE_PX} px on a side, found {photo.shape[1:3]}")
        x = self._preprocess(photo)
        features = {"input": x}
        x = x.astype(self.dtype)
        for block, (width, convs) in enumerate(zip(self.config.widths, CONVS, strict=True), 1):
            if block > 1:
                x = max_pool_2x2(x)
            for index in range(1, convs + 1):
                name = f"conv{block}_{index}"
                conv = nn.Conv(
                    width,
                    (3, 3),
                    dtype=self.dtype,
                    kernel_init=nn.initializers.he_normal(),
                    name=name,
                )
                x = nn.relu(conv(x))
                if name in FEATURES:
                    features[name] = x
        return features

    def _preprocess(self, photo: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        channels = photo[..., ::-1] if self.config.bgr else photo
        mean = jnp.asarray(self.config.mean, jnp.float32)
        std = jnp.asarray(self.config.std, jnp.float32)
        return (channels.astype(jnp.float32) * self.config.input_scale - mean) / std


def max_pool_2x2(x: Float[Array, "B H W F"]) -> Float[Array, "B h w F"]:
    """Maximum over 2x2 windows; an odd last row or column is left out, as both sources do."""
    batch, height, width, channels = x.shape
    h, w = height // 2, width // 2
    return x[:, : 2 * h, : 2 * w].reshape(batch, h, 2, w, 2, channels).max(axis=(2, 4))


class VGGSegmenter(nn.Module):
    """VGG with a segmentation head, which trains the trunk where no published weights are at hand.

    logits = sum over conv2_2 to conv5_2 of the layer's 1x1 convolution, upsampled. Sums are taken
    from coarse to fine, so that all but one upsampling happen at small sizes. The trunk's
    parameters are `params["vgg"]`.

    Source: the head is that of Long et al. 2015 (fully convolutional networks), Sec. 4.2.
    """

    config: VGGConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, photo: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B H W classes"], dict[str, Float[Array, "B h w F"]]]:
        """Logits of the C classes for photos in [0, 1], and the trunk's features."""
        features = VGG(self.config, self.dtype, name="vgg")(photo)
        logits = None
        for layer in reversed(SEGMENTER_FEATURES):
            head = nn.Dense(self.num_classes, name=f"head_{layer}")
            here = head(features[layer].astype(jnp.float32))
            logits = here if logits is None else here + upsample(logits, here.shape[1:3])
        return upsample(logits, photo.shape[1:3]), features


def load_vgg(path: str | pathlib.Path) -> tuple[Params, VGGConfig, str]:
    """Weights of a file, the config that goes with them, and the file's SHA-256.

    Args:
      path: `.safetensors` with torchvision's names and preprocessing, or Keras' "notop" `.h5`.

    Returns:
      (params, config, sha256): `VGG(config).apply({"params": params}, photo)`.

    Raises:
      InputError: the file cannot be read, or is not a VGG-19.
    """
    path = pathlib.Path(path)
    readers = {".safetensors": _read_torchvision, ".h5": _read_keras}
    if path.suffix not in readers:
        raise InputError(
            f"{path}: expected VGG-19 weights as .safetensors (torchvision names) or .h5 (Keras "
            f"notop), found the suffix {path.suffix!r}; convert the file"
        )
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        params, config = readers[path.suffix](path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: expected VGG-19 weights, found {str(error).splitlines()[0]}; "
            "give a whole file"
        ) from error
    width = params["conv1_1"]["kernel"].shape[-1]
    config = dataclasses.replace(config, width_multiplier=width / WIDTHS[0])
    _check_shapes(path, params, config)
    return params, config, sha256


def _layer_names() -> list[str]:
    return [
        f"conv{block}_{index}"
        for block, convs in enumerate(CONVS, 1)
        for index in range(1, convs + 1)
    ]


def _read_torchvision(path: pathlib.Path) -> tuple[Params, VGGConfig]:
    arrays = safetensors.numpy.load_file(path)
    params = {}
    for layer, index in zip(_layer_names(), TORCHVISION_INDEX, strict=True):
        kernel = _take(path, arrays, f"features.{index}.weight")
        if kernel.ndim != 4:
            raise InputError(
                f"{path}: features.{index}.weight: expected OIHW, found shape {kernel.shape}; "
                "give the weights of torchvision's vgg19"
            )
        bias = _take(path, arrays, f"features.{index}.bias")
        params[layer] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    return params, VGGConfig()


def _read_keras(path: pathlib.Path) -> tuple[Params, VGGConfig]:
    arrays = {}
    with h5py.File(path, "r") as file:
        # Keras writes LAYER/LAYER_W_1:0 or LAYER/LAYER/kernel:0, by its age and at any depth.
        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                layer = next((part for part in name.split("/") if "_conv" in part), name)
                leaf = name.rsplit("/", 1)[-1].split(":")[0]
                kind = "kernel" if leaf == "kernel" or "_W_" in leaf else "bias"
                arrays[f"{layer}/{kind}"] = np.asarray(item)

        file.visititems(visit)
    params = {}
    for layer in _layer_names():
        name = layer.replace("conv", "block").replace("_", "_conv")
        params[layer] = {kind: _take(path, arrays, f"{name}/{kind}") for kind in ("kernel", "bias")}
    config = VGGConfig(bgr=True, input_scale=KERAS_SCALE, mean=KERAS_MEAN, std=(1.0, 1.0, 1.0))
    return params, config


def _take(path: pathlib.Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise InputError(
            f"{path}: expected an array {name}, found {', '.join(sorted(arrays)[:4]) or 'none'}; "
            "give the weights of a VGG-19 without batch normalisation"
        )
    return np.ascontiguousarray(arrays[name], dtype=np.float32)


def _check_shapes(path: pathlib.Path, params: Params, config: VGGConfig) -> None:
    photo = jax.ShapeDtypeStruct((1, MIN_SIZE_PX, MIN_SIZE_PX, 3), jnp.float32)
    expected = jax.eval_shape(VGG(config).init, jax.random.key(0), photo)["params"]
    for layer, arrays in expected.items():
        for kind, array in arrays.items():
            found = params[layer][kind].shape
            if found != array.shape:
                raise InputError(
                    f"{path}: {layer} {kind}: expected shape {array.shape}, found {found}; "
                    "give the weights of a VGG-19"
                )
