"""What both sample pictures are made of: noise, soft steps and blends of colour."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nst_fast.errors import UsageError

SEED = 1889
SMALLEST = 32

# float32 throughout; the stubs of NumPy hold that a Python number makes float64 of it.
Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@cache
def _lattice() -> Floats:
    return np.random.default_rng(SEED).random(256 * 256, dtype=np.float32)


def noise(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Smooth value noise in [-1, 1] at any coordinates, and its two derivatives; it repeats after 256."""
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    ix, iy = left.astype(np.int32), top.astype(np.int32)
    x0, x1, y0, y1 = ix & 255, (ix + 1) & 255, (iy & 255) << 8, ((iy + 1) & 255) << 8
    table = _lattice()
    a, b, c, d = table[y0 + x0], table[y0 + x1], table[y1 + x0], table[y1 + x1]
    ux, uy, twist = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), a - b - c + d
    value = a + (b - a) * ux + (c - a) * uy + twist * ux * uy
    slopes = 12 * fx * (1 - fx) * (b - a + twist * uy), 12 * fy * (1 - fy) * (c - a + twist * ux)
    return 2 * value - 1, *slopes


def fbm(x: Floats, y: Floats, octaves: int, erosion: float = 0.0) -> Floats:
    """Octaves of noise, each turned against the last; erosion flattens detail on steep slopes, as rain does."""
    total: Floats = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    slope_x, slope_y = np.zeros_like(total), np.zeros_like(total)
    for octave in range(1, octaves + 1):
        value, dx, dy = noise(x, y)
        slope_x, slope_y = slope_x + dx, slope_y + dy
        total = total + 0.5**octave * value / (1 + erosion * (slope_x**2 + slope_y**2))
        x, y = 1.6 * x + 1.2 * y + 17.3, 1.6 * y - 1.2 * x + 5.1
    return total


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    """0 below ``low``, 1 above ``high`` (or the reverse when ``low > high``), an S between."""
    t: Floats = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(first: ArrayLike, second: ArrayLike, share: Floats) -> Floats:
    """Colours between ``first`` (share 0) and ``second`` (share 1)."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * share[..., None]


def ramp(colors: Floats, position: Floats) -> Floats:
    """The colour at a position from 0 (the first) to 1 (the last)."""
    t = np.clip(position, 0, 1) * (len(colors) - 1)
    i = np.minimum(t.astype(np.int32), len(colors) - 2)
    return mix(colors[i], colors[i + 1], t - i)


def hexes(codes: str) -> Floats:
    """Colours ``[N, 3]`` in display values (0 to 255) from hexadecimal codes such as ``f2b01f``."""
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32)


def check_size(size: int) -> None:
    """Raise :class:`UsageError` for a picture too small to show anything."""
    if size < SMALLEST:
        raise UsageError(f"a sample picture of {size} pixels is too small", f"Ask for {SMALLEST} or more")
