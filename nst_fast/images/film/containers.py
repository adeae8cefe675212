"""Films in containers (MP4, MOV, MKV, WebM, AVI and others that FFmpeg reads), by PyAV."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nst_fast.errors import InputError, UsageError
from nst_fast.images.decoding import Limits
from nst_fast.images.film.facts import Film, FilmInfo, Part, Pixels
from nst_fast.system.files import shown

# Never a playlist or a script, which would have FFmpeg open other files and addresses.
DEMUXERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,nut,ivf,obu,h264,hevc,m4v,yuv4mpegpipe,dv,rm,"
    "wav,mp3,flac,aac"
)
_INDEXED = ("mov", "matroska")  # their packets, without being decoded, tell when which frame is shown
_UNSHOWN = ("vp8",)  # but for codecs that have packets without a frame
_REMEDY = "Get it again, or convert it with `ffmpeg -i IN -c:v libx264 -crf 12 OUT.mp4`"
_TONE_MAP = "zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:p=bt709,format=yuv420p"
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions, and below primaries and matrices, as ITU-T H.273 numbers them
_BT2020 = 9
BT709, _BT601, _UNSTATED = 1, 5, 2
_HD_HEIGHT = 720  # from here on colours that do not say so are BT.709, below BT.601: the rule of players
# BICUBIC | FULL_CHR_H_INT | ACCURATE_RND | BITEXACT of libswscale: colours of 4:2:0 between pixels, the same anywhere
SCALING = 4 | 0x2000 | 0x40000 | 0x80000

_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER", "DURATION")


def check_installed(name: str) -> None:
    """Raise :class:`UsageError` unless PyAV is installed."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"{name}: films need PyAV", "`pip install av`")


def open_container(path: Path, part: Part, limits: Limits) -> Film:
    """See :func:`nst_fast.images.film.open_film`."""
    name = shown(path)
    check_installed(name)
    with opened(path) as container:
        stream = _pictures(container, name, limits)
        limits.check(stream.codec_context.width, stream.codec_context.height, name)
        _check_colors(stream.codec_context, name)
        clock = _clock(path, container, stream, name)
        first, stop = part.of(clock, name)
        info = _info(container, stream, clock[first : stop + 1], name)
    sound = (clock[first] if first else None, clock[stop] if stop < len(clock) - 1 else None)
    return Film(replace(info, sound=sound), first, partial(_read, path, limits, clock))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A container that is read; what FFmpeg reports becomes :class:`InputError`."""
    with readable(shown(path)), ExitStack() as stack:
        yield input_of(path, stack)


def input_of(path: Path, stack: ExitStack) -> Any:
    """A container that is read until a stack is left. Raises what FFmpeg raises."""
    import av

    file = stack.enter_context(path.open("rb"))  # by its name, FFmpeg would take some files for addresses or devices
    return stack.enter_context(av.open(file, "r", options={"format_whitelist": DEMUXERS}))


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What FFmpeg reports becomes :class:`InputError`."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise InputError(f"{name} is damaged, cut short or no film that can be read ({reason})", _REMEDY) from error


def _pictures(container: Any, name: str, limits: Limits) -> Any:
    """The stream of pictures; the cover of a piece of music is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise InputError(f"{name} is of a kind that this PyAV cannot decode", _REMEDY)
            # Whatever a header says.
            stream.codec_context.options = {"max_pixels": str(int(limits.max_megapixels * 1e6))}
            return stream
    raise InputError(f"{name} has no pictures" + ", only sound" * bool(container.streams.audio), "Give a film")


def _check_colors(codec: Any, name: str) -> None:
    """Refuse what is not in the range and colours of sRGB: shown as it is it would look flat and pale."""
    kind = _HDR.get(codec.color_trc) or ("BT.2020" if codec.color_primaries == _BT2020 else None)
    if kind:
        message = f"{name} is in HDR or wide colour ({kind}), of which there is no one way to sRGB"
        raise InputError(message, f"Convert it first: `ffmpeg -i IN -vf {_TONE_MAP} -c:a copy OUT.mp4`")


def _info(container: Any, stream: Any, clock: Sequence[Fraction], name: str) -> FilmInfo:
    """The facts of a part whose frames begin and end at these times of the file's clock."""
    container.seek(0)
    frame = next(_decoded(container, stream), None)
    if frame is None:
        raise InputError(f"{name} has no frame that can be decoded", _REMEDY)
    pixels, aspect = _upright(frame, _has_alpha(stream)), Fraction(stream.sample_aspect_ratio or 1)
    return FilmInfo.of_clock(
        clock,
        pixels.shape[:2],
        audio=bool(container.streams.audio),
        alpha=pixels.shape[2] == 4,
        pixel_aspect=1 / aspect if _turn(frame)[0] else aspect,
        metadata=tuple((key, text) for key, text in container.metadata.items() if key not in _OF_THE_FILE),
        notes=("interlaced: each frame shows two moments (`ffmpeg -i IN -vf yadif OUT.mp4`)",) * frame.interlaced_frame,
    )


def _clock(path: Path, container: Any, stream: Any, name: str) -> list[Fraction]:
    """When each frame is shown and, behind them, when the last one ends, in seconds on the file's clock."""
    usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    shown_at: dict[Fraction, Fraction] = {}  # and how long
    if _is_indexed(container, stream):
        end = Fraction(0)
        for packet in container.demux():
            if packet.pts is not None:
                begins, lasts = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
                end = max(end, begins + lasts)
                if packet.stream.index == stream.index and not packet.is_discard:
                    shown_at[begins] = lasts or usual
        _check_whole(path, container, stream, end + usual, name)
    else:
        shown_at = {at: _seconds(frame, stream) or usual for at, frame in _timed(container, stream)}
    if not shown_at:
        raise InputError(f"{name} has no frame", _REMEDY)
    times = sorted(shown_at)
    return [*times, times[-1] + shown_at[times[-1]]]


def _is_indexed(container: Any, stream: Any) -> bool:
    return container.format.name.startswith(_INDEXED) and stream.codec_context.name not in _UNSHOWN


def _check_whole(path: Path, container: Any, stream: Any, end: Fraction, name: str) -> None:
    """Raise :class:`InputError` if a file ends before its index or its header says."""
    promised = Fraction(container.duration or 0, 10**6) if container.format.name.startswith("matroska") else 0
    behind = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end < promised or behind > path.stat().st_size:
        raise InputError(f"{name} is cut short", _REMEDY)


def _timed(container: Any, stream: Any) -> Iterator[tuple[Fraction, Any]]:
    """Frames from here on, and when they are shown; one that does not say so follows the one before."""
    at = Fraction(0)
    for frame in _decoded(container, stream):
        at = at if frame.pts is None else frame.pts * stream.time_base
        yield at, frame
        at += _seconds(frame, stream) or 1 / Fraction(stream.guessed_rate or 25)


def _seconds(frame: Any, stream: Any) -> Fraction:
    return Fraction((frame.duration or 0) * stream.time_base)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    import av

    decoder = stream.codec_context
    if _has_hidden_alpha(stream):  # beside the pictures, where FFmpeg's own decoders do not look
        decoder = av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[decoder.name], "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet if packet.size else None)


def _has_hidden_alpha(stream: Any) -> bool:
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9")


def _has_alpha(stream: Any) -> bool:
    layout = stream.codec_context.format
    return _has_hidden_alpha(stream) or (layout is not None and any(part.is_alpha for part in layout.components))


def _upright(frame: Any, alpha: bool) -> Pixels:
    """A decoded frame as sRGB, turned as its display matrix says."""
    matrix = frame.colorspace
    if matrix == _UNSTATED:
        matrix = BT709 if frame.height >= _HD_HEIGHT else _BT601
    rgb = frame.reformat(format="rgba" if alpha else "rgb24", src_colorspace=matrix, interpolation=SCALING)
    pixels = np.asarray(rgb.to_ndarray())
    swap, flips = _turn(frame)
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.flip(pixels, flips))


def _turn(frame: Any) -> tuple[bool, tuple[int, ...]]:
    """Whether a frame's display matrix swaps rows and columns, and the axes that it then flips."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, ()
    right, down_of_x, _, right_of_y, down = np.frombuffer(bytes(data), np.int32)[:5]
    swap = abs(down_of_x) > abs(right)
    x, y = (right_of_y, down_of_x) if swap else (right, down)
    return bool(swap), (0,) * bool(y < 0) + (1,) * bool(x < 0)


def _read(path: Path, limits: Limits, clock: Sequence[Fraction], first: int, stop: int) -> Generator[Pixels]:
    name, wanted = shown(path), first
    with opened(path) as container:
        stream = _pictures(container, name, limits)
        alpha, size = _has_alpha(stream), None
        if _is_indexed(container, stream):
            container.seek(int(clock[first] / stream.time_base), stream=stream)
        for at, frame in _timed(container, stream):
            if at < clock[wanted]:
                continue
            if at != clock[wanted] or frame.is_corrupt:
                break
            pixels = _upright(frame, alpha)
            size = size or pixels.shape
            if pixels.shape != size:
                raise InputError(f"{name}: the size of its frames changes at {float(at):.3f} s", _REMEDY)
            yield pixels
            wanted += 1
            if wanted == stop:
                return
    raise InputError(f"{name}: the frame at {float(clock[wanted]):.3f} s is damaged or missing", _REMEDY)
