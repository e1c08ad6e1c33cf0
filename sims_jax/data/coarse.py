"""Coarse annotations simulated from exact ones: what a densifier learns from, where none are given.

Source: SIMS, Sec. 6, uses Cityscapes' own.
"""

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw

from sims_jax.labels import VOID

COARSE_EROSION_FRAC = 0.012  # of the height; about the margin of Cityscapes' coarse polygons
COARSE_AREA_FRAC = 0.002  # of the frame; smaller segments get no polygon
COARSE_KNOTS = 6  # rows at which a polygon has corners


def draw_coarse(
    layout: UInt8[np.ndarray, "H W"], segment: Int[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W"]:
    """A coarse annotation: straight-edged polygons inside the eroded segments, void between.

    `segment` numbers the segments from 0; what is below 0 gets no polygon. A segment whose outline
    is smoother than the layout's is of the class that most of it has. Differs from hand-drawn
    ones: a polygon is the hull of the segment's left and right ends on a few rows, cut where it
    leaves the eroded class.
    """
    height, width = layout.shape
    radius = max(round(COARSE_EROSION_FRAC * height), 1)
    inner = np.ones(layout.shape, bool)
    for axis in (0, 1):
        for step in range(1, radius + 1):
            low = np.take(layout, range(step, layout.shape[axis]), axis)
            same = low == np.take(layout, range(layout.shape[axis] - step), axis)
            for window in (slice(step, None), slice(None, -step)):
                where = [slice(None)] * 2
                where[axis] = window
                inner[tuple(where)] &= same
    coarse = np.full(layout.shape, VOID, np.uint8)
    boxes = find_boxes(np.where(inner, segment + 1, 0))
    for index, (y0, x0, y1, x1) in boxes.items():
        drawn, region = layout[y0:y1, x0:x1], coarse[y0:y1, x0:x1]
        mask = inner[y0:y1, x0:x1] & (segment[y0:y1, x0:x1] == index - 1)
        class_id = np.bincount(drawn[mask]).argmax()
        same = inner[y0:y1, x0:x1] & (drawn == class_id)
        mask &= same
        if mask.sum() < max(COARSE_AREA_FRAC * height * width, 4):
            continue
        region[draw_polygon(mask) & same] = class_id
    return coarse


def find_boxes(segment: Int[np.ndarray, "H W"]) -> dict[int, tuple[int, int, int, int]]:
    """Half-open boxes (y0, x0, y1, x1) of the numbers above 0."""
    rows, columns = np.nonzero(segment)
    order = np.argsort(segment[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    values, starts = np.unique(segment[rows, columns], return_index=True)
    if not values.size:
        return {}
    low = [np.minimum.reduceat(a, starts) for a in (rows, columns)]
    high = [np.maximum.reduceat(a, starts) + 1 for a in (rows, columns)]
    return {
        int(v): (int(a), int(b), int(c), int(d))
        for v, a, b, c, d in zip(values, *low, *high, strict=True)
    }


def draw_polygon(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The polygon through the left and right ends of a mask on COARSE_KNOTS rows."""
    rows = np.flatnonzero(mask.any(1))
    knots = rows[np.unique(np.linspace(0, rows.size - 1, COARSE_KNOTS).round().astype(int))]
    left = mask[knots].argmax(1)
    right = mask.shape[1] - 1 - mask[knots, ::-1].argmax(1)
    corners = [*zip(left, knots, strict=True), *zip(right[::-1], knots[::-1], strict=True)]
    picture = Image.new("1", mask.shape[::-1])
    corners = [(int(x), int(y)) for x, y in corners]
    ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
    return np.asarray(picture, bool)
