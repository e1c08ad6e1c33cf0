"""A procedural street while it is laid out: what is in it, seen by whom, in what light.

Distances are in metres of the street frame: x from the road's middle, z along it.
"""

import dataclasses

import numpy as np

from sims_jax.data.street.facades import Ground
from sims_jax.data.street.light import Caster, Light
from sims_jax.data.street.raster import Camera, Panel
from sims_jax.labels import SCENES

INSTANCED = tuple(name for name in SCENES.classes if name not in SCENES.context)


@dataclasses.dataclass
class World:
    """Everything to be drawn; grows while the street is laid out.

    `class_id` and `instance` have an entry a thing; thing 0 is the sky.
    """

    camera: Camera
    light: Light
    ground: Ground
    rng: np.random.Generator
    facade_x: tuple[float, float]
    walls: tuple[np.ndarray, np.ndarray]  # heights of the left and right row, by z
    panels: list[Panel] = dataclasses.field(default_factory=list)
    casters: list[Caster] = dataclasses.field(default_factory=list)
    class_id: list[int] = dataclasses.field(default_factory=lambda: [0])
    instance: list[int] = dataclasses.field(default_factory=lambda: [0])

    def fresh(self, name: str) -> int:
        """The index of a new thing of a class."""
        self.class_id.append(SCENES.classes.index(name))
        self.instance.append(max(self.instance) + 1 if name in INSTANCED else 0)
        return len(self.class_id) - 1

    def add(self, built) -> None:
        panels, casters = built
        self.panels += panels
        self.casters += casters


def draw_light(rng: np.random.Generator) -> Light:
    """Clear, cloudy, overcast, low sun, or dusk."""
    kind = rng.choice(
        ["clear", "cloudy", "overcast", "low", "dusk"], p=[0.3, 0.25, 0.2, 0.17, 0.08]
    )
    elevation = {"low": rng.uniform(0.2, 0.42), "dusk": 0.3}.get(kind, rng.uniform(0.6, 1.1))
    azimuth = rng.uniform(-np.pi, np.pi)
    sun = np.array(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    warm = rng.uniform(-0.08, 0.08)
    balance = np.array([1 + warm, 1, 1 - warm])
    table = {  # sun, ambient, zenith, horizon, clouds, cloud colour
        "clear": (
            (2.5, 2.3, 2.0),
            (0.42, 0.52, 0.7),
            (0.2, 0.4, 0.95),
            (0.75, 0.92, 1.15),
            0.3,
            1.3,
        ),
        "cloudy": (
            (1.9, 1.8, 1.6),
            (0.6, 0.72, 0.82),
            (0.3, 0.48, 0.9),
            (0.9, 1.0, 1.1),
            0.75,
            1.35,
        ),
        "overcast": (
            (0.0, 0.0, 0.0),
            (1.3, 1.35, 1.4),
            (0.95, 1.0, 1.08),
            (1.15, 1.17, 1.2),
            1.1,
            1.2,
        ),
        "low": (
            (3.0, 1.9, 0.95),
            (0.46, 0.48, 0.58),
            (0.3, 0.42, 0.75),
            (1.25, 1.0, 0.75),
            0.5,
            1.2,
        ),
        "dusk": (
            (0.0, 0.0, 0.0),
            (0.42, 0.42, 0.55),
            (0.12, 0.16, 0.36),
            (0.75, 0.5, 0.42),
            0.6,
            0.45,
        ),
    }
    sun_color, ambient, zenith, horizon, clouds, cloud = table[kind]
    return Light(
        sun=tuple(sun.tolist()),
        sun_color=tuple(balance * sun_color),
        sky_color=tuple(balance * ambient),
        zenith=tuple(balance * zenith),
        horizon=tuple(balance * horizon),
        clouds=float(np.clip(clouds + rng.uniform(-0.25, 0.2), 0, 1.2)),
        cloud_color=tuple(balance * cloud * np.array([1, 0.97, 0.95])),
        haze_m=float(np.exp(rng.uniform(np.log(250), np.log(3000)))),
        exposure=float(rng.uniform(0.8, 1.25)) * (1.5 if kind == "dusk" else 1),
        salt=int(rng.integers(1000)),
    )


def draw_camera(rng, size_px: tuple[int, int], road_half: float, lanes: int) -> Camera:
    """A camera in a car, 1.3 to 2.4 m high, looking along the street or a little aside."""
    height, width = size_px
    lane = 2 * road_half / lanes
    x = road_half - lane * (0.5 + (lanes > 2) * rng.integers(0, 2)) + rng.uniform(-0.4, 0.4)
    return Camera(
        size_px=size_px,
        focal_px=width * rng.uniform(0.68, 0.95),
        center_px=width * rng.uniform(0.47, 0.53),
        horizon_px=height * rng.uniform(0.43, 0.56),
        position=(float(x), float(rng.uniform(1.3, 2.4)), 0.0),
        yaw=float(rng.uniform(-0.2, 0.2) * (1 if rng.random() < 0.75 else 1.8)),
    )
