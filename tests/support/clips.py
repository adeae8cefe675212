"""Films drawn by code: a camera that pans past two layers, a disc that moves, a cut; with their true motion."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nst_fast.images.film import FilmInfo, Frame, write_film

Field = NDArray[np.float64]
SKY, GROUND, DISC = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Clip:
    """Pictures and what is true of them.

    Attributes:
        frames: uint8 [T, H, W, 3].
        flow: float32 [T, H, W, 2], x and y in pixels: what is at (x, y) of frame t was at (x, y) + flow in frame t - 1.
        occluded: bool [T, H, W]: not to be seen in the frame before; all of the first frame and of one behind a cut.
        still: bool [T, H, W]: does not move between any two frames.
    """

    frames: NDArray[np.uint8]
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    still: NDArray[np.bool_]


def made_clip(
    frames: int = 8, size: tuple[int, int] = (48, 64), *, cut: int | None = None, pan: float = 1.0, seed: int = 0
) -> Clip:
    """A camera that pans by ``pan`` pixels per frame: the ground goes past at that speed, the sky at a third of it.

    A disc crosses it. With ``pan`` 0 only the disc moves. From frame ``cut`` on another scene is seen.
    """
    scenes = [_Scene(size, pan, seed + (cut is not None and at >= cut)) for at in range(frames)]
    starts = [at == 0 or at == cut for at in range(frames)]
    pictures = np.stack([scene.picture(at) for at, scene in enumerate(scenes)])
    moved = [scene.motion(at, start) for at, (scene, start) in enumerate(zip(scenes, starts, strict=True))]
    layers = np.stack([scene.layer(*scene.pixels, at) for at, scene in enumerate(scenes)])
    still = np.broadcast_to((layers != DISC).all(0) & (pan == 0) & (cut is None), layers.shape)
    return Clip(pictures, np.stack([flow for flow, _ in moved]), np.stack([hidden for _, hidden in moved]), still)


def clip_info(clip: Clip, rate: Fraction = Fraction(25)) -> FilmInfo:
    count, height, width = clip.frames.shape[:3]
    return FilmInfo((height, width), tuple(at / rate for at in range(count)), count / rate)


def frames_of(pictures: NDArray[np.uint8], info: FilmInfo) -> list[Frame]:
    return [Frame(at, time, pixels) for at, (time, pixels) in enumerate(zip(info.times, pictures, strict=True))]


def write_clip(path: Path, clip: Clip, rate: Fraction = Fraction(25), *, audio: bool = False) -> Path:
    """The clip as a film, with a tone as its sound if asked for."""
    info = clip_info(clip, rate)
    sound = write_tone(path.with_name("tone.m4a"), float(info.duration)) if audio else None
    write_film(path, frames_of(clip.frames, info), info, audio=sound)
    return path


def write_tone(path: Path, seconds: float, codec: str = "aac", hertz: float = 440.0, rate: int = 48_000) -> Path:
    """A rising tone as a file of sound."""
    import av

    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=rate)
        at = np.arange(round(seconds * rate)) / rate
        wave = np.sin(2 * np.pi * hertz * at * (1 + at)) / 4
        frame = av.AudioFrame.from_ndarray((wave[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in (frame, None):
            for packet in stream.encode(part):
                out.mux(packet)
    return path


class _Scene:
    """Colours as functions of places, so that a shift by a part of a pixel is exact."""

    def __init__(self, size: tuple[int, int], pan: float, seed: int) -> None:
        self.height, self.width = size
        self.speeds = {SKY: (pan / 3, 0.0), GROUND: (pan, 0.0), DISC: (-1.5, 0.5)}
        chance = np.random.default_rng(seed)
        self.waves = chance.uniform(-0.6, 0.6, (3, 6, 2))  # of each layer: radians per pixel in x and y
        self.phases = chance.uniform(0, 2 * np.pi, (3, 6, 3))
        self.base = chance.uniform(70, 185, (3, 3))
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float64)
        self.pixels = columns, rows

    def picture(self, at: int) -> NDArray[np.uint8]:
        x, y = self.pixels
        layer = self.layer(x, y, at)
        picture = np.empty((self.height, self.width, 3))
        for kind, (across, down) in self.speeds.items():
            mask = layer == kind
            place = np.stack([x[mask] + across * at, y[mask] + down * at], -1)
            waves = np.sin(place @ self.waves[kind].T)[..., None] + np.sin(
                (place @ self.waves[kind].T)[..., None] + self.phases[kind]
            )
            picture[mask] = self.base[kind] + 10 * waves.sum(1)
        return picture.round().clip(0, 255).astype(np.uint8)

    def layer(self, x: Field, y: Field, at: int) -> NDArray[np.int64]:
        """What is to be seen at each place."""
        across = self.speeds[GROUND][0] * at
        horizon = self.height * (0.6 + 0.1 * np.sin((x + across) * 12 / self.width))
        ground = np.where(y > horizon, GROUND, SKY)
        disc_x, disc_y = (self.width * 0.15 - self.speeds[DISC][0] * at, self.height * 0.4 - self.speeds[DISC][1] * at)
        return np.where((x - disc_x) ** 2 + (y - disc_y) ** 2 < (self.height / 7) ** 2, DISC, ground)

    def motion(self, at: int, start: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        x, y = self.pixels
        layer = self.layer(x, y, at)
        flow = np.zeros((*layer.shape, 2), np.float32)
        if start:
            return flow, np.ones(layer.shape, np.bool_)
        for kind, speed in self.speeds.items():
            flow[layer == kind] = speed
        before_x, before_y = x + flow[..., 0], y + flow[..., 1]
        outside = (before_x < 0) | (before_x > self.width - 1) | (before_y < 0) | (before_y > self.height - 1)
        return flow, outside | (self.layer(before_x, before_y, at - 1) != layer)
