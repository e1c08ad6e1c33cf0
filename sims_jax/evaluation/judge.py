"""The judge: a segmenter that has never seen the videos it judges, trained once for a set of them.

It is a residual U-Net, another architecture than Φ, for f was trained to please Φ; and it learns
under strong augmentation, so that it does not fail at photos for their light. What it says of a
photo: its classes, and the features that Fréchet and kernel distances compare.

The fairest objection: it has learned from the bank's photos, and photos made of their pixels may
please it more than a real photo of a street that it has not seen.
"""

import dataclasses
import functools
import hashlib
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from sims_jax.bank.photo import as_float, resize_photo
from sims_jax.bank.store import Store
from sims_jax.checkpoints import digest_params
from sims_jax.errors import InputError
from sims_jax.evaluation.kept import train_once
from sims_jax.labels import VOID, LabelSpace
from sims_jax.nets.layers import LEAK, ConvBlock, LayerNorm
from sims_jax.nets.scales import average_pool, upsample
from sims_jax.ops.resize import resize_labels
from sims_jax.training.loop import TrainConfig
from sims_jax.training.tasks.heldout import map_examples
from sims_jax.training.tasks.segmenter import SegmenterTask, mirrored, most_likely

ARCHITECTURE = "residual U-Net 16-32-64-96-128"
SEED = 0
FULL_WIDTH = 16  # at full size: a pole is a pixel wide
WIDTHS = (32, 64, 96, 128)  # of each scale, from half of the size
FEATURES = 64  # of the last features, at a quarter of the size
TRAIN = TrainConfig(
    steps=3000,
    batch_size=8,
    learning_rate=2e-3,
    schedule="cosine",
    warmup_steps=150,
    growth_epochs=0,
    epoch_steps=0,
    final_rate=0.0,
    ema_decay=0.998,
    clip_norm=1.0,
    log_every=10,
    save_every=250,
    sheet_every=3000,
    precision="float32",
    accumulation=1,
    save_minutes=0.0,
)
BALANCE = 0.5  # a pixel weighs its class's share of all to minus this, or poles are not learned
# Augmentation: sides of crops; gains, gammas and single channels' gains, or their inverses; noise;
# the share of the examples that is blurred.
CROP = (0.5, 1.0)
MAX_GAIN, MAX_GAMMA, MAX_TINT = 2.5, 1.6, 1.15
MAX_NOISE = 0.05
BLURRED_SHARE = 0.3
AUGMENTATION = [CROP, MAX_GAIN, MAX_GAMMA, MAX_TINT, MAX_NOISE, BLURRED_SHARE]


class Residual(nn.Module):
    """x + norm(conv(leaky(norm(conv(x)))))."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        inner = ConvBlock(x.shape[-1], 1, name="first")(x)
        inner = nn.Conv(x.shape[-1], (3, 3), use_bias=False, name="second")(inner)
        return nn.leaky_relu(x + LayerNorm(name="norm")(inner), LEAK)


class JudgeNet(nn.Module):
    """Photos in [0, 1] to class logits [B, H, W, C] and the features behind them, at a quarter."""

    num_classes: int

    @nn.compact
    def __call__(self, photo: Float[Array, "B H W 3"]) -> tuple[Array, Array]:
        full = ConvBlock(FULL_WIDTH, 1, name="full")(2.0 * photo - 1.0)
        x, skips = full, []
        for scale, width in enumerate(WIDTHS):
            x = nn.Conv(width, (3, 3), strides=(2, 2), name=f"down_{scale}")(x)
            x = Residual(name=f"residual_{scale}")(x)
            skips.append(x)
        for scale in (2, 1):
            x = upsample(x, skips[scale].shape[1:3])
            x = jnp.concatenate([x, skips[scale]], axis=-1)
            x = ConvBlock(FEATURES, 1, name=f"up_{scale}")(x)
        features = x
        x = jnp.concatenate([upsample(x, skips[0].shape[1:3]), skips[0]], axis=-1)
        x = ConvBlock(WIDTHS[0], 1, name="up_0")(x)
        x = jnp.concatenate([upsample(x, photo.shape[1:3]), full], axis=-1)
        x = ConvBlock(FULL_WIDTH, 1, name="up_full")(x)
        return nn.Dense(self.num_classes, name="classes")(x), features


@dataclasses.dataclass(frozen=True)
class JudgeTask(SegmenterTask):
    """Examples are crops of some of a bank's photos and of their layouts, much disturbed.

    Args:
      photos: indices of the photos it learns from.   heldout: the real photos that are judged.
    """

    store: Store
    photos: np.ndarray
    heldout: Store
    name: str = "judge"

    @property
    def count(self) -> int:
        return len(self.photos)

    @functools.cached_property
    def class_weights(self) -> Float[np.ndarray, "C"]:
        """A mean of 1 over the pixels; rare classes count more, those never seen nothing."""
        layout = self.store.layout[self.photos]
        pixels = np.bincount(layout[layout != VOID], minlength=self.labels.num_classes)
        weights = np.where(pixels > 0, np.maximum(pixels, 1.0) ** -BALANCE, 0.0)
        return np.float32(weights * pixels.sum() / max((weights * pixels).sum(), 1.0))

    @property
    def network(self) -> JudgeNet:
        return JudgeNet(self.labels.num_classes)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        photo = self.store.photo[self.photos[index]]
        layout = self.store.layout[self.photos[index]]
        size = layout.shape
        sides = [max(1, int(side * rng.uniform(*CROP))) for side in size]
        y, x = (rng.integers(full - side + 1) for full, side in zip(size, sides, strict=True))
        photo, layout = (a[y : y + sides[0], x : x + sides[1]] for a in (photo, layout))
        crop = {"photo": resize_photo(photo, size), "layout": resize_labels(layout, size)}
        return mirrored(crop, rng)

    def init(self, key):
        return self.network.init(key, as_float(self.store.photo[:1]))

    def segment(self, params, photo):
        return self.network.apply(params, photo)[0]

    def disturb(self, key, photo):
        return disturb(key, photo)


def disturb(key, photo: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """Another light, another camera: gain, gamma, tint, blur and noise."""
    keys = jax.random.split(key, 6)

    def factor(key, most: float, shape: tuple[int, ...] = ()) -> Array:
        limit = jnp.log(jnp.float32(most))
        return jnp.exp(jax.random.uniform(key, shape, minval=-limit, maxval=limit))

    photo = jnp.clip(photo, 1e-4, 1.0) ** factor(keys[0], MAX_GAMMA)
    photo = photo * factor(keys[1], MAX_GAIN) * factor(keys[2], MAX_TINT, (3,))
    soft = upsample(average_pool(photo[None]), photo.shape[:2])[0]
    photo = jnp.where(jax.random.bernoulli(keys[3], BLURRED_SHARE), soft, photo)
    noise = jax.random.uniform(keys[4], maxval=MAX_NOISE) * jax.random.normal(keys[5], photo.shape)
    return jnp.clip(photo + noise, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the judge sees in n photos."""

    found: UInt8[np.ndarray, "n H W"]  # class ids
    pooled: Float[np.ndarray, "n 1 d"]  # mean of the features
    patches: Float[np.ndarray, "n m d"]  # the features, two by two


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained judge: its parameters' SHA-256, and the number of photos it has learned from."""

    params: dict
    labels: LabelSpace
    sha256: str
    photos: int

    def look(self, photos: UInt8[np.ndarray, "n H W 3"]) -> Seen:
        examples = [{"photo": photo} for photo in photos]
        return Seen(**map_examples(self._see, self.params, examples))

    @functools.cached_property
    def _see(self):
        def see(params, batch, position):
            del position
            network = JudgeNet(self.labels.num_classes)
            logits, features = network.apply(params, as_float(batch["photo"]))
            patches = average_pool(features)
            return {
                "found": most_likely(logits),
                "pooled": features.mean(axis=(1, 2))[:, None],
                "patches": patches.reshape(len(patches), -1, patches.shape[-1]),
            }

        return jax.jit(see)


def train_judge(store: Store, judged: Store, folder: pathlib.Path) -> Judge:
    """The judge of `judged`, trained on the store's photos of other videos; once, then read.

    Args:
      folder: where judges are kept.

    Raises:
      InputError: the store has no photos of other videos, or a judge that was kept is damaged.
    """
    same = np.isin(store.videos, judged.videos) | np.isin(store.ids, judged.ids)
    photos = np.flatnonzero(~same)
    if not photos.size:
        raise InputError(
            f"{store.folder}: found only photos of the videos that are judged, expected others for "
            "the judge to learn from; hold whole videos out"
        )
    task = JudgeTask(store, photos, judged)
    pixels = hashlib.sha256()  # not the store's digest, for how layouts are split does not matter
    for index in photos:
        pixels.update(store.photo[index].tobytes() + store.layout[index].tobytes())
    learned_from = [
        pixels.hexdigest(),
        [store.spec.image_size, store.spec.labels.classes, [store.ids[i] for i in photos]],
        [ARCHITECTURE, BALANCE, AUGMENTATION, SEED, dataclasses.asdict(TRAIN)],
    ]
    one = jax.local_devices()[:1]  # the same judge, however many there are
    params = train_once(task, TRAIN, folder, learned_from, SEED, one)
    return Judge(params, store.spec.labels, digest_params(params), photos.size)
