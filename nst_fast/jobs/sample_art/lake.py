"""The sample content picture: a lake between mountains at dusk, a chapel and a boat.

A small renderer: a height field seen in perspective and lit by a low sun. The reflection is the same scene seen by an
eye as far under the water. Right is x, up from the water is y, away from the eye is z; at a distance z the picture
shows a piece of the scene z wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from nst_fast.jobs.sample_art.noise import SEED, Bools, Floats, Pixels, check_size, fbm, mix, noise, ramp, smoothstep

Point = tuple[float, float, float]
Color = tuple[int, int, int]
HORIZON, EYE = 0.60, 0.16
MOON = (-0.215, 0.235)
SUNLIGHT, SKYLIGHT, MOONLIGHT, HAZE = np.array(
    [(3.1, 1.55, 0.72), (0.26, 0.33, 0.56), (0.55, 0.50, 0.42), (0.52, 0.42, 0.56)], np.float32
)
GLINT = np.array((30, 24, 29), np.float32)
# The sky from the horizon up, in even steps, as light; what is drawn with a brush is in display values.
SKY_LIGHT = np.array(
    [(0.80, 0.46, 0.40), (0.72, 0.44, 0.48), (0.42, 0.38, 0.60), (0.17, 0.25, 0.52), (0.05, 0.11, 0.31)]
)
STONE, SHADE, ROOF, TILES, LAMP = (204, 164, 138), (84, 82, 112), (74, 50, 58), (150, 74, 52), (255, 214, 116)
CHAPEL = (  # each face: its colour and its corners (right, up, away) in eightieths, back to front
    (SHADE, ((0, -8, 0), (0, 11, 0), (0, 11, 34), (0, -8, 34))),
    *((LAMP, ((0, 4, z), (0, 9, z), (0, 9, z + 3), (0, 4, z + 3))) for z in (8, 17, 26)),
    (ROOF, ((-1, 10, -1), (9, 22, -1), (9, 22, 34), (-1, 10, 34))),
    (STONE, ((0, -8, 0), (0, 11, 0), (9, 21, 0), (18, 11, 0), (18, -8, 0))),
    (TILES, ((9, 22, -1), (19, 10, -1), (19, 8, -1), (9, 20, -1))),
    (SHADE, ((5, -8, -4), (5, 28, -4), (5, 28, 4), (5, -8, 4))),
    (STONE, ((5, -8, -4), (5, 28, -4), (13, 28, -4), (13, -8, -4))),
    (ROOF, ((4, 28, 4), (4, 28, -4), (9, 43, 0))),
    (TILES, ((4, 28, -4), (14, 28, -4), (9, 43, 0))),
    (LAMP, ((7, -1, -4), (7, 6, -4), (9, 8, -4), (11, 6, -4), (11, -1, -4))),
    (LAMP, ((8, 20, -4), (8, 24, -4), (9, 25, -4), (10, 24, -4), (10, 20, -4))),
)


@dataclass(frozen=True)
class _Land:
    """The height field: one row for each distance, one column for each column of the picture."""

    z: Floats  # [Z, 1]
    height: Floats  # [Z, W], below 0 under water
    color: Floats  # [Z, W, 3], light

    def at(self, x: float, z: float) -> float:
        """The height of the ground, or of the water, at a place."""
        columns = self.height.shape[1]
        column = min(max(int((x / z + 0.5) * columns), 0), columns - 1)
        return max(float(self.height[np.abs(self.z[:, 0] - z).argmin(), column]), 0.0)


@dataclass(frozen=True)
class _Brush:
    """Where points of the scene fall in a picture seen by an eye at a height over (or under) the water."""

    width: int
    height: int
    eye: float

    def at(self, point: Point) -> tuple[float, float]:
        x, y, z = point
        return self.width * (0.5 + x / z), HORIZON * self.height - self.width * (max(y, 0.0) - self.eye) / z


def _make_land(width: int) -> _Land:
    z = np.geomspace(0.5, 16, 560, dtype=np.float32)[:, None]
    x = z * ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5)
    rough = fbm(0.42 * x + 3.7, 0.42 * z + 1.3, 9, erosion=0.55)
    far = smoothstep(4.5, 9.5, z + 0.5 * np.abs(x + 0.5))
    left = smoothstep(0.2, 2.2, 0.6 - x - 0.34 * z) * smoothstep(1.0, 2.5, z)
    right = smoothstep(0.0, 3.5, x - 0.30 * z - 0.5) * smoothstep(2.0, 4.5, z)
    height = (2.1 * far + 0.9 * left + right) * (0.62 + 1.55 * rough) + 0.10 * rough - 0.12
    bank = smoothstep(0.24, 0.60, x - 0.12 * (z - 2.8) + 0.25 * fbm(3 * x, 3 * z, 4))
    cape = bank * np.exp(-(((z - 3.1) / 0.6) ** 4))
    height += cape * (0.26 + 0.10 * fbm(4 * x, 4 * z, 5))
    trees = np.abs(noise(26 * x, 26 * z)[0]) * smoothstep(0.03, 0.1, height) * smoothstep(0.9, 0.5, height)
    height += 0.05 * trees * smoothstep(3.6, 4.2, z)
    return _Land(z, height, _color_land(np.maximum(height, 0), x, z))


def _color_land(height: Floats, x: Floats, z: Floats) -> Floats:
    """Rock, forest, meadow and snow, lit from the right, in the haze of their distance."""
    slope_x = np.gradient(height, axis=1) / np.gradient(x, axis=1)
    slope_z = np.gradient(height, axis=0) / np.gradient(z, axis=0)
    upright = 1 / np.sqrt(1 + slope_x**2 + slope_z**2)
    grain, fine = fbm(7 * x, 7 * z, 4), fbm(14 * x, 14 * z, 4)
    color = mix((0.20, 0.17, 0.17), (0.33, 0.28, 0.25), smoothstep(-0.4, 0.4, grain))
    woods = mix((0.030, 0.055, 0.035), (0.13, 0.12, 0.04), smoothstep(-0.3, 0.5, grain))
    color = mix(color, woods, smoothstep(0.95, 0.55, height + 0.5 * grain))
    meadow = mix((0.09, 0.09, 0.03), (0.26, 0.18, 0.06), smoothstep(-0.3, 0.3, fine))
    color = mix(color, meadow, smoothstep(0.24, 0.10, height + 0.15 * grain))
    color = mix(color, (0.05, 0.045, 0.045), smoothstep(0.035, 0.01, height + 0.03 * grain))
    snow = smoothstep(0.95, 1.35, height + 0.9 * grain - 0.1 * np.abs(slope_x)) * smoothstep(
        0.40, 0.62, upright + 0.2 * grain
    )
    color = mix(color, (0.92, 0.93, 0.97), snow)
    # A place is in shadow when a ray that climbs to the right at 0.3 meets higher ground.
    ray = (height - 0.30 * x)[:, ::-1]
    sunlit = smoothstep(0.10, 0.0, (np.maximum.accumulate(ray, axis=1) - ray)[:, ::-1])
    sunlit *= np.clip((0.30 - 0.78 * slope_x + 0.50 * slope_z) * upright, 0, 1)
    color *= sunlit[..., None] * SUNLIGHT + (0.28 + 0.65 * upright - 0.16 * np.tanh(slope_x))[..., None] * SKYLIGHT
    haze = (1 - np.exp(-np.maximum(z - 1.5, 0) / 15)) * np.exp(-0.3 * height)
    return mix(color, HAZE, haze)


def _color_sky(u: Floats, v: Floats) -> Floats:
    """The light of the sky, clouds and moon at ``u`` from the middle and ``v`` above the horizon, in picture widths."""
    t = np.clip(v / 0.46, 0, 1)
    color = ramp(SKY_LIGHT, np.sqrt(t))
    nearness = 1 / (v + 0.10)
    clouds = fbm(1.1 * u * nearness + 9, 0.9 * nearness + 0.3 * u + 4, 7, erosion=0.25)
    cover = smoothstep(-0.02, 0.40, clouds) * smoothstep(0.0, 0.1, v)
    shade = mix((0.95, 0.50, 0.36), (0.34, 0.27, 0.42), t)
    color = mix(color, mix(shade, (1.25, 0.72, 0.50), smoothstep(0.5, 0.0, cover) * (1 - 0.5 * t)), 0.8 * cover)
    distance = np.hypot(u - MOON[0], v - MOON[1])
    face = mix((0.85, 0.80, 0.66), (0.40, 0.38, 0.36), smoothstep(-0.1, 0.5, fbm(60 * u, 60 * v, 3)))
    color += face * (smoothstep(0.0265, 0.0245, distance) * (1 - 0.5 * cover))[..., None]
    shine = 0.35 * np.exp(-distance / 0.05) + 0.12 * np.exp(-distance / 0.16)
    color += shine[..., None] * MOONLIGHT
    return color


def _cast_rays(land: _Land, brush: _Brush) -> tuple[Floats, Bools]:
    """For each pixel the (fractional) row of the land that the eye sees there, and whether it sees any."""
    # From under the water no water is seen: it must not hide the land behind it.
    unseen = np.where(land.height > 0, land.height, -1e3) if brush.eye < 0 else np.maximum(land.height, 0)
    top = HORIZON * brush.height - brush.width * (unseen - brush.eye) / land.z
    skyline = -np.minimum.accumulate(top, axis=0)
    rows = -np.arange(brush.height, dtype=np.float32)
    columns = np.arange(brush.width)
    first = np.stack([np.searchsorted(column, rows) for column in np.ascontiguousarray(skyline.T)], axis=1)
    row = np.clip(first, 1, len(top) - 1).astype(np.int32)
    nearer, farther = top[row - 1, columns], top[row, columns]
    part = np.clip((nearer + rows[:, None]) / np.maximum(nearer - farther, 1e-6), 0, 1)
    return (row - 1 + part).astype(np.float32), first < len(top)


def _paint_view(land: _Land, brush: _Brush) -> tuple[Pixels, Bools]:
    """What the eye sees, in display values, and where it sees the bare surface of the lake."""
    row, hit = _cast_rays(land, brush)
    near, columns = row.astype(np.int32), np.arange(brush.width)
    far = np.minimum(near + 1, len(land.z) - 1)
    ground = mix(land.color[near, columns], land.color[far, columns], row - near)
    v = np.maximum(HORIZON * brush.height - np.arange(brush.height, dtype=np.float32), 0) / brush.width
    u = (columns.astype(np.float32) + 0.5) / brush.width - 0.5
    light = np.where(hit[..., None], ground, _color_sky(*np.meshgrid(u, v)))
    pixels = _expose(light)
    painted = _paint_objects(pixels, land, brush)
    return pixels, hit & (land.height[far, columns] <= 0) & ~painted


def _expose(light: Floats) -> Pixels:
    """Light to display values, with the shoulder and the contrast of film."""
    film = (1 - np.exp(-1.15 * np.maximum(light, 0))) ** (1 / 2.2)
    film += 0.44 * film * (1 - film) * (2 * film - 1)
    return np.asarray(255 * np.clip(film, 0, 1) + 0.5).astype(np.uint8)


def _paint_objects(pixels: Pixels, land: _Land, brush: _Brush) -> Bools:
    """Paint pines, chapel and boat onto a view, and say where: what is painted has alpha, what was there has none."""
    image = Image.fromarray(np.dstack([pixels, np.zeros_like(pixels[..., :1])]))
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(11)
    for z in np.linspace(3.7, 3.15, 14).tolist():
        _paint_pine(draw, brush, land, rng.uniform(0.34, 0.52) * z, z, rng)
    base = land.at(0.80, 3.1)
    for color, corners in CHAPEL:
        face = [brush.at((0.74 + x / 80, base + y / 80, 3.05 + z / 80)) for x, y, z in corners]
        draw.polygon(face, fill=color)
    for x, z in ((0.62, 3.45), (1.06, 2.95), (1.14, 2.85), (1.24, 2.75)):
        _paint_pine(draw, brush, land, x, z, rng)
    _paint_boat(draw, brush)
    out = np.asarray(image)
    painted: Bools = out[..., 3] > 0
    y, x = np.indices(out.shape[:2], dtype=np.float32) / brush.width
    rough = out[painted, :3] * (1 + 0.25 * fbm(90 * x[painted], 60 * y[painted], 4))[:, None]
    pixels[painted] = np.clip(rough, 0, 255).astype(np.uint8)
    return painted


def _paint_pine(draw: ImageDraw.ImageDraw, brush: _Brush, land: _Land, x: float, z: float, rng: Generator) -> None:
    """A pine of drooping branches, lit from the right."""
    base, size = land.at(x, z) - 0.03, rng.uniform(0.26, 0.54)
    (left, foot), (_, top) = brush.at((x, base, z)), brush.at((x, base + size, z))
    tall = brush.width * size / z
    draw.line([(left, foot), (left, top)], fill=(34, 26, 24), width=max(1, round(0.03 * tall)))
    for part in np.linspace(0.08, 1, 30):
        reach = tall * (0.03 + 0.21 * (1 - part) ** 0.85) * rng.uniform(0.75, 1.15)
        level = foot + (top - foot) * part
        for side in rng.permutation(np.linspace(-1, 1, 9)):
            droop = tall * (0.045 * (1.3 - abs(side)) + rng.uniform(0, 0.02))
            tip = (left + side * reach * rng.uniform(0.7, 1.1), level + droop)
            bend = ((left + tip[0]) / 2, level + 0.5 * droop - 0.01 * tall)
            lit = np.clip(0.7 * side + 0.25 + rng.normal(0, 0.35), 0, 1) * (0.55 + 0.45 * part)
            color = (int(16 + 112 * lit), int(26 + 78 * lit), int(28 + 30 * lit))
            draw.line([(left, level - 0.012 * tall), bend, tip], fill=color, width=max(1, round(0.016 * tall)))


def _paint_boat(draw: ImageDraw.ImageDraw, brush: _Brush) -> None:
    """A rowing boat, broadside; an eye under the water does not see into it."""
    along = np.linspace(0, 1, 13)
    rise, bulge = 0.036 + 0.04 * (2 * along - 1) ** 2, np.sin(np.pi * along)
    near = [brush.at((-0.42 + 0.25 * a, y, 1.9 - 0.05 * b)) for a, y, b in zip(along, rise, bulge, strict=True)]
    far = [brush.at((-0.42 + 0.25 * a, y, 1.9 + 0.10 * b)) for a, y, b in zip(along, rise, bulge, strict=True)]
    keel = [brush.at((-0.42 + 0.25 * (0.08 + 0.84 * a), 0, 1.9)) for a in along]
    wide = max(1, brush.width // 240)
    draw.polygon(near + keel[::-1], fill=(118, 50, 38))
    if brush.eye > 0:
        draw.polygon(near + far[::-1], fill=(44, 30, 34))
        for seat in (4, 8):
            draw.line([near[seat], far[seat]], fill=(168, 120, 84), width=2 * wide)
    draw.line(
        [((x + 2 * p) / 3, (y + 2 * q) / 3) for (x, y), (p, q) in zip(keel, near, strict=True)], fill=(86, 34, 30)
    )
    draw.line(near, fill=(222, 166, 120), width=wide)


def _fill_lake(above: Pixels, below: Pixels, water: Bools) -> Pixels:
    """The view with its water showing the mirrored view, shaken by ripples and darker towards the eye."""
    height, width = water.shape
    horizon = HORIZON * height
    start = int(horizon)
    row = np.arange(start, height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None]
    z = np.clip(EYE * width / np.maximum(row - horizon, 1), 0.3, 14)
    x = ((column + 0.5) / width - 0.5) * z
    ripple = fbm(5 * x, 16 * z + x, 4)
    near = (row - horizon) / (height - horizon)
    source_row = np.clip(2 * horizon - row + 0.028 * height * ripple * near, 0, height - 1).astype(np.int32)
    source_column = np.clip(column + 0.005 * width * ripple * near, 0, width - 1).astype(np.int32)
    deep = np.broadcast_to(0.06 + 0.40 * np.clip(near, 0, 1), ripple.shape)
    lake = mix(0.92 * below[source_row, source_column], (14, 30, 52), deep)
    lake += smoothstep(0.3, 0.6, ripple)[..., None] * GLINT
    filled = np.where(water[start:, :, None], lake, above[start:])
    return np.concatenate([above[:start], np.clip(filled, 0, 255).astype(np.uint8)])


def _plant_reeds(image: Image.Image) -> Image.Image:
    """Reeds in both lower corners, more of them on the left, drawn onto the image."""
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(5)
    t = np.linspace(0, 1, 9)
    for _ in range(230):
        left, edge = rng.random() < 0.72, rng.exponential(0.085)
        foot = (edge if left else 1 - 0.8 * edge) * image.width
        tall = rng.uniform(0.10, 0.30) * image.height * np.exp(-edge * (5 if left else 8))
        lean = rng.normal(0.12 if left else -0.1, 0.16)
        x, y = foot + tall * lean * t**2, image.height + 4 - tall * (t - 0.12 * abs(lean) * t**3)
        stem = list(zip(x.tolist(), y.tolist(), strict=True))
        lit, thick, bulrush = rng.random() ** 2, max(1, round(image.width / 420 * rng.uniform(0.6, 1.5))), rng.random()
        dark, light = (
            (int(k * (14 + 120 * lit)), int(k * (18 + 86 * lit)), int(k * (22 + 40 * lit))) for k in (0.8, 1)
        )
        draw.line(stem[:6], fill=dark, width=thick + 1)
        draw.line(stem[5:], fill=light, width=thick)
        if bulrush < 0.22:
            draw.line(stem[6:8], fill=(66, 36, 26), width=3 * thick)
    return image


def _develop(image: Image.Image) -> Pixels:
    """The finished photograph at half the size: a bloom round what is bright, and a little grain."""
    small = image.reduce(2)
    pixels = np.asarray(small, np.float32)
    bright = Image.fromarray(np.maximum(3 * pixels - 540, 0).clip(0, 255).astype(np.uint8))
    bloom = np.asarray(bright.filter(ImageFilter.GaussianBlur(small.width / 90)), np.float32)
    grain = np.random.default_rng(SEED).normal(0, 2, (*pixels.shape[:2], 1))
    return np.clip(pixels + 0.25 * bloom + grain + 0.5, 0, 255).astype(np.uint8)


def draw_content(size: int = 384) -> Pixels:
    """A lake between mountains at dusk, uint8 ``[H, W, 3]`` RGB; ``W`` is ``size``, ``H`` three quarters of it.

    Raises :class:`UsageError` for a size under 32 pixels.
    """
    check_size(size)
    width, height = 2 * size, 2 * round(0.75 * size)
    land = _make_land(width)
    above, water = _paint_view(land, _Brush(width, height, EYE))
    below, _ = _paint_view(land, _Brush(width, height, -EYE))
    return _develop(_plant_reeds(Image.fromarray(_fill_lake(above, below, water))))
