"""Light of a procedural street: sun, sky, cast shadows, haze, and the camera's response.

Radiances are linear and relative; a white wall in full sun has about 2.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sims_jax.data.street.materials import noise
from sims_jax.data.street.raster import NEAR_M, Camera, Surfaces

EXPOSURE = 1.25  # of the film curve 1 - exp(-EXPOSURE x)
GAMMA = 2.2
SENSOR_NOISE = 0.01  # standard deviation, share of full scale
FACADE_CELL_M = 0.5  # of the table of building heights
CONTACT_M = 0.35  # reach of the shade under a car
SHADED_M = 3.0  # height up to which the shade of a crown falls on things
SHADOWS_M = 70.0  # nothing farther casts a shadow that is seen
SKY_DEPTH_M = 1000.0


@dataclasses.dataclass(frozen=True)
class Light:
    """Sun and sky. `sun` points to the sun, street frame, unit length."""

    sun: tuple[float, float, float]
    sun_color: tuple[float, float, float]
    sky_color: tuple[float, float, float]  # ambient, and what glass mirrors
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    clouds: float  # share of the sky, 0 to 1
    cloud_color: tuple[float, float, float]
    haze_m: float  # distance at which 63 % of the light is haze
    exposure: float
    salt: int


class Caster(NamedTuple):
    """Something that shades the ground: an ellipse at a height, or a thin pole.

    kind: "ball" an ellipse (half axes `half_x`, `half_z`) at height `height`; "pole" a cylinder of
    radius `half_x` from the ground to `height`; "box" a ball that also darkens its contact.
    """

    kind: str
    x: float
    z: float
    half_x: float
    half_z: float
    height: float


def draw_sky(camera: Camera, light: Light, u, v) -> Float[np.ndarray, "n 3"]:
    """A vertical gradient, a brighter side towards the sun, and clouds on a flat ceiling.

    u, v: slopes of the rays that see it.
    """
    rise = np.clip(v, 0.0, None) / np.sqrt(1 + u**2)
    blend = np.exp(-rise / 0.28)[..., None]
    sky = blend * np.float32(light.horizon) + (1 - blend) * np.float32(light.zenith)
    ahead = camera.rotation() @ np.float32(light.sun)
    cosine = (u * ahead[0] + v * ahead[1] + ahead[2]) / np.sqrt(1 + u**2 + v**2)
    halo = np.clip(cosine, 0, 1)[..., None] ** 12
    sky = sky + 0.35 * halo * np.float32(light.sun_color)
    x, z = u / (rise + 0.12) / 5, 1 / (rise + 0.12) / 5
    cover = noise(x / 2 + light.salt / 7, z / 2)
    wisp = noise(x * 3, z * 3 + light.salt / 5)
    thick = np.clip((cover + 0.35 * (wisp - 0.5) - 1 + light.clouds) / 0.3, 0, 1)
    shade = np.float32(light.cloud_color) * (0.72 + 0.4 * (1 - 0.6 * thick * wisp))[..., None]
    thick = (thick * np.clip(rise / 0.06, 0.25, 1))[..., None]
    return (sky * (1 - thick) + shade * thick).astype(np.float32)


def shade_by_buildings(world, light: Light, walls) -> Float[np.ndarray, "n"]:
    """1 where the sun is seen, 0 where a row of facades stands before it.

    walls: ((x, heights), (x, heights)) of the left and the right row; heights in cells of
    FACADE_CELL_M along z from z = -heights_start.
    """
    x, y, z = world.T
    lx, ly, lz = light.sun
    wall_x, heights = walls[1] if lx > 0 else walls[0]
    away = (wall_x - x) / (lx if abs(lx) > 1e-3 else 1e-3)
    cell = ((z + away * lz) / FACADE_CELL_M + heights.size // 4).astype(np.int32)
    top = heights[np.clip(cell, 0, heights.size - 1)]
    above = y + away * ly - top
    # Half-shadows widen with the distance to the edge that casts them.
    return np.where(away > 0.05, np.clip(0.5 + above / (0.1 + 0.02 * away), 0, 1), 1)


def shade_by_caster(world, light: Light, caster: Caster):
    """What one caster leaves of the sun and of the sky, both in [0, 1]."""
    x, y, z = world[..., 0], world[..., 1], world[..., 2]
    lx, ly, lz = light.sun
    open_sky = np.ones_like(x)
    if caster.kind == "pole":
        dx, dz = x - caster.x, z - caster.z
        slope = (-lx / ly, -lz / ly)
        reach = math.hypot(*slope)
        along = (dx * slope[0] + dz * slope[1]) / reach
        across = np.abs(dx * slope[1] - dz * slope[0]) / reach
        inside = (along > 0) & (along < reach * (caster.height - y)) & (y < 0.3)
        return 1 - inside * np.clip(1.5 - across / caster.half_x, 0, 1), open_sky
    rise = (caster.height - y) / ly
    dx = (x + lx * rise - caster.x) / caster.half_x
    dz = (z + lz * rise - caster.z) / caster.half_z
    if caster.kind == "box":
        ground = y < 0.05
        inside = np.maximum(np.abs(dx), np.abs(dz))
        hidden = np.clip((1.15 - inside) / 0.15, 0, 1) * ground
        gap_x = np.maximum(np.abs(x - caster.x) - caster.half_x, 0)
        gap_z = np.maximum(np.abs(z - caster.z) - caster.half_z, 0)
        contact = np.exp(-np.hypot(gap_x, gap_z) / CONTACT_M) * ground
        return (1 - hidden) * (1 - 0.8 * contact), 1 - 0.85 * contact
    radius = np.sqrt(dx**2 + dz**2)
    leaf = noise((dx * caster.half_x / 5).ravel(), (dz * caster.half_z / 5).ravel())
    leaf = leaf.reshape(radius.shape)
    edge = np.clip((1 - radius + 0.8 * (leaf - 0.5)) / 0.12, 0, 1)
    return 1 - 0.9 * edge * (rise > 0.4 * caster.half_x), open_sky


def caster_boxes(camera: Camera, light: Light, casters: list[Caster]):
    """Where on the picture the shade of each caster can fall: (caster, rows, columns) as slices."""
    shadows = max(light.sun_color) > 0
    casters = [c for c in casters if c.z < SHADOWS_M and (shadows or c.kind == "box")]
    if not casters:
        return
    x, z, half_x, half_z, height = np.array([c[1:] for c in casters], np.float32).T
    box, ball = (np.array([c.kind == kind for c in casters]) for kind in ("box", "ball"))
    margin = 0.4 + 3 * CONTACT_M * box + 0.3 * ball
    ends = []
    for place, half, toward in ((x, half_x, light.sun[0]), (z, half_z, light.sun[2])):
        far = place - toward * height / light.sun[1]
        ends.append(
            (np.minimum(place, far) - half - margin, np.maximum(place, far) + half + margin)
        )
    top = np.where(ball, np.minimum(height, SHADED_M), 0.3)
    corners = [(a, b, c) for a in ends[0] for b in (np.zeros_like(top), top) for c in ends[1]]
    points = np.moveaxis(np.array(corners, np.float32), -1, 0) - np.float32(camera.position)
    points = points @ camera.rotation().T
    depth = np.maximum(points[..., 2], NEAR_M)
    column = camera.center_px + camera.focal_px * points[..., 0] / depth
    row = camera.horizon_px - camera.focal_px * points[..., 1] / depth
    rows, columns = (
        np.clip([at.min(1), at.max(1) + 1], 0, limit).astype(int).T
        for at, limit in zip((row, column), camera.size_px, strict=True)
    )
    for k in np.flatnonzero((points[..., 2] > NEAR_M).any(1)):
        if rows[k, 1] > rows[k, 0] and columns[k, 1] > columns[k, 0]:
            yield casters[k], slice(*rows[k]), slice(*columns[k])


def light_photo(
    camera: Camera, surfaces: Surfaces, light: Light, walls, casters: list[Caster]
) -> Float[np.ndarray, "H W 3"]:
    """Linear radiance of every sample: sun, sky, glow, haze, and the sky where it is seen."""
    solid = surfaces.thing > 0
    u, v = camera.rays()
    u, v = np.meshgrid(u, v)
    depth = np.where(solid, 1 / np.maximum(surfaces.inverse_depth, 1e-6), 1).astype(np.float32)
    seen = np.stack([u * depth, v * depth, depth], -1)
    turn = camera.rotation()
    world = seen @ turn + np.float32(camera.position)
    flat = shade_by_buildings(world.reshape(-1, 3), light, walls)
    direct, ambient = flat.reshape(depth.shape), np.ones_like(depth)
    for caster, rows, columns in caster_boxes(camera, light, casters):
        sun, sky = shade_by_caster(world[rows, columns], light, caster)
        direct[rows, columns] *= sun
        ambient[rows, columns] *= sky
    toward = turn @ np.float32(light.sun)
    lambert = np.clip(surfaces.normal @ toward, 0, None) * direct
    # A point low in a street sees less sky than one on a roof; faces that look up see more.
    ambient *= 0.72 + 0.28 * surfaces.normal[..., 1] + 0.012 * np.clip(world[..., 1], 0, 12)
    lit = lambert[..., None] * np.float32(light.sun_color)
    lit = lit + ambient[..., None] * np.float32(light.sky_color) + surfaces.glow[..., None]
    haze = np.exp(-depth / light.haze_m)[..., None]
    hazed = surfaces.rgb * lit * haze + np.float32(light.horizon) * (1 - haze)
    hazed[~solid] = draw_sky(camera, light, u[~solid], v[~solid])
    return hazed.astype(np.float32)


def expose(
    radiance: Float[np.ndarray, "h w 3"], light: Light, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Film curve, vignette, gamma and sensor noise."""
    height, width = radiance.shape[:2]
    y = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    x = (np.arange(width, dtype=np.float32) / width - 0.5)[None]
    vignette = 1 - 0.35 * (x**2 + y**2)
    value = 1 - np.exp(-EXPOSURE * light.exposure * radiance * vignette[..., None])
    value = np.clip(value, 0, 1) ** (1 / GAMMA)
    level = rng.standard_normal((height, width, 1), np.float32)
    color = rng.standard_normal((height, width, 3), np.float32)
    value = value + SENSOR_NOISE * (0.8 * level + 0.5 * color)
    return np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)
