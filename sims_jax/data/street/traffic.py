"""What lines and uses a procedural street: street trees, lamps, signs, cars and people.

Ranges are those of ordinary European streets, set by eye on contact sheets.
"""

import math

import numpy as np

from sims_jax.data.street import things
from sims_jax.data.street.cars import SHAPES, build_car
from sims_jax.data.street.light import Caster
from sims_jax.data.street.world import World

PAINTS = (
    (0.55, 0.55, 0.54),
    (0.02, 0.02, 0.022),
    (0.2, 0.2, 0.21),
    (0.4, 0.41, 0.42),
    (0.35, 0.02, 0.02),
    (0.02, 0.06, 0.25),
    (0.03, 0.12, 0.08),
    (0.4, 0.3, 0.04),
    (0.07, 0.08, 0.1),
    (0.3, 0.27, 0.2),
)


def plant_tree(world: World, place, height: float, spread: float) -> None:
    rng = world.rng
    color = np.array(things.LEAVES[rng.choice(5, p=[0.3, 0.28, 0.22, 0.15, 0.05])])
    built = things.build_tree(
        rng,
        world.camera,
        place,
        height,
        spread,
        tuple(color * rng.uniform(0.8, 1.2)),
        world.fresh("tree"),
        conifer=rng.random() < 0.1,
    )
    world.add(built)


def line_kerb(world: World, side: int, kind: str, pavement: float) -> None:
    """Street trees, lamps, signs and a guard rail along one kerb."""
    rng, camera = world.rng, world.camera
    kerb = side * (world.ground.road_half + 0.55)
    if rng.random() < 0.6:
        spacing, height, spread = rng.uniform(8, 16), rng.uniform(5, 9.5), rng.uniform(1.6, 3.3)
        for z in np.arange(rng.uniform(5, 14), 85, spacing):
            place = (kerb + side * 0.3, z + rng.uniform(-1.5, 1.5))
            if rng.random() < 0.85 and not world.ground.is_road(side * 50.0, place[1]):
                plant_tree(
                    world, place, height * rng.uniform(0.8, 1.2), spread * rng.uniform(0.75, 1.2)
                )
    if rng.random() < 0.75:
        height, arm = rng.uniform(5.5, 8.5), -side * rng.uniform(0.9, 2.4)
        for z in np.arange(rng.uniform(6, 20), 100, rng.uniform(17, 26)):
            world.add(things.build_lamp(camera, (kerb, z), height, arm, world.fresh("pole")))
    for _ in range(rng.integers(0, 4)):
        place = (kerb + side * rng.uniform(-0.1, 0.4), rng.uniform(7, 40))
        world.add(things.build_sign(rng, camera, place, world.fresh))
    if rng.random() < 0.2:
        z = rng.uniform(5, 20)
        fence = world.fresh("fence")
        world.add(
            things.build_fence(
                rng, kerb - side * 0.3, z, z + rng.uniform(6, 15), "boards", 1.0, fence
            )
        )


def hang_signs(world: World, kind: str) -> None:
    """Gantries over the road, and traffic lights before a side street or a zebra crossing."""
    rng, ground = world.rng, world.ground
    for _ in range(2):
        if rng.random() < (0.5 if kind == "avenue" else 0.2):
            z = rng.uniform(12, 45)
            world.add(
                things.build_gantry(rng, world.camera, z, ground.road_half + 0.7, world.fresh)
            )
    stop = ground.zebra - 1 if ground.zebra > 0 else ground.crossing[0] - 2
    if stop > 6 and rng.random() < 0.7:
        for side in (-1, 1):
            arm = -side * rng.uniform(1.5, 3.5) if rng.random() < 0.6 else 0.0
            place = (side * (ground.road_half + 0.4), stop)
            world.add(things.build_signal(rng, world.camera, place, arm, world.fresh))


def draw_car(world: World, place, heading: float, common: bool = True) -> None:
    rng = world.rng
    names = list(SHAPES)
    share = (
        [0.26, 0.27, 0.17, 0.18, 0.12, 0, 0] if common else [0.2, 0.2, 0.14, 0.14, 0.12, 0.1, 0.1]
    )
    shape = SHAPES[names[rng.choice(len(names), p=share)]]
    color = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.8, 1.2)
    panels = build_car(
        shape,
        tuple(color),
        place,
        heading,
        world.camera.position,
        world.light.sky_color,
        world.fresh("car"),
    )
    across = abs(math.sin(heading)) > 0.7
    half = (shape.length / 2, shape.width / 2) if across else (shape.width / 2, shape.length / 2)
    world.add((panels, [Caster("box", *place, *half, 0.55 * shape.roof)]))


def park_cars(world: World, side: int) -> None:
    """Cars along one kerb; more than half face the way their side drives."""
    rng = world.rng
    if rng.random() < 0.35:
        return
    full, z = rng.uniform(0.35, 0.95), rng.uniform(5, 9)
    while z < 75:
        free = not world.ground.is_road(side * 50.0, z)
        if rng.random() < full and free and abs(z - world.ground.zebra - 1.5) > 5:
            x = side * (world.ground.road_half - 1.15 + rng.uniform(-0.1, 0.15))
            heading = (0 if side > 0 else np.pi) + rng.normal(0, 0.03)
            draw_car(world, (x, z), heading if rng.random() < 0.9 else heading + np.pi)
        z += rng.uniform(5.3, 6.6)


def drive_cars(world: World) -> None:
    """Traffic: rears ahead, fronts that come the other way, now and then a car from the side."""
    rng, ground = world.rng, world.ground
    lane = 2 * ground.road_half / ground.lanes
    for k in range(ground.lanes):
        x = -ground.road_half + (k + 0.5) * lane
        away = x > 0
        own = abs(x - world.camera.position[0]) < 0.6 * lane
        z = rng.uniform(9, 30) if own else rng.uniform(6, 28)
        while z < 95 and rng.random() < 0.8:
            inner = x - np.sign(x) * 0.25 * lane * (ground.lanes == 2)
            draw_car(world, (inner + rng.uniform(-0.2, 0.2), z), 0.0 if away else np.pi, z < 14)
            z += rng.uniform(9, 30)
    if ground.crossing[1] > 0 and rng.random() < 0.4:
        side = 1 if ground.crossing_sides[1] else -1
        z = sum(ground.crossing) / 2
        place = (side * (ground.road_half + rng.uniform(-1.5, 5)), z + rng.uniform(-1, 1))
        draw_car(world, place, -side * np.pi / 2)


def place_people(world: World, pavement: float) -> None:
    """People on the pavements and, on a zebra crossing, on the road."""
    rng, ground = world.rng, world.ground
    for _ in range(rng.integers(2, 10)):
        side = rng.choice((-1, 1))
        x = side * (ground.road_half + rng.uniform(0.3, pavement - 0.4))
        place = (x, 6 + 40 * rng.random() ** 1.5)
        world.add(things.build_person(rng, world.camera, place, world.fresh("pedestrian")))
    crossing = rng.integers(1, 4) if ground.zebra > 0 else int(rng.random() < 0.15)
    for _ in range(crossing):
        z = ground.zebra + rng.uniform(0.3, 2.7) if ground.zebra > 0 else rng.uniform(12, 30)
        place = (rng.uniform(-1, 1) * ground.road_half, z)
        world.add(things.build_person(rng, world.camera, place, world.fresh("pedestrian")))
