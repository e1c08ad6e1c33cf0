"""How well a segmentation agrees with the labels: from one confusion matrix, summed over images."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from sims_jax.labels import VOID


def confusion_matrix(
    prediction: Integer[Array | np.ndarray, "*B H W"],
    labels: Integer[Array | np.ndarray, "*B H W"],
    num_classes: int,
) -> Int[Array, "classes channels"]:
    """Pixels by (label, prediction); void labels are not counted.

    Args:
      prediction: class ids; ids of no class (void) are counted in the last column.
      labels: class ids below C, or void (255).
      num_classes: C.

    Returns:
      int32 [C, C + 1]. Sum matrices of many images as int64 on the host.
    """
    columns = num_classes + 1
    row = jnp.asarray(labels).astype(jnp.int32).reshape(-1)
    column = jnp.asarray(prediction).astype(jnp.int32).reshape(-1)
    column = jnp.where((column >= 0) & (column < num_classes), column, num_classes)
    counted = (row != VOID) & (row >= 0) & (row < num_classes)
    # Pixels that do not count go to one cell beyond the matrix, which is cut off.
    cell = jnp.where(counted, row * columns + column, num_classes * columns)
    counts = jnp.bincount(cell, length=num_classes * columns + 1)
    return counts[:-1].reshape(num_classes, columns)


def class_iou(
    confusion: Integer[Array | np.ndarray, "classes channels"],
) -> Float[np.ndarray, "classes"]:
    """Intersection over union of each class; NaN of one that is neither labelled nor predicted."""
    counts = np.asarray(confusion, np.float64)
    intersection = np.diagonal(counts)
    union = counts.sum(axis=1) + counts[:, : len(counts)].sum(axis=0) - intersection
    return np.divide(intersection, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(confusion: Integer[Array | np.ndarray, "classes channels"]) -> float:
    """Mean of `class_iou` over the classes that are present; NaN where none is."""
    each = class_iou(confusion)
    present = ~np.isnan(each)
    return float(each[present].mean()) if present.any() else float("nan")


def pixel_accuracy(confusion: Integer[Array | np.ndarray, "classes channels"]) -> float:
    """Share of the labelled pixels that are predicted right; NaN where none is labelled."""
    counts = np.asarray(confusion, np.float64)
    labelled = counts.sum()
    return float(np.trace(counts) / labelled) if labelled else float("nan")
