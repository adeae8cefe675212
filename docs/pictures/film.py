"""The strip of docs/video.md: ``python docs/pictures/film.py``, from the program's own sample pictures.

A camera pans over the scene. Above: frames; in the middle: each painted by itself; below: as a film.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from layouts import jpeg
from PIL import Image
from regions import beside, pixels_of, stacked

import nst_fast
from nst_fast.images.film import FilmInfo, Frame, open_film, write_film
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jobs.video import VideoRequest, run_video
from nst_fast.options.video import VideoConfig

OUTPUT = Path(__file__).parent.parent / "images" / "film.jpg"
HEIGHT, WIDTH, FRAMES, PAN = 192, 256, 4, 6  # pixels; how far the camera goes from frame to frame
RATE = Fraction(12)
RUN: dict[str, Any] = {"image_size": WIDTH, "steps": 100}


def main() -> None:
    scene = draw_content(400)
    top = (scene.shape[0] - HEIGHT) // 2
    contents = [scene[top : top + HEIGHT, at * PAN : at * PAN + WIDTH] for at in range(FRAMES)]
    style = draw_style(256)
    alone = [nst_fast.stylize(content, style, RUN, monitor_every=0) for content in contents]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        info = FilmInfo((HEIGHT, WIDTH), tuple(at / RATE for at in range(FRAMES)), FRAMES / RATE)
        frames = [Frame(at, info.times[at], np.ascontiguousarray(content)) for at, content in enumerate(contents)]
        write_film(folder / "scene.png", frames, info)
        Image.fromarray(style).save(folder / "style.png")
        output, config = folder / "painted.png", VideoConfig(**RUN)
        wanted = VideoRequest(film=folder / "scene.png", styles=[folder / "style.png"], output=output, config=config)
        run_video(wanted, JobObserver())
        with open_film(output) as film:
            together = [frame.pixels for frame in film.frames()]
    sheet = stacked([beside(row) for row in (contents, [pixels_of(pastiche) for pastiche in alone], together)])
    OUTPUT.write_bytes(jpeg(sheet, sheet.shape[1]))


if __name__ == "__main__":
    main()
