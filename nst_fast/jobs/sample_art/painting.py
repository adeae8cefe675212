"""The sample style picture: a night over wheat fields, some five thousand strokes that follow a flow field.

First a plan says which colour and which direction each place has; then layers of strokes, broad to fine, are laid
over it, bristle by bristle; at the end the relief of the paint is lit from the upper left. Lengths are in picture
heights in the plan and in hundredths of the height for the strokes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

from nst_fast.jobs.sample_art.noise import SEED, Floats, Pixels, check_size, fbm, hexes, mix, noise, ramp, smoothstep

SKY = hexes("0b1638 12265e 1b3f94 2f66b5 5b97c4 a9c6b4 e9dfae")
SUN = hexes("b8431f e07a1c f2b01f f8d34a fdf0a8")
HILL = hexes("10203a 1a3a5c 2c5f73 4d8a78 9db565")
WHEAT = hexes("6b3410 a3601a cf8f1f e6b732 f4d765")
POPPY, GRASS = hexes("b8421c 3d6b3a")
CYPRESS = hexes("0a1a1c 14322a 24502f 4a6b2c 7a3a1c")

# Lights: x, y and radius. Eddies: x, y, radius and strength. Ridges: level, height, frequency and phase. Cypresses:
# middle, foot, tip and half the width. Layers of strokes: breadth, length, how often they cover the canvas, and how
# far their colours stray from the plan.
LIGHTS = (
    (0.97, 0.2, 0.115),
    (0.3, 0.1, 0.035),
    (0.62, 0.1, 0.028),
    (0.8, 0.47, 0.022),
    (0.44, 0.47, 0.03),
    (0.06, 0.4, 0.03),
)
EDDIES = ((0.46, 0.27, 0.17, 0.24), (0.70, 0.40, 0.11, -0.13), (0.13, 0.15, 0.11, 0.10), (1.18, 0.52, 0.10, 0.10))
RIDGES = ((0.55, 0.07, 3.1, 0.4), (0.63, 0.05, 4.3, 2.2))
CYPRESSES = ((0.155, 0.93, 0.16, 0.062), (0.262, 0.90, 0.42, 0.043))
LAYERS = ((3.4, 17, 2.2, 0.16), (2.1, 11, 2.2, 0.17), (1.25, 6.5, 1.5, 0.16), (0.8, 4.2, 0.6, 0.13))
PLAN_HEIGHT, PLAN_WIDTH = 400, 500
PRIMER = (18, 11, 5)
STEP = 0.75  # pixels from point to point of a stroke: under 1, so that none is left out
TURN = 0.35  # how far a brush follows the flow's turn from one point to the next


@dataclass
class _Plan:
    """What to paint at each place: ``[H, W, 3]`` colour in display values; the other planes are ``[H, W]``."""

    x: Floats
    y: Floats
    coarse: Floats  # noise that makes lines unsteady
    fine: Floats
    color: Floats
    flow: Floats  # strokes run along its level lines


def _plan_sky() -> _Plan:
    """A sky that streams round its eddies, with lights in rings."""
    y, x = (np.indices((PLAN_HEIGHT, PLAN_WIDTH), dtype=np.float32) + np.float32(0.5)) / PLAN_HEIGHT
    coarse, fine = fbm(3 * x, 3 * y, 4), fbm(6 * x + 40, 6 * y, 3)
    flow = y + 0.10 * coarse + 0.06 * np.sin(5.2 * x + 1)
    for eddy_x, eddy_y, radius, strength in EDDIES:
        flow += strength * np.exp(-((x - eddy_x) ** 2 + (y - eddy_y) ** 2) / radius**2)
    streams = 0.5 + 0.5 * np.sin(42 * flow + 2.5 * fine)
    glow, halo = np.zeros_like(x), np.zeros_like(x)
    for light_x, light_y, radius in LIGHTS:
        far = np.hypot(x - light_x, y - light_y) / radius
        glow = np.maximum(glow, smoothstep(1.7, 0.2, far + 0.10 * np.sin(14 * far) + 0.25 * fine))
        halo = np.maximum(halo, np.exp(-((far / 2) ** 2)) * (0.62 + 0.38 * np.sin(9 * far + 2 * fine)))
        flow += smoothstep(2.0, 1.2, far) * (-1.6 * radius * far - flow)
    sky = ramp(SKY, 0.52 * streams + 0.55 * halo + 0.30 * fine + 0.2 * coarse + 0.28 * y)
    color = mix(sky, ramp(SUN, 1.12 * glow - 0.1 + 0.12 * fine), smoothstep(0.12, 0.42, glow))
    return _Plan(x, y, coarse, fine, color, flow)


def _plan_hills(plan: _Plan) -> None:
    """Chains of hills, stroked along their ridges."""
    for step, (level, tall, frequency, phase) in enumerate(RIDGES):
        ridge = level + tall * np.sin(frequency * plan.x + phase) + 0.02 * np.sin(11 * plan.x + phase)
        under = plan.y - ridge
        tone = 0.30 + 0.22 * step + 0.28 * np.sin(60 * under + 3 * plan.fine) + 0.5 * plan.fine - 1.2 * under
        plan.color = mix(plan.color, ramp(HILL, tone), smoothstep(-0.003, 0.003, under))
        bent = plan.y - 0.9 * ridge + 0.05 * plan.coarse + 0.04 * plan.fine
        plan.flow = np.where(under > 0, bent, plan.flow)


def _plan_field(plan: _Plan) -> None:
    """Rows of wheat that meet at the horizon, with poppies between them."""
    under = plan.y - 0.72 - 0.03 * np.sin(2.6 * plan.x + 4)
    fan = (plan.x - 0.78) / np.maximum(plan.y - 0.60, 0.02)
    row = np.sin(9 * fan + 2 * plan.coarse)
    color = ramp(WHEAT, 0.52 + 0.36 * row + 0.45 * plan.fine)
    poppies = 0.9 * noise(19 * plan.x, 26 * plan.y)[0] * smoothstep(0, 0.1, under)
    color = mix(color, POPPY, smoothstep(0.30, 0.42, poppies))
    color = mix(color, GRASS, 0.8 * smoothstep(-0.72, -0.95, row))
    plan.color = mix(plan.color, color, smoothstep(-0.003, 0.003, under))
    plan.flow = np.where(under > 0, 0.35 * fan + 0.03 * plan.coarse, plan.flow)


def _plan_painting() -> tuple[Floats, Floats]:
    """Colour ``[H, W, 3]`` and stroke direction ``[H, W]`` (radians); cypresses stand before all else."""
    plan = _plan_sky()
    _plan_hills(plan)
    _plan_field(plan)
    down, right = np.gradient(plan.flow)
    color, angle = plan.color, np.arctan2(-right, down)
    for middle, foot, tip, half in CYPRESSES:
        t = np.clip((foot - plan.y) / (foot - tip), 0, 1)
        reach = half * np.sqrt(np.sin(np.pi * t**0.62).clip(0, 1)) * (1.05 - 0.45 * t) * ((t > 0) & (t < 1))
        off = (plan.x - middle - 0.018 * np.sin(9 * t)) / np.maximum(reach, 1e-3)
        inside = (np.abs(off) + 0.35 * plan.fine < 1) & (reach > 0.002)
        flames = ramp(CYPRESS, 0.28 + 0.25 * np.sin(5 * off + 16 * t) + 0.55 * plan.fine - 0.12 * off)
        color = np.where(inside[..., None], flames, color)
        angle = np.where(inside, 0.45 * np.sin(13 * t + 2.2 * off) - 0.25 * off - np.pi / 2, angle)
    return color, angle.astype(np.float32)


@dataclass(frozen=True)
class _Strokes:
    """N strokes of T points in plan coordinates (picture heights), in the order they are laid."""

    x: Floats  # [N, T]
    y: Floats
    angle: Floats
    breadth: Floats  # [N], times that of the layer
    light: Floats  # [N, 3], the two colours on the brush
    dark: Floats


def _look_up(plane: Floats, x: Floats, y: Floats) -> Floats:
    row = np.clip(y * PLAN_HEIGHT, 0, PLAN_HEIGHT - 1).astype(np.int32)
    column = np.clip(x * PLAN_HEIGHT, 0, PLAN_WIDTH - 1).astype(np.int32)
    found: Floats = plane[row, column]
    return found


def _trace_strokes(
    color: Floats, angle: Floats, count: int, length: float, points: int, spread: float, rng: Generator
) -> _Strokes:
    """Strokes through random places, both ways along the flow; the brush turns more slowly than the flow does."""
    x0, y0 = rng.random((2, count), dtype=np.float32) * np.array([[PLAN_WIDTH / PLAN_HEIGHT], [1]], np.float32)
    breadth = rng.uniform(0.7, 1.25, count).astype(np.float32)
    path = np.empty((3, count, points), np.float32)
    middle = points // 2
    for way, order in ((-1, range(middle - 1, -1, -1)), (1, range(middle, points))):
        x, y, heading = x0.copy(), y0.copy(), _look_up(angle, x0, y0)
        for point in order:
            path[:, :, point] = x, y, heading
            x += way * length / points * breadth * np.cos(heading)
            y += way * length / points * breadth * np.sin(heading)
            # A flow has no sign: the tangent of the difference is the same for both directions.
            heading += TURN * np.arctan(np.tan(_look_up(angle, x, y) - heading))
    value, tint = rng.normal(0, spread, (count, 1)), rng.normal(0, 60 * spread, (count, 3))
    light = _look_up(color, x0, y0) * (1 + 0.75 * value) + tint
    dark = light * rng.normal(0.94, 0.22, (count, 1)) + rng.normal(0, 18, (count, 3))
    return _Strokes(path[0], path[1], path[2], breadth, light.astype(np.float32), dark.astype(np.float32))


def _lay_strokes(canvas: Floats, strokes: _Strokes, thick: float, rng: Generator) -> None:
    """Lay strokes ``thick`` pixels broad onto ``[H, W, 4]`` colour and relief, each covering what lies under it."""
    height, width = canvas.shape[:2]
    count, points = strokes.x.shape
    along = np.linspace(0, 1, points, dtype=np.float32)[None, :, None]
    across = np.linspace(-1, 1, max(3, int(thick / 0.7)), dtype=np.float32)
    taper = np.sqrt(np.minimum(1, 3.2 * np.minimum(along + 0.07, 0.83 - 0.8 * along)))
    start_ridge = 0.3 * smoothstep(0.12, 0, along)
    for first in range(0, count, 400):
        part = slice(first, min(first + 400, count))
        bristle, grain = _load_brush(part.stop - first, points, len(across), rng)
        off = thick / 2 * strokes.breadth[part, None, None] * taper * across
        x = strokes.x[part, :, None] * height - np.sin(strokes.angle[part, :, None]) * off
        y = strokes.y[part, :, None] * height + np.cos(strokes.angle[part, :, None]) * off
        # Towards its end the stroke runs dry: thinly loaded bristles leave no paint.
        wet = bristle + 0.5 * grain > 1.9 * (along - 0.55)
        wet &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
        relief = (0.35 + 0.65 * bristle) * (1 - 0.55 * across**2) + 0.25 * across**6 + 0.15 * grain + start_ridge
        share = np.clip(1.5 * bristle - 0.25 + 0.25 * (grain - 0.5), 0, 1)
        owner = np.broadcast_to(np.arange(part.start, part.stop)[:, None, None], wet.shape)[wet]
        paint = np.empty((len(owner), 4), np.float32)
        paint[:, :3] = mix(strokes.light[owner], strokes.dark[owner], share[wet])
        paint[:, 3] = relief[wet] * np.sqrt(thick)
        # Where an index comes twice NumPy keeps the last value: the later stroke covers the earlier.
        canvas[y[wet].astype(np.int32), x[wet].astype(np.int32)] = paint


def _load_brush(count: int, points: int, bristles: int, rng: Generator) -> tuple[Floats, Floats]:
    """Paint on each bristle ``[N, 1, K]``, fine and in tufts, and how it varies along the stroke ``[N, T, K]``."""
    single = rng.random((count, 1, bristles), dtype=np.float32)
    tufts = rng.random((count, 1, bristles // 3 + 1), dtype=np.float32).repeat(3, axis=2)[..., :bristles]
    grain = rng.random((count, points // 6 + 1, bristles), dtype=np.float32).repeat(6, axis=1)[:, :points]
    return 0.6 * single + 0.4 * tufts, grain


def _light_paint(canvas: Floats) -> Pixels:
    """The canvas at half its size, its relief lit from the upper left, with a gleam on the steepest."""
    down, right = np.gradient(canvas[..., 3])
    facing = (0.8 * right + down) / np.sqrt(len(canvas) / 100)
    gleam = 42 * np.clip(facing - 0.75, 0, 1)
    lit = canvas[..., :3] * (1 + 0.42 * np.tanh(1.4 * facing))[..., None] + gleam[..., None]
    return np.array(Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).reduce(2))


def draw_style(size: int = 384) -> Pixels:
    """A night over wheat fields in thick strokes, uint8 ``[H, W, 3]`` RGB; ``W`` is ``size``, ``H`` four fifths of it.

    Raises :class:`UsageError` for a size under 32 pixels.
    """
    check_size(size)
    width, height = 2 * size, 2 * round(0.8 * size)
    color, angle = _plan_painting()
    primed = np.clip(0.8 * color + PRIMER, 0, 255).astype(np.uint8)
    ground = np.asarray(Image.fromarray(primed).resize((width, height)), np.float32)
    canvas = np.dstack([ground, np.zeros_like(ground[..., :1])])
    for layer, (thick, length, cover, spread) in enumerate(LAYERS):
        tracing, laying = np.random.default_rng([SEED, layer]).spawn(2)
        count = int(cover * 100 * 100 * PLAN_WIDTH / PLAN_HEIGHT / (thick * length))
        points = max(4, int(length / 100 * height / STEP))
        strokes = _trace_strokes(color, angle, count, length / 100, points, spread, tracing)
        _lay_strokes(canvas, strokes, thick / 100 * height, laying)
    return _light_paint(canvas)
