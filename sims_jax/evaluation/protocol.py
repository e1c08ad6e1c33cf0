"""The protocol: which scores a set of photos gets, and what they are compared with.

A set is n photos of n layouts, in the same order as the n real photos of these layouts. All are
judged at the model's working size, in bytes, as a PNG would hold them. Intervals are of a bootstrap
over photos, drawn with their real counterparts; frames of one video are not independent, so that
intervals are rather too narrow.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

from sims_jax.evaluation import scores
from sims_jax.evaluation.judge import Judge, Seen
from sims_jax.metrics import confusion_matrix, mean_iou, pixel_accuracy
from sims_jax.training.tasks.heldout import spread

VERSION = 2
LEAST_PHOTOS = 2  # to be compared
DRAWS, LEVEL, SEED = 200, 0.95, 0  # of the bootstrap
HALVES = 20  # random halves of the real photos, whose distances are told for comparison
PATCHES_A_PHOTO = 12  # of which kernels are computed
THUMBNAIL_PX = 4  # pixels a side that are averaged before photos are compared with training photos

# What each score says, and which way is better; the order is that of the table.
SCORES = {
    "accuracy": "share of labelled pixels in which the judge finds the layout's class: higher",
    "miou": "mean over classes of intersection over union: higher",
    "frechet": "Fréchet distance of pooled features to the real photos': lower",
    "frechet_patches": "the same of patches: lower",
    "kernel": "squared kernel distance of pooled features: lower",
    "kernel_patches": "the same of patches: lower",
    "spectrum_gap": "RMS gap of the radial mean log power spectrum: lower",
    "gradient_ratio": "mean gradient over the real photos': 1",
    "tint": "gap of mean red and blue against green, in 8-bit steps: lower",
    "flat_share": "share of squares of one colour beyond the real photos': 0",
    "nearest_train": "median distance to the nearest training photo, in 8-bit steps: 0 is a copy",
}

Score = Callable[[Int[np.ndarray, "k"]], float]  # of the photos of these indices


@dataclasses.dataclass(frozen=True)
class PhotoSet:
    """Photos and all that is measured of each before any is compared."""

    photo: UInt8[np.ndarray, "n H W 3"]
    seen: Seen
    confusion: Int[np.ndarray, "n classes channels"]
    spectrum: Float[np.ndarray, "n bins"]
    gradient: Float[np.ndarray, "n"]
    chroma: Float[np.ndarray, "n 2"]
    flat: Float[np.ndarray, "n"]
    nearest: Float[np.ndarray, "n"]
    pooled: scores.Moments
    patches: scores.Moments

    @property
    def accuracy(self) -> Float[np.ndarray, "n"]:
        """Of each photo by itself."""
        return np.array([pixel_accuracy(one) for one in self.confusion])


def look_at(
    photo: UInt8[np.ndarray, "n H W 3"],
    layout: UInt8[np.ndarray, "n H W"],
    judge: Judge,
    train_thumbnails: Float[np.ndarray, "k h w 3"],
) -> PhotoSet:
    """Measures the photos of layouts; for the nearest photo of training see `thumbnails`."""
    seen = judge.look(photo)
    unit = photo.astype(np.float32) / scores.TO_8_BITS
    classes = judge.labels.num_classes
    return PhotoSet(
        photo=photo,
        seen=seen,
        confusion=np.stack([
            np.asarray(confusion_matrix(found, labels, classes), np.int64)
            for found, labels in zip(seen.found, layout, strict=True)
        ]),
        spectrum=scores.log_spectrum(unit),
        gradient=scores.mean_gradient(unit),
        chroma=scores.mean_chroma(unit),
        flat=scores.flat_share(photo),
        nearest=scores.nearest_distance(thumbnails(photo), train_thumbnails),
        pooled=scores.Moments.of(seen.pooled),
        patches=scores.Moments.of(seen.patches),
    )  # fmt: skip


def compare(
    functions: dict[str, Score], count: int, draws: int = DRAWS
) -> dict[str, tuple[float, float, float]]:
    """Every score of a set of `count` photos: (value, low, high)."""
    return {
        name: scores.bootstrap(function, count, draws, LEVEL, SEED)
        for name, function in functions.items()
    }


def score_functions(photos: PhotoSet, real: PhotoSet) -> dict[str, Score]:
    """Each score as a function of the indices of the photos that count."""

    def of_sum(measure, chosen):
        return float(measure(photos.confusion[chosen].sum(axis=0)))

    def frechet(which, chosen):
        a, b = (getattr(x, which).gaussian(chosen) for x in (photos, real))
        return scores.frechet_distance(a, b)

    def gap(which, chosen):
        a, b = (getattr(x, which)[chosen].mean(axis=0) for x in (photos, real))
        return float(np.sqrt(np.mean((a - b) ** 2)))

    def kernel(which: str):
        a, b = (_some_vectors(getattr(x.seen, which)) for x in (photos, real))
        return functools.partial(scores.kernel_distance, scores.Kernels.of(a, b))

    partial = functools.partial
    functions = {
        "accuracy": partial(of_sum, pixel_accuracy),
        "miou": partial(of_sum, mean_iou),
        "frechet": partial(frechet, "pooled"),
        "frechet_patches": partial(frechet, "patches"),
        "kernel": kernel("pooled"),
        "kernel_patches": kernel("patches"),
        "spectrum_gap": partial(gap, "spectrum"),
        "gradient_ratio": lambda c: float(photos.gradient[c].sum() / real.gradient[c].sum()),
        "tint": partial(gap, "chroma"),
        "flat_share": lambda c: float(photos.flat[c].mean() - real.flat[c].mean()),
        "nearest_train": lambda c: float(np.median(photos.nearest[c])),
    }
    return {name: functions[name] for name in SCORES}


def half_distances(real: PhotoSet) -> dict[str, float]:
    """Mean distances between random halves of the real photos: of other layouts, and of n / 2.

    Few photos are far apart by chance, and the fewer the farther; a set that lies nearer than this
    to the real photos of its layouts cannot be told from them by these distances.
    """
    rng = np.random.default_rng(SEED)
    count = len(real.photo)
    found: dict[str, list[float]] = {"frechet": [], "frechet_patches": []}
    for _ in range(HALVES):
        order = rng.permutation(count)
        halves = order[: count // 2], order[count // 2 :]
        for name, moments in (("frechet", real.pooled), ("frechet_patches", real.patches)):
            found[name].append(scores.frechet_distance(*map(moments.gaussian, halves)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _some_vectors(features: Float[np.ndarray, "n m d"]) -> Float[np.ndarray, "n k d"]:
    """Some of the vectors of each photo, evenly spread."""
    return features[:, spread(features.shape[1], PATCHES_A_PHOTO)]


def thumbnails(photo: UInt8[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n h w 3"]:
    """Photos at a quarter of their size, in [0, 1]."""
    height, width = (side // THUMBNAIL_PX * THUMBNAIL_PX for side in photo.shape[1:3])
    small = photo[:, :height, :width].reshape(
        len(photo), height // THUMBNAIL_PX, THUMBNAIL_PX, width // THUMBNAIL_PX, THUMBNAIL_PX, 3
    )
    return small.mean(axis=(2, 4), dtype=np.float32) / np.float32(scores.TO_8_BITS)
