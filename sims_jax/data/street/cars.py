"""Cars, vans and lorries: solids with a side profile, painted panel by panel."""

import dataclasses
import functools
import itertools

import numpy as np

from sims_jax.data.street.materials import Patch, grain, noise, put, tint
from sims_jax.data.street.raster import Panel

SILL_M = 0.28  # the body's lower edge
WHEEL_M = 0.32  # radius
AXLES = (0.17, 0.81)  # share of the length, from the rear
TYRE = (0.015, 0.015, 0.015)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A side profile, metres: z along the car from the rear, y up.

    deck, belt, nose: heights of the body at the rear, under the windows and at the front.
    glass_z: rear and front end of the windows at the belt; roof_z: of the roof.
    """

    length: float
    width: float
    deck: float
    belt: float
    nose: float
    roof: float
    glass_z: tuple[float, float]
    roof_z: tuple[float, float]
    taper: float  # how much narrower the roof is, share of the width
    side_windows: bool = True


SHAPES = {
    "sedan": Shape(4.5, 1.76, 0.98, 0.95, 0.72, 1.42, (0.75, 3.3), (1.45, 2.6), 0.2),
    "hatch": Shape(3.9, 1.7, 0.95, 0.95, 0.74, 1.47, (0.08, 2.95), (0.55, 2.25), 0.18),
    "estate": Shape(4.6, 1.78, 0.97, 0.95, 0.74, 1.48, (0.08, 3.35), (0.4, 2.6), 0.17),
    "suv": Shape(4.5, 1.86, 1.1, 1.1, 0.98, 1.75, (0.06, 3.4), (0.35, 2.7), 0.13),
    "van": Shape(5.2, 1.95, 1.2, 1.2, 1.02, 2.25, (0.02, 4.5), (0.06, 3.9), 0.06, False),
    "lorry": Shape(7.5, 2.3, 1.3, 1.3, 1.2, 3.1, (0.02, 7.4), (0.03, 7.2), 0.0, False),
    "bus": Shape(10.5, 2.5, 1.15, 1.15, 1.1, 3.0, (0.02, 10.4), (0.05, 10.2), 0.02),
}


def gloss(color, s, h, px, height) -> np.ndarray:
    """Paint that gets lighter upwards, as the sky mirrored in it does."""
    shade = 0.75 + 0.45 * np.clip(h / height, 0, 1) + 0.12 * (noise(s / 5, h / 3) - 0.5)
    return tint(color, shade * (1 + 0.06 * grain(s, h, px)))


def axle_height(shape: Shape) -> float:
    return WHEEL_M * (1.35 if shape.roof > 2.6 else 1)


def paint_side(s, h, px, *, shape: Shape, color, sky) -> Patch:
    """Doors and wheels; h counts from the road."""
    z = s
    top = np.interp(
        z,
        (0, shape.glass_z[0], shape.glass_z[1], shape.length),
        (shape.deck, shape.belt, shape.belt, shape.nose),
    )
    axle = axle_height(shape)
    wheels = [share * shape.length for share in AXLES]
    away = np.minimum(*(np.hypot(z - wheel, h - axle) for wheel in wheels))
    rounding = np.minimum(z, shape.length - z)
    body = (h > SILL_M) & (h < top) & (rounding > 0.12 * np.abs(h - 0.6) ** 2)
    rgb = gloss(color, s, h, px, shape.belt)
    put(rgb, np.abs(h - 0.62 * shape.belt) < 0.025, tint(color, 0.55 + 0 * s))
    seams = [shape.glass_z[0] + f * (shape.glass_z[1] - shape.glass_z[0]) for f in (0.3, 0.65)]
    for seam in seams:
        put(rgb, (np.abs(z - seam) < 0.015) & (h > 0.35), tint(color, 0.35 + 0 * s))
        put(rgb, (np.abs(z - seam - 0.2) < 0.09) & (np.abs(h - 0.8 * shape.belt) < 0.02), TYRE)
    put(rgb, (h < SILL_M + 0.09) | (away < axle + 0.07), TYRE)
    put(rgb, (z < 0.16) & (np.abs(h - 0.85 * shape.deck) < 0.1), (0.45, 0.02, 0.01))
    put(rgb, (z > shape.length - 0.2) & (np.abs(h - 0.85 * shape.nose) < 0.08), (0.7, 0.7, 0.68))
    put(rgb, away < axle, TYRE)
    put(rgb, away < 0.62 * axle, tint((0.32, 0.32, 0.33), 0.7 + 0.5 * (np.abs(h - axle) < 0.09)))
    return Patch(rgb, keep=body | (away < axle))


def paint_side_glass(s, h, px, *, shape: Shape, color, sky) -> Patch:
    """Side windows between their pillars; h counts from the belt along the slant."""
    tall = shape.roof - shape.belt
    share = np.clip(h / tall, 0, 1)
    rear = shape.glass_z[0] + share * (shape.roof_z[0] - shape.glass_z[0])
    front = shape.glass_z[1] + share * (shape.roof_z[1] - shape.glass_z[1])
    keep = (s > rear) & (s < front)
    rgb = gloss(color, s, h + shape.belt, px, shape.roof)
    first = front - 1.3 if not shape.side_windows else rear
    pane = (s > first + 0.1) & (s < front - 0.1) & (share > 0.08) & (share < 0.86)
    pitch = 1.5 if shape.length > 8 else 1.05
    pane &= np.abs((s - shape.glass_z[0]) % pitch - 0.05) > 0.05
    mirror = tint(sky, 0.05 + 0.3 * share**2 * (noise(s / 6, h / 4) > 0.4))
    put(rgb, pane, 0.02 + mirror)
    return Patch(rgb, keep=keep)


def paint_end(s, h, px, *, shape: Shape, color, front, sky) -> Patch:
    """The rear or the front below the windows; h counts from the road."""
    top = shape.nose if front else shape.deck
    half = shape.width / 2
    x = np.abs(s)
    body = (h > SILL_M) & (x < half - 0.25 * np.clip(h / top - 0.8, 0, 1))
    rgb = gloss(color, s, h, px, top)
    put(rgb, h < SILL_M + 0.12, (0.03, 0.03, 0.03))
    put(rgb, np.abs(h - 0.52 * top) < 0.012, tint(color, 0.4 + 0 * s))
    plate = (x < 0.26) & (np.abs(h - 0.62 * top if not front else h - 0.42) < 0.055)
    glow = np.zeros_like(s)
    if front:
        put(rgb, (x < 0.5 * half) & (np.abs(h - 0.66 * top) < 0.09), (0.02, 0.02, 0.02))
        put(rgb, (x < 0.6 * half) & (np.abs(h - 0.4) < 0.06), (0.03, 0.03, 0.03))
        lamp = (x > 0.58 * half) & (x < 0.95 * half) & (np.abs(h - 0.76 * top) < 0.08)
        put(rgb, lamp, (0.75, 0.75, 0.7))
        glow[lamp] = 0.5
    else:
        lamp = (x > 0.7 * half) & (x < 0.97 * half) & (np.abs(h - 0.78 * top) < 0.13)
        put(rgb, lamp, (0.5, 0.015, 0.01))
        put(rgb, lamp & (np.abs(h - 0.74 * top) < 0.03), (0.6, 0.5, 0.45))
        glow[lamp] = 0.25
    put(rgb, plate, (0.65, 0.62, 0.4))
    return Patch(rgb, keep=body, glow=glow)


def paint_tyres(s, h, px, *, shape: Shape) -> Patch:
    """The treads of an axle's two wheels."""
    x = shape.width / 2 - np.abs(s)
    return Patch(tint(TYRE, 1 + 0.3 * grain(s, h, px)), keep=(x > 0.02) & (x < 0.24))


def paint_top(s, h, px, *, lower, upper, tall, color, glass, sky) -> Patch:
    """A bonnet, roof, or (glass) windscreen: half widths `lower` and `upper`, length `tall`."""
    share = h / tall
    half = lower + share * (upper - lower)
    x = np.abs(s)
    rgb = tint(color, 0.95 + 0.08 * grain(s, h, px))
    if glass:
        pane = (x < half - 0.09) & (share > 0.06) & (share < 0.9)
        mirror = tint(sky, 0.06 + 0.3 * share**2 * (noise(s / 5 + 0.3, h / 5) > 0.35))
        put(rgb, pane, 0.02 + mirror)
        seat = (np.abs(x - 0.38) < 0.16) & (share > 0.1) & (share < 0.55)
        put(rgb, pane & seat, (0.012, 0.012, 0.012))
    return Patch(rgb, keep=x < half)


def build_car(shape: Shape, color, place, heading, eye, sky, thing: int) -> list[Panel]:
    """The panels of a car that face the viewer.

    Args:
      place: (x, z) of the middle of its footprint, street frame.
      heading: radians from the street's direction; 0 drives away from the viewer.
      eye: the camera, street frame.
      sky: colour mirrored by its glass.
    """
    forward = np.array([np.sin(heading), 0, np.cos(heading)])
    right = np.array([np.cos(heading), 0, -np.sin(heading)])
    rear = np.array([place[0], 0, place[1]]) - forward * shape.length / 2
    half, inset = shape.width / 2, shape.width * shape.taper / 2
    panels = []
    for side in (-1, 1):
        foot = rear + right * side * half
        if (eye - foot) @ right * side < 0:
            continue
        paint = functools.partial(paint_side, shape=shape, color=color, sky=sky)
        box = (0, shape.length, 0, max(shape.deck, shape.belt))
        panels.append(Panel(foot, forward, (0, 1, 0), box, paint, thing))
        lean = np.array([0, shape.roof - shape.belt, 0]) - right * side * inset
        slant = float(np.linalg.norm(lean))
        paint = functools.partial(paint_side_glass, shape=shape, color=color, sky=sky)
        sill = foot + np.array([0, shape.belt, 0])
        panels.append(Panel(sill, forward, lean / slant, (0, shape.length, 0, slant), paint, thing))
    for front in (False, True):
        paint = functools.partial(paint_end, shape=shape, color=color, front=front, sky=sky)
        foot = rear + forward * (shape.length if front else 0)
        if (eye - foot) @ forward * (1 if front else -1) < 0:
            continue
        top = shape.nose if front else shape.deck
        panels.append(Panel(foot, right, (0, 1, 0), (-half, half, 0, top), paint, thing))
        tread = AXLES[front] * shape.length + (1 if front else -1) * 0.6 * WHEEL_M
        treads = functools.partial(paint_tyres, shape=shape)
        box = (-half, half, 0, axle_height(shape))
        panels.append(Panel(rear + forward * tread, right, (0, 1, 0), box, treads, thing))
    profile = (
        (0, shape.deck, half),
        (shape.glass_z[0], shape.belt, half),
        (shape.roof_z[0], shape.roof, half - inset),
        (shape.roof_z[1], shape.roof, half - inset),
        (shape.glass_z[1], shape.belt, half),
        (shape.length, shape.nose, half),
    )
    for part, (first, second) in enumerate(itertools.pairwise(profile)):
        lower, upper = (second, first) if part >= 3 else (first, second)
        rise = forward * (upper[0] - lower[0]) + np.array([0, upper[1] - lower[1], 0])
        foot = rear + forward * lower[0] + np.array([0, lower[1], 0])
        outward = np.array([0, second[0] - first[0], 0]) - forward * (second[1] - first[1])
        if (eye - foot) @ outward < 0:
            continue
        tall = float(np.linalg.norm(rise))
        see_through = part == 3 or (part == 1 and (shape.side_windows or shape.roof < 2.6))
        paint = functools.partial(
            paint_top,
            lower=lower[2],
            upper=upper[2],
            tall=tall,
            color=color,
            glass=see_through,
            sky=sky,
        )
        panels.append(Panel(foot, right, rise / tall, (-half, half, 0, tall), paint, thing))
    return panels
