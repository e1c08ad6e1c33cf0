"""Lays out one procedural street at random: the ground, the houses, then what lines it.

Ranges are those of ordinary European streets, set by eye on contact sheets.
"""

import dataclasses
import functools

import numpy as np

from sims_jax.data.street import things, traffic
from sims_jax.data.street.facades import Facade, Ground, paint_facade, paint_pavement, paint_road
from sims_jax.data.street.light import FACADE_CELL_M
from sims_jax.data.street.raster import Panel
from sims_jax.data.street.world import World, draw_camera, draw_light

FAR_M = 130.0  # where the street ends
WALL_CELLS = 400

BRICK = ((0.24, 0.09, 0.06), (0.3, 0.15, 0.09), (0.18, 0.1, 0.075), (0.36, 0.26, 0.15))
PLASTER = (
    (0.58, 0.5, 0.36),
    (0.5, 0.39, 0.25),
    (0.62, 0.6, 0.55),
    (0.36, 0.36, 0.36),
    (0.45, 0.3, 0.22),
    (0.36, 0.42, 0.45),
    (0.62, 0.56, 0.42),
    (0.27, 0.26, 0.25),
)
TRIM = ((0.65, 0.63, 0.58), (0.5, 0.46, 0.38), (0.1, 0.09, 0.08), (0.3, 0.3, 0.3))
ROOFS = ((0.2, 0.075, 0.045), (0.085, 0.085, 0.09), (0.14, 0.09, 0.07))


def build_street(rng: np.random.Generator, size_px: tuple[int, int]) -> World:
    """One street. size_px: (H, W) in samples."""
    kind = rng.choice(["city", "suburb", "avenue"], p=[0.4, 0.35, 0.25])
    lanes = 4 if kind == "avenue" else 2
    road_half = {"city": 4.6, "suburb": 3.6, "avenue": 7.0}[kind] * rng.uniform(0.9, 1.15)
    crossing = rng.uniform(17, 45)
    sides = tuple(bool(b) for b in rng.random(2) < 0.45)
    ground = Ground(
        road_half=road_half,
        lanes=lanes,
        crossing=(crossing, crossing + rng.uniform(6, 9)) if any(sides) else (0.0, 0.0),
        crossing_sides=sides,
        zebra=rng.uniform(9, 25) if rng.random() < 0.4 else -1.0,
        yellow=bool(rng.random() < 0.4),
        asphalt=rng.uniform(0.075, 0.15),
        slab=rng.uniform(0.45, 0.9),
        salt=int(rng.integers(1000)),
    )
    pavement = rng.uniform(2.0, 4.2)
    setback = {"city": 0.0, "suburb": rng.uniform(2.5, 6), "avenue": rng.uniform(0, 3)}[kind]
    facade_x = (-road_half - pavement - setback, road_half + pavement + setback)
    world = World(
        camera=draw_camera(rng, size_px, road_half, lanes),
        light=draw_light(rng),
        ground=ground,
        rng=rng,
        facade_x=facade_x,
        walls=(np.zeros(WALL_CELLS, np.float32), np.zeros(WALL_CELLS, np.float32)),
    )
    lay_ground(world)
    for side in (-1, 1):
        raise_houses(world, side, kind, setback)
        traffic.line_kerb(world, side, kind, pavement)
        traffic.park_cars(world, side)
    close_street(world)
    traffic.drive_cars(world)
    traffic.hang_signs(world, kind)
    traffic.place_people(world, pavement)
    return world


def lay_ground(world: World) -> None:
    """Road and pavements, on one plane; what lies behind the viewer is left out."""
    wide = 90.0
    for name, paint in (("road", paint_road), ("pavement", paint_pavement)):
        paint = functools.partial(paint, ground=world.ground)
        extent = (-wide, wide, 0.2, 400.0)
        world.panels.append(
            Panel((0, 0, 0), (1, 0, 0), (0, 0, 1), extent, paint, world.fresh(name))
        )


def draw_facade(rng, kind: str, height: float, length: float) -> Facade:
    """The look of a house of that kind of street."""
    bricks = bool(rng.random() < 0.4)
    colors = BRICK if bricks else PLASTER
    shop = bool(kind != "suburb" and rng.random() < (0.65 if kind == "city" else 0.3))
    return Facade(
        color=tuple(np.array(colors[rng.integers(len(colors))]) * rng.uniform(0.8, 1.15)),
        trim=TRIM[rng.integers(len(TRIM))],
        accent=tuple(rng.uniform(0.02, 0.3, 3)),
        length=length,
        height=height,
        bricks=bricks,
        shop=shop,
        floor=rng.uniform(2.8, 3.5),
        bay=rng.uniform(1.9, 3.6),
        window=(rng.uniform(0.35, 0.72), rng.uniform(0.4, 0.62)),
        lit=0.03,
        salt=int(rng.integers(1000)),
    )


def raise_houses(world: World, side: int, kind: str, setback: float) -> None:
    """A row of houses, with gaps; or, on one side in six, a park of trees behind a fence."""
    rng, x = world.rng, world.facade_x[side > 0]
    if kind != "city" and rng.random() < 0.25:
        plant_park(world, side, x)
        x, setback = x + side * 16, 0.0
    z = rng.uniform(-8, -2)
    level = rng.uniform(9, 19) if kind == "city" else rng.uniform(8, 16)
    crossed = world.ground.crossing_sides[side > 0]
    while z < FAR_M:
        length = rng.uniform(7, 12) if kind == "suburb" else rng.uniform(8, 22)
        gap = rng.uniform(1.5, 6) if rng.random() < (0.6 if kind == "suburb" else 0.2) else 0.0
        begin, end = world.ground.crossing
        if crossed and z < end + 1.5 and z + length > begin - 1.5:
            if begin - 1.5 - z > 4:
                length, gap = begin - 1.5 - z, 0.0
            else:
                z = end + 1.5
                continue
        height = rng.uniform(5, 6.6) if kind == "suburb" else level * rng.uniform(0.7, 1.35)
        pitched = ROOFS[rng.integers(3)] if kind == "suburb" or height < 9 else None
        look = draw_facade(rng, kind, height, length)
        if max(world.light.sun_color) == 0 and world.light.horizon[2] < 0.6:
            look = dataclasses.replace(look, lit=rng.uniform(0.2, 0.5))
        step = side * (rng.uniform(0, 0.8) if kind == "city" else rng.uniform(0, 2))
        built = things.build_house(
            look, side, x + step, z, pitched, world.light.sky_color, world.fresh("building")
        )
        world.add(built)
        cells = (np.array([z, z + length]) / FACADE_CELL_M + WALL_CELLS // 4).astype(int)
        world.walls[side > 0][max(cells[0], 0) : cells[1]] = height
        if setback > 1.5 and rng.random() < 0.8:
            front_garden(world, side, x, setback, z, z + length)
        if look.shop and z > 3 and rng.random() < 0.5:
            blade_sign(world, side, x + step, z + rng.uniform(1, length - 1))
        z += length + gap


def front_garden(world: World, side: int, x: float, setback: float, z0: float, z1: float) -> None:
    """A fence and now and then a tree before a house."""
    rng = world.rng
    kind = ("hedge", "boards", "wall")[rng.integers(3)]
    line = x - side * (setback - 0.3)
    world.add(
        things.build_fence(
            rng, line, z0 + 0.2, z1 - 1.4, kind, rng.uniform(0.7, 1.7), world.fresh("fence")
        )
    )
    if rng.random() < 0.4 and z0 > 4:
        spot = (x - side * setback * rng.uniform(0.3, 0.7), rng.uniform(z0, z1))
        traffic.plant_tree(world, spot, rng.uniform(2.5, 6), rng.uniform(0.9, 1.8))


def plant_park(world: World, side: int, x: float) -> None:
    """Trees of all sizes behind a long fence."""
    rng = world.rng
    kind = ("hedge", "boards", "wall")[rng.integers(3)]
    for begin in np.arange(-4.0, 90, 15):
        if not world.ground.is_road(side * 50.0, begin + 7):
            fence = world.fresh("fence")
            world.add(things.build_fence(rng, x, begin, begin + 14.8, kind, 1.3, fence))
    for z in np.arange(5, 110, 7.0):
        place = (x + side * rng.uniform(2, 9), z + rng.uniform(-3, 3))
        traffic.plant_tree(world, place, rng.uniform(5, 11), rng.uniform(2.2, 3.8))


def blade_sign(world: World, side: int, x: float, z: float) -> None:
    """A shop's sign that sticks out of its facade over the pavement."""
    rng = world.rng
    size = (rng.uniform(0.7, 1.2), rng.uniform(0.6, 2.2))
    middle = (x - side * (0.15 + size[0] / 2), rng.uniform(3.2, 5), z)
    color = things.SIGN_COLORS[rng.integers(5)]
    panel = things.sign_panel(world.camera, rng, middle, size, "board", color, world.fresh("sign"))
    world.panels.append(panel)


def close_street(world: World) -> None:
    """Houses and trees across the far end, so that no street runs to the horizon."""
    rng = world.rng
    x = -70.0
    while x < 70:
        length = rng.uniform(12, 25)
        look = draw_facade(rng, "avenue", rng.uniform(6, 16), length)
        paint = functools.partial(paint_facade, look=look, sky=world.light.sky_color)
        extent = (0, length, 0, look.height)
        place = (x, 0, FAR_M + rng.uniform(5, 25))
        world.panels.append(
            Panel(place, (1, 0, 0), things.UP, extent, paint, world.fresh("building"))
        )
        if rng.random() < 0.6:
            traffic.plant_tree(
                world, (x + length / 2, FAR_M + 2), rng.uniform(8, 14), rng.uniform(4, 6)
            )
        x += length
