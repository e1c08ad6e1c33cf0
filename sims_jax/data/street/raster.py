"""A z-buffer for painted rectangles under a pinhole camera, in numpy.

Frames. Street: x to the right, y up, z along the street, metres. Camera: the street frame moved
to the camera and turned by its yaw about the vertical; depth is the camera's z. The picture's
vertical shift (`horizon_px`) replaces pitch, so that verticals stay vertical.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int32

from sims_jax.data.street.materials import Patch

NEAR_M = 0.25  # nothing nearer is drawn
LEAST_INVERSE = 1e-5  # 1/m; a plane is never seen as far as this


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole; all lengths in samples (the supersampled pixels) or metres."""

    size_px: tuple[int, int]
    focal_px: float
    center_px: float  # column of the optical axis
    horizon_px: float  # row of the horizon
    position: tuple[float, float, float]
    yaw: float  # radians, positive looks to the right

    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Street to camera."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)

    def rays(self) -> tuple[Float[np.ndarray, "W"], Float[np.ndarray, "H"]]:
        """Slopes x/z of the columns and y/z of the rows."""
        height, width = self.size_px
        u = (np.arange(width) + 0.5 - self.center_px) / self.focal_px
        v = (self.horizon_px - np.arange(height) - 0.5) / self.focal_px
        return u.astype(np.float32), v.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Panel:
    """A painted rectangle: origin + s along + h up, s in [s0, s1], h in [h0, h1], metres.

    Args:
      origin, along, up: street frame; along and up are unit vectors at a right angle.
      extent: (s0, s1, h0, h1).
      paint: (s, h, px) -> Patch.
      thing: index of the thing it is part of.
      relief: the most its paint comes out of the plane towards the camera, metres.
    """

    origin: Sequence[float]
    along: Sequence[float]
    up: Sequence[float]
    extent: tuple[float, float, float, float]
    paint: Callable[..., Patch]
    thing: int
    relief: float = 0.0


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """What each sample of the picture sees; `thing` is 0 where it sees the sky."""

    inverse_depth: Float[np.ndarray, "H W"]
    thing: Int32[np.ndarray, "H W"]
    rgb: Float[np.ndarray, "H W 3"]
    normal: Float[np.ndarray, "H W 3"]  # camera frame
    glow: Float[np.ndarray, "H W"]


def screen_boxes(camera: Camera, corners: Float[np.ndarray, "p 4 3"]) -> Int32[np.ndarray, "p 4"]:
    """Half-open boxes (y0, x0, y1, x1), in samples, of quads given in the camera frame.

    The part of a quad nearer than NEAR_M is cut off; a quad wholly nearer has an empty box.
    """
    following = np.roll(corners, -1, axis=1)
    step = following[..., 2] - corners[..., 2]
    crossing = (corners[..., 2] > NEAR_M) != (following[..., 2] > NEAR_M)
    share = np.where(crossing, (NEAR_M - corners[..., 2]) / np.where(crossing, step, 1), 0)
    cut = corners + share[..., None] * (following - corners)
    points = np.concatenate([corners, cut], axis=1)
    seen = np.concatenate([corners[..., 2] > NEAR_M, crossing], axis=1)
    depth = np.where(seen, np.maximum(points[..., 2], NEAR_M), 1)
    column = camera.center_px + camera.focal_px * points[..., 0] / depth
    row = camera.horizon_px - camera.focal_px * points[..., 1] / depth
    height, width = camera.size_px
    low = [np.where(seen, a, np.inf).min(1).clip(0, n) for a, n in ((row, height), (column, width))]
    high = [np.where(seen, a, 0).max(1).clip(0, n) for a, n in ((row, height), (column, width))]
    boxes = np.stack([np.floor(low[0]), np.floor(low[1]), np.ceil(high[0]), np.ceil(high[1])], -1)
    return boxes.astype(np.int32)


def draw_panels(camera: Camera, panels: Sequence[Panel]) -> Surfaces:
    """Draws all panels; at each sample the nearest one stays."""
    height, width = camera.size_px
    count = height * width
    buffers = Surfaces(
        inverse_depth=np.zeros(count, np.float32),
        thing=np.zeros(count, np.int32),
        rgb=np.zeros((count, 3), np.float32),
        normal=np.zeros((count, 3), np.float32),
        glow=np.zeros(count, np.float32),
    )
    turn = camera.rotation()
    eye = np.array(camera.position, np.float32)
    origin = (np.array([p.origin for p in panels], np.float32) - eye) @ turn.T
    along = np.array([p.along for p in panels], np.float32) @ turn.T
    up = np.array([p.up for p in panels], np.float32) @ turn.T
    extent = np.array([p.extent for p in panels], np.float32)
    out = np.cross(along, up)
    offset = (out * origin).sum(1)
    out, offset = np.where(offset[:, None] > 0, -out, out), -np.abs(offset)
    s, h = extent[:, [0, 1, 1, 0], None], extent[:, [2, 2, 3, 3], None]
    corners = origin[:, None] + s * along[:, None] + h * up[:, None]
    boxes = screen_boxes(camera, corners)
    rays = camera.rays()
    curved = np.zeros(len(panels) + 1, bool)
    # Nearest first: what lies behind is then never painted.
    for index in np.argsort(corners[..., 2].mean(1)):
        y0, x0, y1, x1 = boxes[index]
        if y1 > y0 and x1 > x0 and offset[index] < -1e-4:
            frame = (origin[index], along[index], up[index], out[index], offset[index])
            curved[index + 1] = draw_panel(
                camera, rays, buffers, panels[index], index + 1, frame, boxes[index]
            )
    owner = buffers.thing
    flat = np.concatenate([np.zeros((1, 3), np.float32), out])
    normal = np.where(curved[owner, None], buffers.normal, flat.take(owner, 0))
    things = np.array([0, *(panel.thing for panel in panels)], np.int32)
    return Surfaces(
        inverse_depth=buffers.inverse_depth.reshape(height, width),
        thing=things[owner].reshape(height, width),
        rgb=buffers.rgb.reshape(height, width, 3),
        normal=normal.reshape(height, width, 3),
        glow=buffers.glow.reshape(height, width),
    )


def draw_panel(camera: Camera, rays, buffers: Surfaces, panel: Panel, owner, frame, box) -> bool:
    """Draws one panel into the flat buffers, `owner` into `thing`; whether it wrote normals.

    With n the normal and o the origin, the ray t d meets the plane at 1 / t = (n·d) / (n·o),
    which is affine over the picture; there s = t (a·d) - a·o.
    """
    origin, along, up, out, offset = frame
    y0, x0, y1, x1 = box
    u, v = rays[0][None, x0:x1], rays[1][y0:y1, None]
    inverse = (out[0] * u + out[1] * v + out[2]) / offset
    stored = buffers.inverse_depth.reshape(camera.size_px)[y0:y1, x0:x1]
    # Whether 1 / (depth - relief) > stored, without a division.
    hit = (inverse > (1 - panel.relief * inverse) * stored) & (inverse < 1 / NEAR_M)
    if not hit.any():
        return False
    depth = 1 / np.maximum(inverse, LEAST_INVERSE)
    s = depth * (along[0] * u + along[1] * v + along[2]) - along @ origin
    h = depth * (up[0] * u + up[1] * v + up[2]) - up @ origin
    s0, s1, h0, h1 = panel.extent
    hit &= (s >= s0) & (s <= s1) & (h >= h0) & (h <= h1) & (inverse > LEAST_INVERSE)
    cell = np.flatnonzero(hit)
    if not cell.size:
        return False
    s, h, inverse, depth = (values.ravel().take(cell) for values in (s, h, inverse, depth))
    row, column = np.divmod(cell, x1 - x0)
    index = (row + y0) * camera.size_px[1] + column + x0
    patch = panel.paint(s, h, depth / camera.focal_px)
    if patch.relief is not None:
        inverse = 1 / np.maximum(depth - patch.relief, NEAR_M)
    keep = inverse > buffers.inverse_depth.take(index)
    if patch.keep is not None:
        keep &= patch.keep
    kept = np.flatnonzero(keep)
    index = index.take(kept)
    buffers.inverse_depth[index] = inverse.take(kept)
    buffers.thing[index] = owner
    buffers.rgb[index] = patch.rgb.take(kept, 0)
    buffers.glow[index] = 0 if patch.glow is None else patch.glow.take(kept)
    if patch.normal is None:
        return False
    buffers.normal[index] = patch.normal.take(kept, 0) @ np.stack([along, up, out])
    return True
