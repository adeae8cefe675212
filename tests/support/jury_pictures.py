"""Pictures for the jury's tests, drawn in whole numbers so that they are the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

Pixels = np.ndarray


def scene(height: int = 48, width: int = 64) -> Pixels:
    """A sky over a checked floor with a ball: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([60 + 90 * y // height, 90 + 80 * y // height, 220 - 60 * x // width], 2)
    floor = y > height * 2 // 3
    pixels[floor] = np.where((x // 7 + y // 5) % 2 == 0, 40, 180)[floor][:, None]
    pixels[(x - width // 3) ** 2 + (y - height // 2) ** 2 < height**2 // 9] = (200, 60, 40)
    return pixels.astype(np.uint8)


def brushwork(height: int = 48, width: int = 64) -> Pixels:
    """Rings and slanted strokes in ochre, green and blue: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    rings = ((x - 20) ** 2 + 2 * (y - 15) ** 2) // 9 % 200
    strokes = (3 * x + 5 * y) % 23 * 8
    return np.stack([30 + rings, 40 + (rings + strokes) // 3, 20 + strokes], 2).astype(np.uint8)


def painted_over(picture: Pixels, brush: Pixels, percent: int) -> Pixels:
    """A picture, so many per cent of its width from the left replaced by another of its size."""
    edge = picture.shape[1] * percent // 100
    return np.concatenate([brush[:, :edge], picture[:, edge:]], 1)


def save(folder: Path, name: str, pixels: Pixels) -> Path:
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path
