"""Contact sheets, rows of pictures side by side, and pictures as files."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sims_jax.atomic import replacing

GAP_PX = 4
PAPER = 255  # white


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> UInt8[np.ndarray, "H W 3"]:
    """Lays out pictures in rows, each in a place as high and wide as the largest.

    Args:
      rows: pictures [h, w, 3], uint8, or floats in [0, 1]; rows may differ in length.
    """
    sizes = [np.shape(picture)[:2] for row in rows for picture in row]
    height, width = np.max(sizes, axis=0)
    columns = max(len(row) for row in rows)
    step_y, step_x = height + GAP_PX, width + GAP_PX
    size = (len(rows) * step_y + GAP_PX, columns * step_x + GAP_PX, 3)
    sheet = np.full(size, PAPER, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = r * step_y + GAP_PX, c * step_x + GAP_PX
            h, w, _ = np.shape(picture)
            sheet[y : y + h, x : x + w] = to_uint8(picture)
    return sheet


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to bytes; bytes stay as they are."""
    picture = np.asarray(picture)
    if picture.dtype == np.uint8:
        return picture
    return np.round(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)


def write_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a PNG whole or not at all; floats in [0, 1] or bytes, [H, W, 3]."""
    with replacing(path) as temporary:
        Image.fromarray(to_uint8(picture)).save(temporary, format="PNG")
