"""The values that flow through sims_jax, with their shapes stated once.

Letters used in every shape of the project:

    H W   an image at the model's working size, pixels
    h w   the retrieval grid, cells over the whole frame
    C     classes of the label space (void is not one of them)
    N     static maximum of segments a layout
    R     rows of a memory bank, padding included      P   photos of it
    K     candidates retrieved for a segment           B   batch

Boxes are half-open `(y0, x0, y1, x1)`. Padding has `class_id` -1; "no row" is -1.
Images are float32 in [0, 1], except in storage, where they are uint8.
"""

import dataclasses

from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from sims_jax.labels import LabelSpace


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """What a memory bank and the layouts asked of it have in common.

    Args:
      labels: the label space.
      image_size: (H, W), the size photos are stored at and the model works at.
      grid: (h, w), the retrieval grid.
      max_segments: N; of a layout with more components the largest N are kept.
      min_area_frac: smaller components, as a fraction of the frame, are no segments.
    """

    labels: LabelSpace
    image_size: tuple[int, int]
    grid: tuple[int, int]
    max_segments: int
    min_area_frac: float


@struct.dataclass
class Segments:
    """The connected components of one layout, in raster order of their first pixel."""

    component: Int[Array, "*B H W"]  # index of the segment at each pixel, -1 where there is none
    class_id: Int[Array, "*B N"]
    area_px: Int[Array, "*B N"]
    box_yx: Int[Array, "*B N 4"]
    left_out: Int[Array, "*B"]  # components beyond the static maximum

    @property
    def valid(self) -> Bool[Array, "*B N"]:
        return self.class_id >= 0


@struct.dataclass
class Rows:
    """What retrieval reads: one row a stored segment, sorted by (class, photo, component)."""

    photo: Int[Array, "R"]
    component: Int[Array, "R"]
    class_id: Int[Array, "R"]
    area: Int[Array, "R"]  # grid cells
    box_yx: Int[Array, "R 4"]  # grid cells, not enlarged
    mask: UInt32[Array, "R words"]  # the segment's cells, packed
    layouts: UInt8[Array, "P h w"]  # the photos' layouts on the grid
    spec: BankSpec = struct.field(pytree_node=False)


@struct.dataclass
class Photos:
    """What composition reads: every photo once, with its component map."""

    photo: UInt8[Array, "P H W 3"]
    component: Int[Array, "P H W"]  # -1 where there is no row


@struct.dataclass
class Bank:
    """The memory bank on the devices; sharded over rows and over photos."""

    rows: Rows
    photos: Photos


@struct.dataclass
class Matches:
    """For every segment of a batch of layouts, the bank's best rows. May be edited."""

    segments: Segments
    row: Int[Array, "B N K"]  # best first, -1 where the class has no (further) row
    score: UInt32[Array, "B N K"]
    chosen: Int[Array, "B N"]  # which of the K is used


@struct.dataclass
class Pixels:
    """The winners' pixels: for each segment the photo its row is cut from, and the cut."""

    photo: UInt8[Array, "*B N H W 3"]
    mask: Bool[Array, "*B N H W"]


@struct.dataclass
class Canvas:
    """What the bank gives the synthesis network: real pixels, and where there are none."""

    rgb: Float[Array, "*B H W 3"]  # elided pixels are white, empty ones black
    mask: Float[Array, "*B H W"]  # 1 where a segment gave the pixel, 0 where empty or elided
    source: Int[Array, "*B H W"]  # the segment that lies on top, elided or not; -1 where empty
    layout: UInt8[Array, "*B H W"]  # the layout that goes with it


@struct.dataclass
class Synthesis:
    """A photo and where it came from."""

    photo: Float[Array, "*B H W 3"]
    canvas: Canvas
    affine: Float[Array, "*B N 2 3"]  # target to source, pixels from the frame's centre, (x, y)
    rank: Int[Array, "*B N"]  # 0 lies farthest back
    used: Bool[Array, "*B N"]  # the segment has a pixel on the canvas
