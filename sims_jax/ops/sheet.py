"""Contact sheets, rows of pictures side by side, and pictures as files."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from sims_jax.atomic import replacing

GAP_PX = 4
PAPER, INK = 255, 0
HEADING_PX = 14


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str] = (),
    names: Sequence[Sequence[str]] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays out pictures in rows, each in a place as high and wide as the largest.

    Args:
      rows: pictures [h, w, 3], uint8, or floats in [0, 1]; rows may differ in length.
      headings: one a column; for more columns they are repeated.
      names: what stands over each picture, empty for nothing.
    """
    sizes = [np.shape(picture)[:2] for row in rows for picture in row]
    height, width = (int(side) for side in np.max(sizes, axis=0))
    columns = max(len(row) for row in rows)
    top, above = HEADING_PX * bool(headings), HEADING_PX * bool(names)
    step_y, step_x = above + height + GAP_PX, width + GAP_PX
    size = (top + len(rows) * step_y + GAP_PX, columns * step_x + GAP_PX, 3)
    sheet = np.full(size, PAPER, dtype=np.uint8)
    for c in range(columns if headings else 0):
        x = c * step_x + GAP_PX
        sheet[:top, x : x + width] = _draw_text(headings[c % len(headings)], (top, width))
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = top + r * step_y + GAP_PX, c * step_x + GAP_PX
            if names:
                sheet[y : y + above, x : x + width] = _draw_text(names[r][c], (above, width))
                y += above
            h, w, _ = np.shape(picture)
            sheet[y : y + h, x : x + w] = to_uint8(picture)
    return sheet


def _draw_text(text: str, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 1"]:
    """A line of text, cut off where there is no room."""
    strip = Image.new("L", size[::-1], PAPER)
    text = text.encode("ascii", "replace").decode()  # the built-in font may lack other letters
    ImageDraw.Draw(strip).text((0, 1), text, fill=INK)
    return np.asarray(strip)[..., None]


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
