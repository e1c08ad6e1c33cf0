"""`scenes`: procedural street photos with exact layout, instances and depth.

A pinhole camera looks down a street of houses, trees, cars, people, poles and signs that stand
on, hang over and hide each other. Any number, at any size; scene (seed, split, index) is always
the same.
"""

import dataclasses
import hashlib
import importlib.resources
import io
import json
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int, UInt8
from PIL import Image

from sims_jax.data.coarse import draw_coarse
from sims_jax.data.street.layout import build_street
from sims_jax.data.street.light import SKY_DEPTH_M, expose, light_photo
from sims_jax.data.street.raster import draw_panels
from sims_jax.errors import InputError
from sims_jax.labels import SCENES, LabelSpace
from sims_jax.progress import progress

SAMPLES = 2  # samples a pixel, on each axis
SMALLEST_PX = 16  # side of a picture; smaller ones show no street
_DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """How many scenes, how large.

    Args:
      image_size: (H, W) in pixels.
      num_train, num_val: scenes of each split; a split of none is left out.
      seed: other seeds give other streets.
    """

    image_size: tuple[int, int] = (96, 128)
    num_train: int = 128
    num_val: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        size = self.image_size
        if len(size) != 2 or not all(isinstance(n, int) and n >= SMALLEST_PX for n in size):
            raise InputError(
                f"image_size: found {size}, expected (height, width) of at least "
                f"{SMALLEST_PX} pixels; correct it"
            )
        for key in ("num_train", "num_val", "seed"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 0 or (key == "num_train" and value == 0):
                raise InputError(f"{key}: found {value}, expected a whole number; correct it")


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesBuilderConfig(tfds.core.BuilderConfig):
    """What `Scenes` draws; `name` is the digest that keys the cache."""

    scenes: ScenesConfig


class Scenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Procedural street scenes; an example is what `draw_scene` returns."""

    VERSION = tfds.core.Version("1.0.0")
    LICENCE = "Drawn by sims_jax: no rights reserved."
    code_path = None  # There is no folder of TFDS metadata beside the code.

    @classmethod
    def from_config(cls, config: ScenesConfig, cache_dir: str) -> "Scenes":
        """The builder of these scenes; nothing is drawn yet."""
        name = _digest(config)
        return cls(config=ScenesBuilderConfig(name=name, scenes=config), data_dir=cache_dir)

    @property
    def labels(self) -> LabelSpace:
        return SCENES

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "layout": _map_feature(np.uint8),
            "video": tfds.features.Text(),
            "frame": np.int64,
            "instances": _map_feature(np.uint16),
            "depth": _map_feature(np.float32),
            "coarse": _map_feature(np.uint8),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            license=self.LICENCE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # Nothing is downloaded.
        config = self.builder_config.scenes
        counts = {"train": config.num_train, "val": config.num_val}
        return {split: self._generate_examples(split, n) for split, n in counts.items() if n}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict]]:
        config = self.builder_config.scenes
        with progress(f"drawing {split}", count) as bar:
            for index in range(count):
                scene = draw_scene(config.seed, index, split, config.image_size)
                yield index, scene | {"photo": _encode_png(scene["photo"])}
                bar.update()


def _digest(config: ScenesConfig) -> str:
    """Of the config and of the generator's source, so that a changed one is drawn afresh."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    digest.update(_read_generator())
    digest.update(np.__version__.encode())  # its random streams may change
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _read_generator() -> bytes:
    """The source of all files that decide what a scene looks like."""
    folder = importlib.resources.files("sims_jax.data")
    files = [folder / "scenes.py", folder / "coarse.py", *(folder / "street").iterdir()]
    sources = sorted((file for file in files if file.name.endswith(".py")), key=lambda f: f.name)
    return b"".join(file.read_bytes() for file in sources)


def _encode_png(photo: UInt8[np.ndarray, "H W 3"]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    return data.getvalue()


def _map_feature(dtype: type) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, None), dtype=dtype, encoding="zlib")


def draw_scene(
    seed: int, index: int, split: str = "train", size: tuple[int, int] = (96, 128)
) -> dict[str, object]:
    """Draws scene `index` of a split.

    Args:
      size: (H, W) in pixels.

    Returns:
      The example every dataset yields: id, photo uint8 [H, W, 3], layout uint8 [H, W], video,
      frame, instances uint16 [H, W] (0 none), depth float32 [H, W] (metres, 1000 in the sky),
      coarse uint8 [H, W] (255 void).
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    world = build_street(rng, (size[0] * SAMPLES, size[1] * SAMPLES))
    surfaces = draw_panels(world.camera, world.panels)
    walls = tuple(zip(world.facade_x, world.walls, strict=True))
    radiance = light_photo(world.camera, surfaces, world.light, walls, world.casters)
    height, width = size
    cells = radiance.reshape(height, SAMPLES, width, SAMPLES, 3)
    photo = expose(cells.mean((1, 3)), world.light, rng)
    thing, inverse = choose_sample(surfaces.thing, surfaces.inverse_depth)
    layout = np.array(world.class_id, np.uint8)[thing]
    depth = np.where(thing > 0, 1 / np.maximum(inverse, 1 / SKY_DEPTH_M), SKY_DEPTH_M)
    name = f"{split}_{index:05d}"
    return {
        "id": name,
        "photo": photo,
        "layout": layout,
        "video": name,
        "frame": index,
        "instances": np.array(world.instance, np.uint16)[thing],
        "depth": depth.astype(np.float32),
        "coarse": draw_coarse(layout, thing),
    }


def choose_sample(
    thing: Int[np.ndarray, "sH sW"], inverse_depth: Float[np.ndarray, "sH sW"]
) -> tuple[Int[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """The thing most of a pixel's samples see, on a tie the nearest, and its nearest depth."""
    height, width = thing.shape[0] // SAMPLES, thing.shape[1] // SAMPLES
    count = SAMPLES * SAMPLES

    def gather(image):
        cells = image.reshape(height, SAMPLES, width, SAMPLES).transpose(1, 3, 0, 2)
        return cells.reshape(count, height, width)

    things, inverses = gather(thing), gather(inverse_depth)
    votes = np.stack([(things == one).sum(0) for one in things])
    # Inverse depths are below 1 / NEAR_M = 4, so 8 a vote lets depth only break ties.
    best = (8.0 * votes + inverses).argmax(0)[None]
    return np.take_along_axis(things, best, 0)[0], np.take_along_axis(inverses, best, 0)[0]
