"""What `Model.synthesize` returns: a photo, and where each of its segments comes from."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True)
class Source:
    """One segment of a photo, or a piece that fills it, and where it comes from.

    `box` is (y0, x0, y1, x1) in the layout's own pixels; `score` is in [0, 2], the overlap of the
    masks plus that of the contexts; `affine` [2, 3] leads from the segment's place in the photo to
    its place in the source photo, in pixels of the working size from the frame's centre, (x, y);
    `row_id` is photo * max_segments + component, photos counted in the order of their ids;
    `order` counts from the farthest back; `layer` is 0 for a segment's own piece, 1 for the one
    that shows where that leaves the component empty, and so on. Where the bank had nothing,
    `photo_id` and `row_id` are None and `affine` is the identity.
    """

    class_name: str
    box: tuple[int, int, int, int]
    photo_id: str | None
    row_id: int | None
    score: float
    affine: Float[np.ndarray, "2 3"] = dataclasses.field(repr=False)
    order: int
    used: bool
    layer: int


@dataclasses.dataclass(frozen=True)
class Result:
    """A photo, the canvas it was made of, and the sources of its segments.

    `photo` and `canvas` are float32 [H, W, 3] in [0, 1] at the layout's size; `canvas_mask` is
    float32 [H, W], 1 where the bank gave a pixel, 0 where the canvas is empty or elided; `layout`
    is uint8 [H, W] as the synthesis network saw it; `left_out` counts the segments beyond the
    static maximum. `fillings` are the pieces of further layers that show, each with the class and
    the box of the segment that it fills.
    """

    photo: Float[np.ndarray, "H W 3"]
    canvas: Float[np.ndarray, "H W 3"]
    canvas_mask: Float[np.ndarray, "H W"]
    layout: UInt8[np.ndarray, "H W"]
    segments: tuple[Source, ...]
    fillings: tuple[Source, ...]
    left_out: int

    def __repr__(self) -> str:
        height, width = self.layout.shape
        used = sum(source.used for source in self.segments)
        return (
            f"Result({height}x{width}, {used} of {len(self.segments)} segments used, "
            f"{self.left_out} left out)"
        )
