"""Films in containers (MP4, MOV, MKV, WebM, AVI and what else FFmpeg reads), by PyAV."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nst_fast.errors import InputError, UsageError
from nst_fast.images.decoding import Limits
from nst_fast.images.film.facts import Film, FilmInfo, Part, Pixels
from nst_fast.system.files import shown

_REMEDY = "Get it again, or convert it with `ffmpeg -i IN -c:v libx264 -crf 12 OUT.mp4`"
# BICUBIC | FULL_CHR_H_INT | ACCURATE_RND | BITEXACT of libswscale: colours of 4:2:0 between pixels, the same anywhere
SCALING = 4 | 0x2000 | 0x40000 | 0x80000


def check_installed(name: str) -> None:
    """Raise :class:`UsageError` unless PyAV is installed."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"{name}: films need PyAV", "`pip install av`")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its stream of pictures; what FFmpeg reports becomes :class:`InputError`."""
    import av

    name = shown(path)
    try:
        with path.open("rb") as file, av.open(file, "r") as container:
            stream = next((found for found in container.streams.video), None)
            if stream is None:
                raise InputError(f"{name} has no pictures", "Give a film")
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}", _REMEDY) from error


def open_container(path: Path, part: Part, limits: Limits) -> Film:
    """See :func:`nst_fast.images.film.open_film`."""
    name = shown(path)
    check_installed(name)
    with _opened(path) as (container, stream):
        limits.check(stream.codec_context.width, stream.codec_context.height, name)
        shown_at, last = _timestamps(container, stream)
        if not shown_at:
            raise InputError(f"{name} has no frame", _REMEDY)
        base = Fraction(stream.time_base)
        absolute = [at * base for at in shown_at]
        duration = absolute[-1] + last * base - absolute[0]
        first, stop = part.of([at - absolute[0] for at in absolute], duration, name)
        end = absolute[stop] if stop < len(absolute) else absolute[0] + duration
        info = FilmInfo(
            size=(stream.codec_context.height, stream.codec_context.width),
            times=tuple(at - absolute[first] for at in absolute[first:stop]),
            rate=(stop - first) / (end - absolute[first]),
            duration=end - absolute[first],
            audio=bool(container.streams.audio),
            begin=absolute[first],
            sound=(absolute[first] if first else None, end if stop < len(absolute) else None),
            metadata=tuple(container.metadata.items()),
        )
    return Film(info, first, partial(_read, path, shown_at))


def _timestamps(container: Any, stream: Any) -> tuple[list[int], int]:
    """When frames are shown, in order, and how long the last one is, in the stream's time base."""
    packets = {p.pts: p.duration or 0 for p in container.demux(stream) if p.pts is not None and not p.is_discard}
    times = sorted(packets)
    return times, packets[times[-1]] if times else 0


def _read(path: Path, shown_at: list[int], first: int, stop: int) -> Generator[Pixels]:
    with _opened(path) as (container, stream):
        container.seek(shown_at[first], stream=stream)
        wanted = first
        for frame in container.decode(stream):
            if frame.pts < shown_at[wanted]:
                continue
            if frame.pts != shown_at[wanted]:
                raise InputError(f"{shown(path)}: frame {wanted} is missing", _REMEDY)
            yield np.asarray(frame.reformat(format="rgb24", interpolation=SCALING, threads=1).to_ndarray())
            wanted += 1
            if wanted == stop:
                return
    raise InputError(f"{shown(path)}: frame {wanted} is missing", _REMEDY)
