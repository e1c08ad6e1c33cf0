"""Label maps to another size."""

import numpy as np
from jaxtyping import Array, Shaped


def resize_labels(
    labels: Shaped[Array | np.ndarray, "*B H W"], size: tuple[int, int]
) -> Shaped[Array | np.ndarray, "*B h w"]:
    """Nearest resampling, in integers: cell i of n reads input floor((i + 0.5) * N / n).

    Works alike on jax and on numpy arrays and keeps the dtype, bool included.

    Args:
      labels: label maps, or masks.
      size: (h, w), smaller or larger.
    """
    rows = _nearest_index(labels.shape[-2], size[0])
    columns = _nearest_index(labels.shape[-1], size[1])
    return labels[..., rows[:, None], columns]


def _nearest_index(length: int, new_length: int) -> np.ndarray:
    """floor((i + 0.5) * length / new_length) for i = 0 .. new_length - 1."""
    return (2 * np.arange(new_length) + 1) * length // (2 * new_length)
