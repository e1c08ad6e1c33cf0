"""Houses, and the ground with its markings: the large surfaces of a procedural street."""

import dataclasses

import numpy as np

from sims_jax.data.street.materials import (
    Patch,
    grain,
    hash_cells,
    noise,
    paint_bricks,
    put,
    resolved,
    tint,
)

LINE_WHITE = (0.6, 0.6, 0.57)
LINE_YELLOW = (0.55, 0.38, 0.04)
KERB_M = 0.2
SHOP_M = 3.6  # height of the ground floor of shops
GLASS = (0.03, 0.035, 0.04)


@dataclasses.dataclass(frozen=True)
class Facade:
    """The look of one building; sizes in metres."""

    color: tuple[float, float, float]
    trim: tuple[float, float, float]
    accent: tuple[float, float, float]  # awning, door
    length: float
    height: float
    bricks: bool
    shop: bool
    floor: float
    bay: float
    window: tuple[float, float]  # share of the bay's width, of the floor's height
    lit: float  # share of the windows with light inside
    salt: int


def paint_facade(s, h, px, *, look: Facade, sky) -> Patch:
    """Windows in bays and floors over a ground floor with a door or shop windows."""
    if look.bricks:
        rgb = paint_bricks(s, h, px, color=look.color, salt=look.salt)
    else:
        stain = 0.3 * (noise(s / 11 + look.salt / 7, h / 11) - 0.5)
        streak = 0.25 * (noise(s / 2.5, h / 30 + look.salt / 5) - 0.5) * (h < look.height - 1)
        rgb = tint(look.color, 1 + stain + streak + 0.1 * grain(s, h, px))
    rgb *= (0.75 + 0.25 * np.clip(h / 1.5, 0, 1))[:, None]  # splashed base
    glow = np.zeros_like(s)
    base = SHOP_M if look.shop else 0.3
    bays = max(round(look.length / look.bay), 1)
    bay = look.length / bays
    column, row = np.floor(s / bay), np.floor((h - base) / look.floor)
    x, y = s / bay - column - 0.5, (h - base) / look.floor - row
    free = (h > base) & (base + (row + 1) * look.floor < look.height - 0.4)
    half, tall = look.window[0] / 2, look.window[1]
    dx, dy = (np.abs(x) - half) * bay, (np.abs(y - 0.55) - tall / 2) * look.floor
    string = (np.abs(y - 0.06) * look.floor < 0.1) & (h > base) & (look.salt % 3 == 0)
    put(rgb, string, tint(look.trim, 0.9 + 0.1 * grain(s, h, px)))
    frame = free & (dx < 0.1) & (dy < 0.1)
    put(rgb, frame, look.trim)
    sill = free & (dx < 0.16) & (y < 0.55) & (np.abs(dy - 0.1) < 0.07)
    put(rgb, sill, tint(look.trim, 1.1 + 0 * s))
    pane = free & (dx < 0) & (dy < 0)
    pane &= ~((np.abs(x) * bay < 0.04) | (np.abs(y - 0.65) * look.floor < 0.03))
    glass, light = paint_glass(column, row, (y - 0.55) / tall + 0.5, look, sky)
    put(rgb, pane, glass)
    glow[pane] = light[pane]
    reveal = free & (dx < 0) & (dy < 0) & ((y - 0.55 - tall / 2) * look.floor > -0.14)
    put(rgb, reveal, (0.02, 0.02, 0.02))
    low = np.flatnonzero(h < base) if look.shop else ()
    if len(low):
        rgb[low], glow[low] = paint_shop(s[low], h[low], look, sky)
    if not look.shop:
        door = (np.abs(s - (column + 0.5) * bay) < 0.55) & (h < 2.3) & (column == bays // 2)
        around = (np.abs(s - (column + 0.5) * bay) < 0.75) & (h < 2.5) & (column == bays // 2)
        put(rgb, around, look.trim)
        put(rgb, door, tint(look.accent, 0.8 + 0.4 * (np.floor(h / 0.55) % 2)))
    cornice = look.height - h
    put(rgb, cornice < 0.45, tint(look.trim, 0.9 + 0.15 * (cornice < 0.2)))
    put(rgb, (cornice > 0.45) & (cornice < 0.6), tint(look.color, 0.4 + 0 * s))
    pipe = (s < 0.14) & (cornice > 0.45)
    put(rgb, pipe, (0.1, 0.1, 0.1))
    return Patch(rgb, glow=glow)


def paint_glass(column, row, y, look: Facade, sky):
    """Window panes: the room behind, a curtain or light in it, and the sky they mirror."""
    chance = hash_cells(column, row, look.salt)
    other = hash_cells(row, column, look.salt + 91)
    mirror = (0.08 + 0.4 * other * np.clip(y, 0, 1) ** 2)[:, None]
    rgb = np.asarray(GLASS, np.float32) * (1 - mirror) + np.asarray(sky, np.float32) * mirror
    curtain = (other > 0.55) & (y > 0.15 + 0.6 * chance)
    put(rgb, curtain, tint((0.38, 0.36, 0.32), 0.6 + 0.4 * chance))
    lit = chance < look.lit
    put(rgb, lit, (0.6, 0.42, 0.2))
    return rgb, np.where(lit, 0.35 + 0.5 * other, 0).astype(np.float32)


def paint_shop(s, h, look: Facade, sky):
    """Shop windows between piers, an awning with letters over them."""
    unit = max(look.bay * 1.6, 3.5)
    shop = np.floor(s / unit)
    x = (s / unit - shop) * unit
    tone = hash_cells(shop, shop, look.salt)
    window = (h > 0.5) & (h < 2.7) & (x > 0.35) & (x < unit - 0.35)
    pane = window & (np.abs(x - unit * 0.36) > 0.05) & (h < 2.62)
    goods = 0.5 * (noise(s / 2.2, h / 2.2 + tone) > 0.62) * (h < 1.9)
    colors = np.stack([hash_cells(np.floor(s * 3), np.floor(h * 3), k) for k in range(3)], -1)
    mirror = np.asarray(sky, np.float32) * (0.05 + 0.12 * np.clip(h / 2.7, 0, 1))[:, None]
    rgb = tint(look.trim, 0.35 + 0.6 * tone)
    glow = np.zeros_like(s)
    put(rgb, window, (0.04, 0.04, 0.04))
    put(rgb, pane, 0.03 + mirror + 0.5 * colors * goods[:, None])
    door = (x > 0.45) & (x < 1.35) & (h < 2.6)
    put(rgb, door, tint(look.accent, 0.5 + 0.5 * (np.abs(x - 0.9) > 0.32)))
    board = (h > 2.72) & (h < 3.3) & (x > 0.15) & (x < unit - 0.15)
    shade = np.stack([0.08 + 0.6 * hash_cells(shop, shop, look.salt + k) for k in range(3)], -1)
    put(rgb, board, shade * np.asarray(look.accent, np.float32) * 2.2)
    letter = hash_cells(np.floor(s / 0.22), shop, look.salt) > 0.35
    word = board & letter & (np.abs(h - 3.0) < 0.14) & (np.abs(x - unit / 2) < unit * 0.3)
    put(rgb, word & (np.abs((s / 0.22) % 1 - 0.5) < 0.36), (0.65, 0.63, 0.55))
    put(rgb, h > 3.3, tint(look.trim, 0.8 + 0.2 * (h > 3.42)))
    lit = pane & (tone < 0.4 + look.lit)
    glow[lit] = 0.25 + look.lit
    return rgb, glow


def paint_roof(s, h, px, *, color, salt) -> Patch:
    """Rows of tiles."""
    row = np.floor(h / 0.35)
    tone = 0.35 * resolved(0.35, px) * (hash_cells(np.floor(s / 0.3 + 0.5 * row), row, salt) - 0.5)
    edge = 0.3 * resolved(0.12, px) * (h / 0.35 - row < 0.2)
    return Patch(tint(color, 0.9 + tone - edge + 0.4 * (noise(s / 30, h / 30) - 0.5)))


def paint_gable(s, h, px, *, color, depth, height, pitch) -> Patch:
    """A house's blind side wall, under a roof of that pitch (0: flat)."""
    shade = 0.85 + 0.35 * noise(s / 9, h / 9) + 0.08 * grain(s, h, px)
    eave = height + pitch * np.minimum(s, depth - s)
    rgb = tint(color, shade)
    put(rgb, h > eave - 0.25, tint(color, 0.5 * shade))
    return Patch(rgb, keep=h < eave)


@dataclasses.dataclass(frozen=True)
class Ground:
    """The street's ground plane; x from the road's middle, z along it, metres."""

    road_half: float
    lanes: int
    crossing: tuple[float, float]  # z of the side street, (0, 0) without one
    crossing_sides: tuple[bool, bool]  # left, right
    zebra: float  # z of a zebra crossing, negative without one
    yellow: bool  # yellow lines along the kerb
    asphalt: float  # albedo
    slab: float  # side of the pavement's slabs
    salt: int

    def is_road(self, x, z):
        """Where the ground is road and not pavement."""
        side = ((x < 0) & self.crossing_sides[0]) | ((x > 0) & self.crossing_sides[1])
        crossing = side & (z > self.crossing[0]) & (z < self.crossing[1])
        return (np.abs(x) < self.road_half) | crossing


def paint_road(s, h, px, *, ground: Ground) -> Patch:
    """Asphalt with stains, patches, wheel tracks, cracks and markings."""
    x, z, half = s, h, ground.road_half
    lane = 2 * half / ground.lanes
    worn = noise(x / 40 + ground.salt / 3, z / 90)
    stain = noise(x / 7, z / 25 + ground.salt / 7)
    track = np.cos(4 * np.pi * x / lane)
    shade = 1 + 0.4 * (worn - 0.5) + 0.25 * (stain - 0.5) - 0.07 * track
    patch = hash_cells(np.floor(x / 2.3), np.floor(z / 6.1), ground.salt)
    shade = shade * np.where(patch > 0.9, 0.72, np.where(patch < 0.06, 1.22, 1))
    crack = np.abs(noise(x / 13, z / 13 + ground.salt) - 0.5) < 0.006
    shade = shade * (1 - 0.5 * crack * resolved(0.06, px)) * (1 + 0.22 * grain(x, z, px))
    rgb = tint((1.0, 0.98, 0.96), ground.asphalt * shade)
    open_road = ~((z > ground.crossing[0] - 1) & (z < ground.crossing[1] + 1))
    edge = half - np.abs(x)
    line = np.zeros(len(x), bool)
    for k in range(1, ground.lanes):
        border = np.abs(x + half - k * lane) < 0.08
        line |= border & (
            ((z + 1.7 * k) % 6 < 3) | (2 * k == ground.lanes) & (ground.salt % 2 == 0)
        )
    line &= open_road
    wear = 0.75 + 0.5 * (stain - 0.5) + 0.2 * grain(x, z, px)
    zebra = (ground.zebra > 0) & (z > ground.zebra) & (z < ground.zebra + 3)
    line &= ~((ground.zebra > 0) & (np.abs(z - ground.zebra - 1.5) < 4))
    line |= zebra & ((x + half) % 1 < 0.5) & (edge > 0.3)
    line |= (ground.zebra > 0) & (np.abs(z - ground.zebra + 1.6) < 0.17) & (edge > 0.3)
    put(rgb, line, tint(LINE_WHITE, wear))
    if ground.yellow:
        doubled = (np.abs(edge - 0.3) < 0.05) | (np.abs(edge - 0.5) < 0.05)
        put(rgb, doubled & open_road, tint(LINE_YELLOW, wear))
    gutter = (edge > 0) & (edge < 0.18) & open_road
    put(rgb, gutter, tint((0.09, 0.085, 0.08), wear))
    cover = ((x - 0.6 * half) / 0.35) ** 2 + ((z % 23 - 9) / 0.35) ** 2 < 1
    put(rgb, cover, tint((0.05, 0.048, 0.045), wear))
    return Patch(rgb, keep=ground.is_road(x, z))


def paint_pavement(s, h, px, *, ground: Ground) -> Patch:
    """Slabs with joints behind a kerb of light stone."""
    x, z = np.abs(s), h
    side = ground.slab
    slab = hash_cells(np.floor(x / side), np.floor(z / side), ground.salt)
    joint = ((x / side) % 1 < 0.05) | ((z / side) % 1 < 0.05)
    joint = joint * resolved(0.06, px)
    shade = 1 + 0.25 * resolved(side, px) * (slab - 0.5) + 0.4 * (noise(x / 17, z / 17) - 0.5)
    shade = shade * (1 - 0.45 * joint) * (1 + 0.15 * grain(s, h, px))
    rgb = tint((0.29, 0.27, 0.245), shade)
    edge = x - ground.road_half
    kerb = edge < KERB_M
    stone = 1 - 0.4 * ((z % 0.9) < 0.05) * resolved(0.1, px) + 0.1 * grain(s, h, px)
    put(rgb, kerb, tint((0.38, 0.37, 0.35), stone))
    put(rgb, edge < 0.07, (0.1, 0.1, 0.095))  # the kerb's shaded face
    return Patch(rgb, keep=~ground.is_road(s, z))
