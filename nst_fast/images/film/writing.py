"""Write a film of any kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nst_fast.errors import UsageError
from nst_fast.images.encoding import QUALITY
from nst_fast.images.film.containers import SCALING, check_installed
from nst_fast.images.film.facts import FilmInfo, Frame, Pixels
from nst_fast.system.files import AnyPath, shown, write_atomic

_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".m4v": "mp4"}


def check_film_output(path: AnyPath, info: FilmInfo) -> None:
    """Raise :class:`UsageError` unless a film with these facts can be written under this name."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{shown(path)}: cannot write {Path(path).suffix}", f"Use {', '.join(_FORMATS)}")
    check_installed(shown(path))


def write_film(
    path: AnyPath, frames: Iterable[Frame], info: FilmInfo, *, audio: Path | None = None, quality: int = QUALITY
) -> None:
    """Write a film; the old file stays until the new one is complete.

    Args:
        path: the suffix chooses the kind.
        frames: as many as ``info`` has times; all of one size, which need not be that of ``info``.
        info: times, metadata and the part of the sound, as :func:`nst_fast.images.film.open_film` gave them.
        audio: a film whose sound is copied as it is, without encoding it again.
        quality: 1 to 100.

    Raises:
        UsageError: see :func:`check_film_output`.
        OutputError: the file cannot be written.
    """
    check_film_output(path, info)
    kind = _FORMATS[Path(path).suffix.lower()]
    write_atomic(path, lambda file: _write(file, kind, frames, info, audio, quality))


def _write(
    file: BinaryIO, kind: str, frames: Iterable[Frame], info: FilmInfo, audio: Path | None, quality: int
) -> None:
    import av

    base = Fraction(1, math.lcm(*(at.denominator for at in (*info.times, info.duration))))
    with av.open(file, "w", format=kind) as out:
        out.metadata.update(dict(info.metadata))
        stream: Any = out.add_stream("libx264", options={"crf": str(round(51 - 0.37 * quality))})
        encoder = stream.codec_context
        encoder.time_base = base
        encoder.max_b_frames = 0
        encoder.pix_fmt = "yuv420p"
        encoder.colorspace = encoder.color_primaries = encoder.color_range = 1  # BT.709, limited range
        encoder.color_trc = 13  # sRGB
        ends = {round(at / base): round(end / base) for at, end in zip(info.times, info.ends, strict=True)}
        for frame in _even(frames):
            if frame.index == 0:
                encoder.height, encoder.width = frame.pixels.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1, interpolation=SCALING
            )
            picture.pts, picture.time_base = round(frame.time / base), base
            _mux(out, stream.encode(picture), ends)
        _mux(out, stream.encode(None), ends)


def _mux(out: Any, packets: list[Any], ends: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = ends[packet.pts] - packet.pts
        out.mux(packet)


def _even(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames with even sides: the last row and column of odd ones twice, as colour has half the resolution."""
    for frame in frames:
        height, width = frame.pixels.shape[:2]
        pixels: Pixels = np.pad(frame.pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        yield Frame(frame.index, frame.time, np.ascontiguousarray(pixels))
