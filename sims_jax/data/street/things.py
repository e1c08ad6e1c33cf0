"""What stands in a procedural street: trees, lamps, signs, gantries, people, fences, houses.

Every function returns panels and, where it has one, what casts its shadow. Places are (x, z) in
the street frame, lengths in metres. `fresh` hands out the index of a new thing of a class.
"""

import functools
import math

import numpy as np

from sims_jax.data.street.facades import Facade, paint_facade, paint_gable, paint_roof
from sims_jax.data.street.light import Caster
from sims_jax.data.street.materials import (
    paint_crown,
    paint_fence,
    paint_person,
    paint_plain,
    paint_pole,
    paint_sign,
)
from sims_jax.data.street.raster import Camera, Panel

UP = (0.0, 1.0, 0.0)
BARK = (0.07, 0.055, 0.04)
STEEL = (0.16, 0.165, 0.17)
LEAVES = (
    (0.06, 0.12, 0.025),
    (0.08, 0.14, 0.03),
    (0.05, 0.09, 0.03),
    (0.12, 0.13, 0.03),
    (0.2, 0.11, 0.02),
)  # the last one in autumn
SIGN_COLORS = (
    (0.5, 0.02, 0.03),
    (0.02, 0.09, 0.42),
    (0.02, 0.2, 0.09),
    (0.6, 0.45, 0.02),
    (0.7, 0.7, 0.68),
)
PITCH = 0.85  # rise of a roof over its run
SKIN = ((0.5, 0.3, 0.2), (0.3, 0.16, 0.09), (0.12, 0.06, 0.04))
THINNEST_PX = 0.55  # least half width of a pole on the picture, so that it stays connected


def facing(camera: Camera) -> tuple[float, float, float]:
    """The direction along a billboard that faces the camera."""
    return (math.cos(camera.yaw), 0.0, -math.sin(camera.yaw))


def pole_panel(camera, foot, top, radius, color, thing) -> Panel:
    """A thin bar between two points that differ across the view or in height."""
    ahead = (math.sin(camera.yaw), math.cos(camera.yaw))
    depth = ahead[0] * (foot[0] - camera.position[0]) + ahead[1] * foot[2]
    pixel = 2 / camera.focal_px  # the picture's pixels are two samples wide
    radius = max(radius, THINNEST_PX * pixel * depth)
    length = math.dist(foot, top)
    along = tuple((b - a) / length for a, b in zip(foot, top, strict=True))
    # The cross product of `along` and the direction of view, which is level.
    side = (along[1] * ahead[1], along[2] * ahead[0] - along[0] * ahead[1], -along[1] * ahead[0])
    side = tuple(part / math.hypot(*side) for part in side)
    paint = functools.partial(paint_pole, color=color, radius=radius)
    extent = (-radius, radius, 0, length)
    return Panel(foot, side, along, extent, paint, thing)


def build_tree(rng, camera, place, height, spread, color, thing, conifer=False):
    """A trunk and a crown of ragged balls; one thing."""
    x, z = place
    base = height * rng.uniform(0.25, 0.4)
    trunk = pole_panel(
        camera, (x, 0, z), (x, base + 0.4 * spread, z), 0.05 + 0.025 * height, BARK, thing
    )
    count = 9
    level = rng.uniform(0, 1, count)
    around = rng.uniform(0, 2 * np.pi, count)
    width = 1 - level if conifer else np.sqrt(1 - (2 * level - 1) ** 2)
    reach = spread * rng.uniform(0.25, 0.7, count) * width
    middle = base + (height - base) * (0.15 + 0.65 * level)
    centers = np.stack([reach * np.cos(around), middle], -1).astype(np.float32)
    radii = (
        spread * rng.uniform(0.38, 0.58, count) * (1.1 - 0.7 * level if conifer else 1)
    ).astype(np.float32)
    depths = (reach * np.sin(around)).astype(np.float32)
    paint = functools.partial(
        paint_crown,
        centers=centers,
        radii=radii,
        depths=depths,
        color=color,
        salt=int(rng.integers(90)),
    )
    low, high = (centers[:, 1] - 1.3 * radii).min(), (centers[:, 1] + 1.3 * radii).max()
    wide = float((np.abs(centers[:, 0]) + 1.3 * radii).max())
    extent = (-wide, wide, float(max(low, 0.2)), float(high))
    crown = Panel(
        (x, 0, z), facing(camera), UP, extent, paint, thing, float((depths + radii).max())
    )
    casters = [
        Caster("ball", x, z, 0.9 * spread, 0.9 * spread, float(middle.mean())),
        Caster("pole", x, z, 0.1 + 0.02 * height, 0.2, float(middle.mean())),
    ]
    return [trunk, crown], casters


def build_lamp(camera, place, height, arm, thing):
    """A street lamp whose arm (signed, along x) hangs over the road."""
    x, z = place
    tip = (x + arm, height + 0.25, z)
    head = Panel(
        (x + arm, height + 0.1, z),
        facing(camera),
        UP,
        (-0.45, 0.45, 0, 0.2),
        functools.partial(paint_plain, color=(0.3, 0.3, 0.3)),
        thing,
    )
    panels = [
        pole_panel(camera, (x, 0, z), (x, height, z), 0.08, STEEL, thing),
        pole_panel(camera, (x, height, z), tip, 0.05, STEEL, thing),
        head,
    ]
    return panels, [Caster("pole", x, z, 0.09, 0.1, height)]


def sign_panel(camera, rng, middle, size, kind, color, thing) -> Panel:
    """A board facing the camera; middle (x, y, z), size (width, height)."""
    width, height = size
    paint = functools.partial(
        paint_sign, kind=kind, color=color, width=width, height=height, salt=int(rng.integers(90))
    )
    foot = (middle[0], middle[1] - height / 2, middle[2])
    return Panel(foot, facing(camera), UP, (-width / 2, width / 2, 0, height), paint, thing)


def build_sign(rng, camera, place, fresh):
    """One or two traffic signs on a pole."""
    x, z = place
    height = rng.uniform(2.3, 3.2)
    panels = [pole_panel(camera, (x, 0, z), (x, height, z), 0.045, STEEL, fresh("pole"))]
    y = height
    for _ in range(rng.integers(1, 3)):
        kind = ("round", "triangle", "board", "board")[rng.integers(4)]
        wide = rng.uniform(0.7, 0.95)
        tall = wide * (rng.uniform(0.6, 1.5) if kind == "board" else 1)
        color = SIGN_COLORS[0 if kind != "board" else rng.integers(1, 5)]
        middle = (x, y - tall / 2, z - 0.06)
        panels.append(sign_panel(camera, rng, middle, (wide, tall), kind, color, fresh("sign")))
        y -= tall + 0.05
    return panels, [Caster("pole", x, z, 0.08, 0.1, height)]


def build_signal(rng, camera, place, arm, fresh):
    """Traffic lights: a head on the pole and, with an arm, one that hangs over the road."""
    x, z = place
    pole = fresh("pole")
    height = 3.4 if not arm else 6.0
    panels = [pole_panel(camera, (x, 0, z), (x, height, z), 0.08, STEEL, pole)]
    heads = [(x, 2.9, z - 0.12)]
    if arm:
        panels.append(pole_panel(camera, (x, 5.8, z), (x + arm, 6.0, z), 0.06, STEEL, pole))
        heads.append((x + arm, 5.7, z - 0.1))
    state = int(rng.integers(3))
    for middle in heads:
        panel = sign_panel(camera, rng, middle, (0.42, 1.1), "signal", STEEL, fresh("sign"))
        panel.paint.keywords["salt"] = state
        panels.append(panel)
    return panels, [Caster("pole", x, z, 0.1, 0.1, height)]


def build_gantry(rng, camera, z, half, fresh):
    """Direction boards on a beam across the road."""
    pole, height = fresh("pole"), rng.uniform(5.6, 6.6)
    panels = [
        pole_panel(camera, (x, 0, z), (x, height, z), 0.14, STEEL, pole) for x in (-half, half)
    ]
    panels.append(pole_panel(camera, (-half, height, z), (half, height, z), 0.16, STEEL, pole))
    count = rng.integers(1, 4)
    color = SIGN_COLORS[rng.integers(1, 3)]
    for place in np.linspace(-half, half, 2 * count + 1)[1::2]:
        size = (rng.uniform(0.55, 0.85) * 2 * half / count, rng.uniform(1.5, 2.4))
        size = (min(size[0], 4.5), size[1])
        middle = (place, height - rng.uniform(0, 0.5), z - 0.25)
        panels.append(sign_panel(camera, rng, middle, size, "board", color, fresh("sign")))
    return panels, [Caster("pole", x, z, 0.14, 0.1, height) for x in (-half, half)]


def build_person(rng, camera, place, thing):
    """Someone walking or standing."""
    x, z = place
    height = rng.uniform(1.5, 1.92)
    paint = functools.partial(
        paint_person,
        height=height,
        stride=rng.uniform(-0.11, 0.11),
        shirt=tuple(rng.uniform(0.02, 0.5, 3)),
        trousers=tuple(rng.uniform(0.015, 0.16) * np.array([0.8, 0.85, rng.uniform(0.9, 1.8)])),
        skin=SKIN[rng.integers(3)],
        hair=tuple(np.array([1, 0.7, 0.45]) * rng.choice([0.02, 0.06, 0.3], p=[0.5, 0.35, 0.15])),
        bag=rng.random() < 0.3,
    )
    extent = (-0.27 * height, 0.27 * height, 0, height)
    panel = Panel((x, 0, z), facing(camera), UP, extent, paint, thing)
    return [panel], [Caster("pole", x, z, 0.22, 0.2, height), Caster("box", x, z, 0.12, 0.08, 0.05)]


def build_fence(rng, x, z0, z1, kind, height, thing):
    """A fence along the street."""
    colors = {
        "hedge": LEAVES[rng.integers(3)],
        "boards": ((0.2, 0.13, 0.07), (0.5, 0.5, 0.47), (0.09, 0.13, 0.1))[rng.integers(3)],
        "wall": ((0.22, 0.09, 0.06), (0.3, 0.28, 0.25))[rng.integers(2)],
    }
    paint = functools.partial(
        paint_fence, kind=kind, color=colors[kind], height=height, salt=int(rng.integers(90))
    )
    return [Panel((x, 0, z0), (0, 0, 1), UP, (0, z1 - z0, 0, height), paint, thing)], []


def build_house(look: Facade, side: int, x: float, z0: float, pitched, sky, thing: int):
    """A facade along the street, the wall that faces the viewer, and a pitched roof if any."""
    front = functools.partial(paint_facade, look=look, sky=sky)
    depth = 9.6  # of a house, away from the street
    panels = [Panel((x, 0, z0), (0, 0, 1), UP, (0, look.length, 0, look.height), front, thing)]
    top = look.height + (0.5 * depth * PITCH if pitched else 0)
    gable = functools.partial(
        paint_gable, color=look.color, depth=depth, height=look.height, pitch=PITCH * bool(pitched)
    )
    panels.append(Panel((x, 0, z0), (side, 0, 0), UP, (0, depth, 0, top), gable, thing))
    if pitched:
        slope = np.array([side, PITCH, 0]) / np.hypot(1, PITCH)
        roof = functools.partial(paint_roof, color=pitched, salt=look.salt)
        eave = (x - side * 0.3, look.height - 0.25, z0 - 0.2)
        panels.append(
            Panel(
                eave,
                (0, 0, 1),
                slope,
                (0, look.length + 0.4, 0, 0.53 * depth * np.hypot(1, PITCH)),
                roof,
                thing,
            )
        )
        plain = functools.partial(paint_plain, color=look.color, roughness=0.25)
        stack = (x + side * 0.45 * depth, top - 0.8, z0 + 0.15 * look.length)
        panels.append(Panel(stack, (side, 0, 0), UP, (-0.45, 0.45, 0, 1.9), plain, thing))
        panels.append(Panel(stack, (0, 0, 1), UP, (-0.3, 0.3, 0, 1.9), plain, thing))
    return panels, []
