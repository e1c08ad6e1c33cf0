"""The values that flow through sims_jax, with their shapes stated once.

Letters used in every shape of the project:

    H W   an image at the model's working size, pixels
    h w   the retrieval grid, cells over the whole frame
    C     classes of the label space (void is not one of them)
    N     static maximum of segments a layout
    J     pieces of a canvas: N segments, then N pieces that fill them, ...
    R     rows of a memory bank                        P   photos of it
    K     candidates retrieved for a segment           B   batch

Boxes are half-open `(y0, x0, y1, x1)`. Padding has `class_id` -1; "no row" is -1.
Images are float32 in [0, 1], except in storage, where they are uint8.
"""

import dataclasses

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Int16, UInt8, UInt16, UInt32

from sims_jax.labels import LabelSpace

TILE = 32  # rows of a bank that are looked at together
BANK_AXIS = "bank"  # of the mesh a bank is sharded over


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """What a memory bank and the layouts asked of it have in common.

    Args:
      labels: the label space.
      image_size: (H, W), the size photos are stored at and the model works at.
      grid: (h, w), the retrieval grid.
      max_segments: N; of a layout with more components the largest N are kept.
      min_area_frac: smaller components, as a fraction of the frame, are no segments.
      smoothing_frac: of the frame's height; how far ragged outlines between context classes are
        smoothed before a layout is split. 0: not at all.
    """

    labels: LabelSpace
    image_size: tuple[int, int]
    grid: tuple[int, int]
    max_segments: int
    min_area_frac: float
    smoothing_frac: float = 0.0


@struct.dataclass
class Segments:
    """The components of a layout, smoothed by its spec, or pieces of them.

    In raster order of their first pixels.
    """

    component: Int[Array, "*B H W"]  # index of the segment at each pixel, -1 where there is none
    class_id: Int[Array, "*B N"]
    area_px: Int[Array, "*B N"]
    box_yx: Int[Array, "*B N 4"]
    left_out: Int[Array, "*B"]  # segments beyond the static maximum

    @property
    def valid(self) -> Bool[Array, "*B N"]:
        return self.class_id >= 0


@struct.dataclass
class Rows:
    """What retrieval reads: one row a stored segment, in tiles of TILE rows of one class.

    A row's number is photo * N + component: it says where its pixels are, and orders ties. Each of
    D devices has the photos of one remainder modulo D with all their rows; its share is sorted by
    class and, within one, so that the rows of a tile lie alike in the frame. T tiles are those of
    all shares, one after the other.
    Cells are packed as in `sims_jax.bank.grid`.
    """

    row: Int[Array, "T tile"]  # -1 where a tile is filled up
    envelope: Int[Array, "E _T"]  # of the outlines of a tile: 12 a share, which is padded
    outline: Int[Array, "T 10 tile"]  # as in `sims_jax.bank.grid`
    mask_parts: UInt8[Array, "T parts tile"] | UInt16[Array, "T parts tile"]  # counts of cells
    context_parts: UInt8[Array, "T counts tile"] | UInt16[Array, "T counts tile"]
    mask: UInt32[Array, "T tile words"]
    labels: UInt32[Array, "P blocks bits lanes"]  # the photos' class ids on the grid
    first_tile: Int[Array, "D ends"]  # of each class in the share, and the end: C + 1
    spec: BankSpec = struct.field(pytree_node=False)
    class_tiles: int = struct.field(pytree_node=False)  # no class has more of them in a share
    mesh: jax.sharding.Mesh | None = struct.field(pytree_node=False)  # None for one device
    on_cpu: bool = struct.field(pytree_node=False)  # searched in small pieces and steps


@struct.dataclass
class Photos:
    """What composition reads: every photo once, with its component map; as `Rows.labels` ordered.

    Photo p is entry p // D of share p % D.
    """

    photo: UInt8[Array, "P H W 3"]
    component: Int16[Array, "P H W"]  # -1 where there is no row


@struct.dataclass
class Bank:
    """The memory bank on the devices; sharded over photos, and their rows with them."""

    rows: Rows
    photos: Photos
    light: Int[Array, "P 3"]  # of photo row // N, on every device


@struct.dataclass
class Matches:
    """For every segment of a batch of layouts, the bank's best rows. May be edited."""

    segments: Segments
    row: Int[Array, "B N K"]  # as retrieved, best first; -1 where the class has no (further) row
    score: UInt32[Array, "B N K"]
    chosen: Int[Array, "B N"]  # which of the K is used


@struct.dataclass
class Pixels:
    """The winners' pixels: for each piece the photo its row is cut from, and the cut."""

    photo: UInt8[Array, "*B J H W 3"]
    mask: Bool[Array, "*B J H W"]


@struct.dataclass
class Pieces:
    """What a canvas is pasted of: photos, and of each piece the photo and what is cut from it.

    Where one device holds the whole bank the photos are the bank's own: none is copied.
    """

    photos: Photos
    place: Int[Array, "*B J"]  # in `photos`
    component: Int[Array, "*B J"]  # of that photo; -1 for nothing


@struct.dataclass
class Canvas:
    """What the bank gives the synthesis network: real pixels, and where there are none."""

    rgb: Float[Array, "*B H W 3"]  # elided pixels are white, empty ones black
    mask: Float[Array, "*B H W"]  # 1 where a segment gave the pixel, 0 where empty or elided
    source: Int[Array, "*B H W"]  # the piece that lies on top, elided or not; -1 where empty
    layout: UInt8[Array, "*B H W"]  # the layout that goes with it


@struct.dataclass
class Synthesis:
    """A photo and where it came from."""

    photo: Float[Array, "*B H W 3"]
    canvas: Canvas
    affine: Float[Array, "*B J 2 3"]  # target to source, pixels from the frame's centre, (x, y)
    rank: Int[Array, "*B J"]  # 0 lies farthest back
    used: Bool[Array, "*B J"]  # the piece has a pixel on the canvas
