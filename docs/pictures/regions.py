"""The picture of docs/regions.md: ``python docs/pictures/regions.py``, from the program's own sample pictures.

Above: content, map of two soft regions, their styles, the result. Below: a cut-out and its pastiche on grey, and a
seamless texture, four times side by side.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from layouts import jpeg
from numpy.typing import NDArray
from PIL import Image

import nst_fast
from nst_fast.images import to_uint8
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jobs.series import run_series
from nst_fast.jobs.texture import plan_textures
from nst_fast.options.commands import TextureConfig

OUTPUT = Path(__file__).parent.parent / "images" / "regions.jpg"
HEIGHT, GAP, GREY = 192, 8, 150
RUN: dict[str, Any] = {"image_size": 256, "steps": 100, "monitor_every": 0, "checkpoint_every": 0}

Pixels = NDArray[np.uint8]


def main() -> None:
    content = draw_content(256)
    night = draw_style(256)
    autumn = np.ascontiguousarray(night[..., ::-1])  # the same strokes in other colours
    height, width = content.shape[:2]
    ramp = np.broadcast_to(np.linspace(-3, 4, width).clip(0, 1), (height, width))
    mask = (255 * ramp).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    disc = (255 * ((0.45 * height - np.hypot(rows - height / 2, columns - width / 2)) / 3).clip(0, 1)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, pixels in {"mask": mask, "autumn": autumn, "night": night}.items():
            Image.fromarray(pixels).save(folder / f"{stem}.png")
        regions = nst_fast.stylize(content, night, RUN, region=[(folder / "mask.png", folder / "autumn.png")])
        cut_out = nst_fast.stylize(np.dstack([content, disc]), night, RUN)
        config = TextureConfig(**RUN | {"image_size": 192, "seamless": "xy"})
        series = plan_textures([folder / "night.png"], [str(config.style_taps)], "0", config, (96, 96))
        run_series(series, folder / "texture", JobObserver())
        texture = np.asarray(Image.open(folder / "texture" / series.jobs[0].output))
    rows_of_pictures = [
        [content, np.repeat(mask[..., None], 3, 2), night, autumn, pixels_of(regions)],
        [on_grey(content, disc), on_grey(pixels_of(cut_out), disc), np.tile(texture, (2, 2, 1))],
    ]
    sheet = stacked([beside([at_height(picture) for picture in row]) for row in rows_of_pictures])
    OUTPUT.write_bytes(jpeg(sheet, sheet.shape[1]))


def pixels_of(pastiche: nst_fast.Pastiche) -> Pixels:
    return to_uint8(pastiche.image)


def on_grey(picture: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return (picture * share + GREY * (1 - share)).round().astype(np.uint8)


def at_height(picture: Pixels) -> Pixels:
    size = (round(picture.shape[1] * HEIGHT / picture.shape[0]), HEIGHT)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def beside(pictures: list[Pixels]) -> Pixels:
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def stacked(rows: list[Pixels]) -> Pixels:
    width = max(row.shape[1] for row in rows)
    filled = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(filled)[:-GAP]


if __name__ == "__main__":
    main()
