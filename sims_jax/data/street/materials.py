"""What the surfaces of a procedural street are painted with.

A paint is a function of the position on a surface: `s` along it and `h` up it, metres, and
`px`, the width of one sample there, metres. It returns a `Patch`. Colours are linear albedo.
All sizes in metres are typical of European streets; the albedos were set by eye.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Samples = Float[np.ndarray, "n"]

TILE = 256  # side of the periodic noise tiles, a power of two
OCTAVES = 6


class Patch(NamedTuple):
    """What a paint gives at n samples of a surface."""

    rgb: Float[np.ndarray, "n 3"]
    keep: Bool[np.ndarray, "n"] | None = None  # silhouette; None: the whole rectangle
    normal: Float[np.ndarray, "n 3"] | None = None  # (along, up, out); None: straight out
    relief: Samples | None = None  # metres towards the camera
    glow: Samples | None = None  # light of its own, in units of albedo times light


@functools.cache
def noise_tiles() -> tuple[np.ndarray, np.ndarray]:
    """A periodic fractal tile in [0, 1] and a white one, both [TILE, TILE]."""
    rng = np.random.default_rng(0)
    smooth = np.zeros((TILE, TILE), np.float32)
    for octave in range(OCTAVES):
        cells = 2 ** (octave + 3)
        coarse = rng.random((cells, cells), np.float32) - 0.5
        position = (np.arange(TILE) * cells) / TILE
        low = np.floor(position).astype(int)
        weight = (position - low).astype(np.float32)
        weight = weight * weight * (3 - 2 * weight)
        high = (low + 1) % cells
        rows = coarse[low] * (1 - weight)[:, None] + coarse[high] * weight[:, None]
        smooth += (rows[:, low] * (1 - weight) + rows[:, high] * weight) / 2**octave
    white = rng.random((TILE, TILE), np.float32)
    ranks = smooth.ravel().argsort().argsort().reshape(smooth.shape)
    return (ranks / ranks.size).astype(np.float32), white


def noise(x: Samples, y: Samples) -> Samples:
    """Fractal noise in [0, 1], uniform; its largest blobs are 1/8 of the period 1 wide."""
    tile = noise_tiles()[0].ravel()
    x, y = x * TILE, y * TILE
    left, top = np.floor(x), np.floor(y)
    u, v = x - left, y - top
    column, row = left.astype(np.int32) & (TILE - 1), top.astype(np.int32) & (TILE - 1)
    right, below = (column + 1) & (TILE - 1), ((row + 1) & (TILE - 1)) * TILE
    row = row * TILE
    upper, lower = tile.take(row + column), tile.take(below + column)
    upper += u * (tile.take(row + right) - upper)
    lower += u * (tile.take(below + right) - lower)
    return upper + v * (lower - upper)


def hash_cells(i: Samples, j: Samples, salt: int = 0) -> Samples:
    """One number in [0, 1) for each pair of whole numbers."""
    i, j = i.astype(np.int32), j.astype(np.int32)
    row, column = (i * 37 + j * 11 + salt) & (TILE - 1), (j * 53 + i * 7 + salt) & (TILE - 1)
    return noise_tiles()[1].ravel().take(row * TILE + column)


def grain(s: Samples, h: Samples, px: Samples) -> Samples:
    """White noise in [-1, 1] whose cells are one to two samples wide at any distance."""
    cells_per_m = np.exp2(np.floor(-np.log2(px)) - 0.5)
    return 2 * hash_cells(np.floor(s * cells_per_m), np.floor(h * cells_per_m), 5) - 1


def resolved(size_m: float, px: Samples) -> Samples:
    """1 where a detail of this size is seen, falling to 0 where a sample covers it."""
    return np.clip(size_m / px - 0.5, 0, 1)


def tint(color, amount: Samples) -> Float[np.ndarray, "n 3"]:
    """A colour times a number for each sample."""
    return np.asarray(color, np.float32) * amount[:, None]


def put(rgb: np.ndarray, where: np.ndarray, color) -> None:
    """Overpaints the samples `where`; `color` is one colour or one for each sample."""
    color = np.asarray(color, np.float32)
    index = np.flatnonzero(where)
    rgb[index] = color.take(index, 0) if color.ndim == 2 else color


def paint_plain(s, h, px, *, color, roughness=0.15) -> Patch:
    """One colour with stains and grain."""
    shade = 1 + roughness * (2 * noise(s / 9, h / 9) - 1) + roughness * 0.5 * grain(s, h, px)
    return Patch(tint(color, shade))


def paint_pole(s, h, px, *, color, radius) -> Patch:
    """A cylinder seen from the side, radius in metres."""
    across = np.clip(s / radius, -0.95, 0.95)
    normal = np.stack([across, np.zeros_like(s), np.sqrt(1 - across**2)], -1)
    return Patch(tint(color, 1 + 0.15 * grain(s, h, px)), normal=normal)


def paint_fence(s, h, px, *, kind, color, height, salt) -> Patch:
    """A hedge with a ragged top, boards, or a low wall with a coping."""
    if kind == "hedge":
        leaf = noise(s / 1.6 + salt / 7, h / 1.6)
        keep = h < height - 0.22 + 0.25 * leaf
        shade = 0.35 + 0.9 * leaf * (0.4 + 0.6 * h / height) + 0.35 * grain(s, h, px)
        tilt = np.stack([leaf - 0.5, 0.4 + 0 * s, 0.8 + 0 * s], -1)
        return Patch(tint(color, shade), keep=keep, normal=tilt)
    if kind == "boards":
        board = np.floor(s / 0.16)
        gap = resolved(0.05, px) * (s / 0.16 - board < 0.16)
        tone = 0.4 * resolved(0.16, px) * (hash_cells(board, board, salt) - 0.5)
        keep = h < height - 0.08 * (np.abs(s / 0.16 - board - 0.5) > 0.3)
        rail = 0.15 * (np.abs(h / height - 0.75) < 0.05)
        return Patch(tint(color, 1 + tone - 0.7 * gap - rail + 0.15 * grain(s, h, px)), keep=keep)
    wall = paint_bricks(s, h, px, color=color, salt=salt)
    put(wall, h > height - 0.12, tint((0.4, 0.38, 0.34), 1 + 0.1 * grain(s, h, px)))
    return Patch(wall)


def paint_bricks(s, h, px, *, color, salt) -> Float[np.ndarray, "n 3"]:
    """Running bond: 0.075 m courses of 0.225 m bricks."""
    course = np.floor(h / 0.075)
    along = s / 0.225 + 0.5 * (course % 2)
    brick = np.floor(along)
    tone = 0.7 * resolved(0.15, px) * (hash_cells(brick, course, salt) - 0.5)
    # Where single bricks are no longer seen their tone still varies from patch to patch.
    patchy = 0.35 * (noise(s / 6, h / 6) - 0.5)
    mortar = resolved(0.03, px) * ((along - brick < 0.08) | (h / 0.075 - course < 0.16))
    rgb = tint(color, 1 + tone + patchy + 0.12 * grain(s, h, px))
    return rgb + mortar[:, None] * (np.float32(0.3) - rgb)


def paint_person(s, h, px, *, height, stride, shirt, trousers, skin, hair, bag) -> Patch:
    """A walking figure: legs, torso, arms, head; `stride` swings the limbs."""
    x, y = s / height, h / height

    def limb(x0, y0, x1, y1, width):
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return (x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2 < width**2

    legs = limb(0.035, 0.5, 0.04 + stride, 0.05, 0.045) | limb(
        -0.035, 0.5, -0.04 - stride, 0.05, 0.045
    )
    shoes = limb(0.04 + stride, 0.02, 0.075 + stride, 0.02, 0.028)
    shoes |= limb(-0.04 - stride, 0.02, -0.005 - stride, 0.02, 0.028)
    torso = limb(0, 0.56, 0, 0.74, 0.088)
    arms = limb(0.095, 0.78, 0.12 - stride, 0.5, 0.032) | limb(
        -0.095, 0.78, -0.12 + stride, 0.5, 0.032
    )
    head = (x / 0.058) ** 2 + ((y - 0.915) / 0.075) ** 2 < 1
    cap = head & (y > 0.925 + 0.3 * x)
    neck = limb(0, 0.83, 0, 0.88, 0.03)
    carried = limb(-0.14, 0.42, -0.14, 0.5, 0.05) if bag else np.zeros_like(legs)
    shade = 0.85 + 0.3 * noise(s * 1.3, h * 1.3) + 0.2 * grain(s, h, px)
    rgb = tint(trousers, shade)
    put(rgb, carried, tint((0.05, 0.03, 0.03), shade))
    put(rgb, shoes, (0.02, 0.02, 0.02))
    put(rgb, torso | arms, tint(shirt, shade))
    put(rgb, torso & (x > 0.06), tint(shirt, 0.6 * shade))
    put(rgb, neck | head | (arms & (y < 0.52)), tint(skin, shade))
    put(rgb, cap, tint(hair, shade))
    normal = np.stack([np.clip(x * 6, -0.8, 0.8), 0.2 + 0 * x, 0.7 + 0 * x], -1)
    return Patch(rgb, legs | shoes | torso | arms | head | neck | carried, normal)


def paint_crown(s, h, px, *, centers, radii, depths, color, salt) -> Patch:
    """Foliage: a union of ragged balls, each lit as a ball.

    centers: [k, 2] (s, h); radii: [k]; depths: [k], metres towards the camera.
    """
    leaf = noise(s / 3.1 + salt / 9, h / 3.1)
    fine = noise(s / 0.9, h / 0.9 + salt / 5)
    ds = s[:, None] - centers[:, 0]
    dh = h[:, None] - centers[:, 1]
    inside = (
        1
        - (ds**2 + dh**2) / radii**2
        - 0.75 * (leaf[:, None] - 0.35)
        - 0.35 * (fine[:, None] - 0.5)
    )
    bulge = np.where(inside > 0, depths + radii * np.sqrt(np.clip(inside, 0, 1)), -np.inf)
    ball = bulge.argmax(1)
    index = np.arange(len(s))
    relief, nx, ny = bulge[index, ball], ds[index, ball], dh[index, ball]
    keep = np.isfinite(relief)
    relief = np.where(keep, relief, 0)
    radius = radii[ball]
    wobble = 1.6 * (fine - 0.5)
    normal = np.stack([nx / radius + wobble, ny / radius + 0.3 + wobble, 0.55 + 0 * s], -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    # Leaves below and inside the crown see less of the sky.
    hollow = 0.45 + 0.55 * np.clip(0.6 + 0.6 * ny / radius, 0, 1)
    shade = hollow * (0.35 + 0.9 * fine + 0.3 * leaf) * (1 + 0.4 * grain(s, h, px))
    return Patch(tint(color, shade), keep, normal, relief)


def paint_sign(s, h, px, *, kind, color, width, height, salt) -> Patch:
    """Round, triangular or rectangular traffic signs, direction boards and signal heads."""
    x, y = 2 * s / width, 2 * h / height - 1
    plain = np.ones_like(s)
    if kind == "round":
        radius = np.sqrt(x**2 + y**2)
        rgb = tint((0.75, 0.75, 0.75), plain)
        put(rgb, radius > 0.72, color)
        put(rgb, (np.abs(y) < 0.18) & (np.abs(x) < 0.5), (0.03, 0.03, 0.03))
        return Patch(rgb, radius < 1)
    if kind == "triangle":
        edge = (1 - y) / 2 - np.abs(x)
        rgb = tint((0.75, 0.75, 0.7), plain)
        put(rgb, (edge < 0.28) | (y < -0.72), color)
        put(rgb, (np.abs(x) < 0.1) & (np.abs(y + 0.25) < 0.35), (0.03, 0.03, 0.03))
        return Patch(rgb, edge > 0)
    if kind == "signal":
        rgb = tint((0.02, 0.02, 0.02), plain)
        glow = np.zeros_like(s)
        for lamp, light in enumerate(((0.8, 0.03, 0.02), (0.7, 0.35, 0.02), (0.03, 0.6, 0.2))):
            bulb = (x / 0.6) ** 2 + ((y - 0.62 + 0.62 * lamp) / 0.24) ** 2 < 1
            put(rgb, bulb, np.multiply(light, 1.0 if lamp == salt % 3 else 0.12))
            glow[bulb & (lamp == salt % 3)] = 1.2
        return Patch(rgb, glow=glow)
    rgb = tint(color, plain)
    line = np.floor((y + 1) * 2.5)
    word = hash_cells(np.floor(s / (0.06 * height + 0.03)), line, salt) > 0.3
    ragged = np.abs(x + 0.1) < 0.55 + 0.3 * hash_cells(line, line, salt)
    text = word & ragged & (np.abs((y + 1) * 2.5 - line - 0.5) < 0.28) & (np.abs(y) < 0.8)
    border = (np.abs(np.abs(x) - 0.93) < 0.03) | (np.abs(np.abs(y) - 0.88) < 0.05)
    put(rgb, text | border, (0.75, 0.75, 0.72))
    return Patch(rgb)
