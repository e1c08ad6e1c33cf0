"""What a bank stores of one photo: its fields at the bank's size, and a row for every segment.

    photo            uint8 [H, W, 3]
    layout           uint8 [H, W], void 255
    component        int16 [H, W], the segment at each pixel, -1 where there is none
    coarse           uint8 [H, W], void 255, the dataset's or simulated
    instances        uint16 [H, W], 0 where there is none, if the bank has them
    depth            float32 [H, W], metres, 0 unknown, if the bank has it
    row_geometry     int32 [n, 7]: component, class, area in pixels, box y0 x0 y1 x1
    row_appearance   float32 [n, 13]: colour mean 3 and covariance 9, median depth or 0

Letters as in `sims_jax.types`; n is the number of the photo's segments.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from sims_jax.data.coarse import draw_coarse
from sims_jax.data.example import OPTIONAL_FIELDS, Example
from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.ops.resize import resize_labels
from sims_jax.types import BankSpec, Segments

WHITE = 255  # of a stored photo


def image_fields(spec: BankSpec) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of every image that a part may have, by name."""
    size = tuple(spec.image_size)
    fields = {"photo": ((*size, 3), np.uint8), "layout": (size, np.uint8)}
    fields |= {"component": (size, np.int16)}
    return fields | {field: (size, dtype) for field, dtype in OPTIONAL_FIELDS.items()}


def prepare_example(example: Example, spec: BankSpec) -> Example:
    """The example at the bank's resolution: photo bilinear, everything else nearest.

    Raises:
      InputError: shapes that disagree, or ids that the label space does not have.
    """
    photo, layout = np.asarray(example["photo"]), np.asarray(example["layout"])
    name = f"photo {example['id']!r}"
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
        raise InputError(
            f"{name}: found {photo.dtype} {photo.shape}, expected uint8 (H, W, 3); convert it"
        )
    _check_ids(layout, name, "layout", spec)
    prepared = {
        "id": str(example["id"]),
        "video": str(example["video"]),
        "frame": int(example["frame"]),
        "photo": resize_photo(photo, spec.image_size),
        "layout": _resize_field(layout.astype(np.uint8), photo, name, "layout", spec),
    }
    for field, dtype in OPTIONAL_FIELDS.items():
        if field in example:
            values = np.asarray(example[field])
            if field == "coarse":
                _check_ids(values, name, field, spec)
            prepared[field] = _resize_field(values.astype(dtype), photo, name, field, spec)
    return prepared


def _check_ids(layout: np.ndarray, name: str, field: str, spec: BankSpec) -> None:
    classes = spec.labels.num_classes
    ids = np.unique(layout)
    unknown = ids[(ids < 0) | ((ids >= classes) & (ids != VOID))]
    if unknown.size:
        raise InputError(
            f"{name}: found ids {unknown.tolist()} in its {field}, expected 0 to {classes - 1} "
            f"or {VOID} (label space {spec.labels.name}); map them to classes or to void"
        )


def as_float(photo: UInt8[Array | np.ndarray, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """A stored photo in [0, 1]."""
    return jnp.asarray(photo).astype(jnp.float32) / WHITE


def resize_photo(
    photo: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """A photo at the size it is stored at: bilinear, antialiased."""
    if photo.shape[:2] == tuple(size):
        return photo
    # Pillow's bilinear filter widens when shrinking (antialiased), and compiles nothing for
    # each new size of a dataset of many sizes.
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))


def _resize_field(
    values: np.ndarray, photo: np.ndarray, name: str, field: str, spec: BankSpec
) -> np.ndarray:
    if values.shape != photo.shape[:2]:
        raise InputError(
            f"{name}: found a {field} of shape {values.shape}, expected {photo.shape[:2]} as "
            "the photo; pair them again"
        )
    return np.ascontiguousarray(resize_labels(values, tuple(spec.image_size)))


def describe_photo(
    example: Example, segments: Segments
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (see above) and the metadata of a prepared example's part."""
    rows = np.flatnonzero(segments.class_id >= 0).astype(np.int32)
    mean, cov = color_moments(example["photo"], segments.component, segments.class_id.size)
    depth_m = median_depth(example.get("depth"), segments.component, rows)
    geometry = [rows[:, None], segments.class_id[rows, None], segments.area_px[rows, None]]
    arrays = {
        "photo": example["photo"],
        "layout": example["layout"],
        "component": segments.component.astype(np.int16),
        "row_geometry": np.concatenate([*geometry, segments.box_yx[rows]], axis=1, dtype=np.int32),
        "row_appearance": np.concatenate(
            [mean[rows], cov[rows].reshape(-1, 9), depth_m[:, None]], axis=1, dtype=np.float32
        ),
    }
    arrays |= {field: example[field] for field in OPTIONAL_FIELDS if field in example}
    if "coarse" not in example:
        arrays["coarse"] = draw_coarse(example["layout"], segments.component)
    meta = {
        "id": example["id"],
        "video": example["video"],
        "frame": example["frame"],
        "segments": int(rows.size),
        "left_out": int(segments.left_out),
    }
    return arrays, meta


def color_moments(
    photo: np.ndarray, component: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [count, 3] and covariance [count, 3, 3] of each segment's colours in [0, 1]."""
    index = component.ravel() + 1
    colors = photo.reshape(-1, 3).astype(np.float64) / WHITE
    # Float64 sums in raster order: the same bits, and so the same digest, on every machine.
    total = functools.partial(np.bincount, index, minlength=count + 1)
    area = np.maximum(total()[1:], 1)
    mean = np.stack([total(colors[:, c])[1:] / area for c in range(3)], axis=-1)
    centred = colors - np.concatenate([np.zeros((1, 3)), mean])[index]
    cov = np.empty((count, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            cov[:, a, b] = cov[:, b, a] = total(centred[:, a] * centred[:, b])[1:] / area
    return mean, cov


def median_depth(depth: np.ndarray | None, component: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Median of each segment's known depths, metres; 0 where none is known."""
    if depth is None:
        return np.zeros(rows.size, np.float32)
    known = [depth[(component == row) & (depth > 0)] for row in rows]
    return np.array([np.median(values) if values.size else 0 for values in known], np.float32)
