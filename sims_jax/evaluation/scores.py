"""The scores of a set of photos, in numpy: sums a photo first, so that a bootstrap is cheap.

Letters: n photos, d features. Everything is float64.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

KERNEL_DEGREE = 3  # of the polynomial kernel: Binkowski et al., "Demystifying MMD GANs", 2018
FLAT_WINDOW_PX = 7  # a square of so many pixels a side, all of one colour, is flat
SPECTRUM_FLOOR = 1e-12  # of a power, before its logarithm
TO_8_BITS = 255.0


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over the feature vectors of each photo: enough for mean and covariance of any subset."""

    count: Int[np.ndarray, "n"]
    first: Float[np.ndarray, "n d"]
    second: Float[np.ndarray, "n d d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n m d"]) -> "Moments":
        """Of m vectors a photo."""
        features = np.asarray(features, np.float64)
        return cls(
            count=np.full(len(features), features.shape[1]),
            first=features.sum(axis=1),
            second=np.einsum("nmi,nmj->nij", features, features),
        )

    def gaussian(self, chosen: Int[np.ndarray, "k"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean [d] and covariance [d, d] over the chosen photos."""
        count = self.count[chosen].sum()
        mean = self.first[chosen].sum(axis=0) / count
        second = np.tensordot(np.ones(len(chosen)), self.second[chosen], axes=1)
        return mean, second / count - np.outer(mean, mean)


def frechet_distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)) of two Gaussians (mean, covariance).

    Source: Dowson and Landau 1982; Heusel et al. 2017 for photos.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    distance = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b)
    return float(max(distance - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum(), 0.0))


def frechet_distance_of_few(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """`frechet_distance` of the Gaussians of two sets of vectors, fewer than they have features.

    With centred A and B the last trace is the sum of the singular values of A B^T, which is n x m.
    Covariances are unbiased, over n - 1, as pytorch-fid's are.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1.0) for x in (a, b))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(a**2) + np.sum(b**2)
    return float(max(distance - 2.0 * cross, 0.0))


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Means of the kernel (x·y / d + 1)^3 over the vectors of each pair of photos."""

    within_a: Float[np.ndarray, "n n"]
    within_b: Float[np.ndarray, "n n"]
    between: Float[np.ndarray, "n n"]

    @classmethod
    def of(cls, a: Float[np.ndarray, "n m d"], b: Float[np.ndarray, "n m d"]) -> "Kernels":
        def means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            vectors = y.reshape(-1, y.shape[-1]).astype(np.float64)

            def of_photo(own: np.ndarray) -> np.ndarray:
                kernel = (own.astype(np.float64) @ vectors.T / x.shape[-1] + 1.0) ** KERNEL_DEGREE
                return kernel.mean(axis=0).reshape(y.shape[:2]).mean(axis=1)

            return np.stack([of_photo(own) for own in x])

        return cls(means(a, a), means(b, b), means(a, b))


def kernel_distance(kernels: Kernels, chosen: Int[np.ndarray, "k"]) -> float:
    """Squared maximum mean discrepancy of the chosen photos of two sets; it may be below 0.

    Unbiased: no photo is compared with itself, nor with its own counterpart in the other set; so
    of a single photo it is NaN.
    Source: Binkowski et al. 2018.
    """
    differ = chosen[:, None] != chosen
    if not differ.any():
        return float("nan")

    def mean(kernel: np.ndarray) -> float:
        return kernel[np.ix_(chosen, chosen)][differ].mean()

    within = mean(kernels.within_a) + mean(kernels.within_b)
    return float(within - 2.0 * mean(kernels.between))


def log_spectrum(photos: Float[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n bins"]:
    """Radial mean of the log power spectrum of each photo's grey, by whole cycles a frame's height.

    A Hann window keeps the frame's own edges out of it. Source: SIMS, Sec. 7.
    """
    grey = photos.astype(np.float64).mean(axis=-1)
    _, height, width = grey.shape
    grey = grey - grey.mean(axis=(1, 2), keepdims=True)
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.rfft2(grey * window)) ** 2 / (height * width)
    y = np.fft.fftfreq(height) * height
    x = np.fft.rfftfreq(width) * height  # as many pixels a cycle along both axes
    ring = np.round(np.hypot(y[:, None], x)).astype(int)
    bins = height // 2
    counted = (ring > 0) & (ring <= bins)
    logs = np.log(power[:, counted] + SPECTRUM_FLOOR)
    sums = np.stack([np.bincount(ring[counted], each, bins + 1)[1:] for each in logs])
    return sums / np.bincount(ring[counted], minlength=bins + 1)[1:]


def mean_gradient(photos: Float[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n"]:
    """Mean length of the grey's gradient in each photo."""
    grey = photos.astype(np.float64).mean(axis=-1)
    down, right = np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1]
    return np.hypot(down, right).mean(axis=(1, 2))


def mean_chroma(photos: Float[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n 2"]:
    """Mean of red and of blue against green in each photo, in 8-bit steps."""
    chroma = photos[..., ::2].astype(np.float64) - photos[..., 1:2]
    return TO_8_BITS * chroma.mean(axis=(1, 2))


def flat_share(photos: UInt8[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n"]:
    """Share of the squares of `FLAT_WINDOW_PX` in each photo that are all of one colour, not white.

    Cameras make white areas of bright skies; areas of any other colour are holes.
    """
    squares = np.lib.stride_tricks.sliding_window_view(photos, [FLAT_WINDOW_PX] * 2, (1, 2))
    squares = squares[:, ::FLAT_WINDOW_PX, ::FLAT_WINDOW_PX]  # side by side
    low, high = squares.min(axis=(-2, -1)), squares.max(axis=(-2, -1))
    return ((low == high).all(axis=-1) & (low < TO_8_BITS).any(axis=-1)).mean(axis=(1, 2))


def nearest_distance(
    photos: Float[np.ndarray, "n h w 3"], others: Float[np.ndarray, "k h w 3"]
) -> Float[np.ndarray, "n"]:
    """Root mean square difference of each photo to the nearest of the others, in 8-bit steps."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (photos, others))
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return TO_8_BITS * np.sqrt(np.maximum(square.min(axis=1), 0.0) / a.shape[1])


def bootstrap(
    score: Callable[[Int[np.ndarray, "n"]], float], count: int, draws: int, level: float, seed: int
) -> tuple[float, float, float]:
    """(score of all, low, high): a basic interval over photos drawn with replacement.

    The spread of the draws is taken about the score of all, mirrored: drawing photos twice raises
    a distance, and percentiles of the draws would not even hold the score.

    Args:
      score: of the photos of these indices.   count: n.
      draws: how many samples.   level: of the interval, such as 0.95.
    """
    rng = np.random.default_rng(seed)
    values = [score(rng.integers(count, size=count)) for _ in range(draws)]
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    whole = float(score(np.arange(count)))
    return whole, float(2.0 * whole - high), float(2.0 * whole - low)
