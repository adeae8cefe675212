"""Write a film of any kind."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from nst_fast.errors import OutputError, UsageError
from nst_fast.images.encoding import QUALITY, WRITABLE
from nst_fast.images.film.containers import BT709, SCALING, check_installed, input_of, opened, readable
from nst_fast.images.film.facts import FilmInfo, Frame, Pixels
from nst_fast.images.film.sequences import is_pattern, numbered, write_sequence
from nst_fast.system.files import AnyPath, shown, write_atomic


@dataclass(frozen=True)
class Kind:
    """What FFmpeg calls a container and its codec, and the layout of pixels without and with alpha."""

    container: str
    codec: str
    opaque: str
    alpha: str | None = None
    sound: bool = True
    base: Fraction | None = None  # of times, where the container has only one
    shortest: int = 1  # time of a frame, in the base


_MILLISECOND = Fraction(1, 1000)
_H264 = Kind("mp4", "libx264", "yuv420p")
_APNG = Kind("apng", "apng", "rgb24", "rgba", sound=False)
KINDS = {
    ".mp4": _H264,
    ".m4v": _H264,
    ".mkv": replace(_H264, container="matroska", base=_MILLISECOND),
    ".mov": Kind("mov", "prores_ks", "yuv444p10le", "yuva444p10le"),
    ".webm": Kind("webm", "libvpx-vp9", "yuv420p", "yuva420p", base=_MILLISECOND),
    # Players slow down frames of less than 0.02 s.
    ".gif": Kind("gif", "gif", "pal8", "pal8", sound=False, base=Fraction(1, 100), shortest=2),
    ".png": _APNG,
    ".apng": _APNG,
    ".webp": Kind("webp", "libwebp_anim", "bgra", "bgra", sound=False, base=_MILLISECOND),
}
_SRGB_CURVE, _FULL_RANGE, _LIMITED_RANGE = 13, 2, 1  # ITU-T H.273, libavutil
_FINEST = 10**6  # ticks per second, where the times of a film ask for more than that they are rounded to
_COARSE = Fraction(1, 90_000)
_WEBP_FLAGS = 20  # where they are in a file
_CLEAR = 255  # the entry of a GIF's palette that is transparent


def check_film_output(path: AnyPath, info: FilmInfo, audio: Path | None = None) -> None:
    """Raise :class:`UsageError` unless a film with these facts, and the sound of ``audio``, can have this name."""
    path, name = Path(path), shown(path)
    known = WRITABLE if is_pattern(path) else KINDS
    if path.suffix.lower() not in known:
        endings = f"{', '.join(known)}" + "; frames/%04d.png for numbered pictures" * (known is KINDS)
        raise UsageError(f"{name}: cannot write a film as {path.suffix or 'a name without suffix'}", f"Use {endings}")
    if is_pattern(path):
        return
    check_installed(name)
    kind = KINDS[path.suffix.lower()]
    if info.alpha and kind.alpha is None:
        remedy = "Use .mov, .webm, .png or .webp, or `transparency` background"
        raise UsageError(f"{name}: this kind holds no alpha", remedy)
    import av

    try:
        _try(kind, info, None)
    except av.FFmpegError as error:
        raise UsageError(f"{name}: this PyAV cannot write such a film ({error.strerror})", "Use .mp4") from error
    try:
        _try(kind, info, audio)
    except (av.FFmpegError, ValueError) as error:
        remedy = "Use .mkv, which holds any, or take the sound off: `ffmpeg -i IN -an -c copy OUT`"
        raise UsageError(f"{name}: this kind cannot hold the sound as it is", remedy) from error


def film_files(path: AnyPath) -> list[Path]:
    """The files that a film of this name replaces, for checks: itself, or the numbered pictures that there are."""
    return list(numbered(Path(path)).values()) if is_pattern(Path(path)) else [Path(path)]


def write_film(
    path: AnyPath,
    frames: Iterable[Frame],
    info: FilmInfo,
    *,
    audio: Path | None = None,
    quality: int = QUALITY,
    may_end_early: bool = False,
) -> None:
    """Write a film; the old file stays until the new one is complete.

    Args:
        path: ``.mp4`` and ``.mkv`` (H.264), ``.mov`` (ProRes 4444), ``.webm`` (VP9), ``.gif``, ``.png``, ``.apng``,
            ``.webp``, or numbered pictures (``frames/%04d.png``), of which each is written so.
        frames: as many as ``info`` has times, all of one size, which need not be that of ``info``. Where colours have
            half the resolution (H.264), the last row or column of an odd side is written twice.
        info: times, metadata and the part of the sound, as :func:`nst_fast.images.film.open_film` gave them.
        audio: a film whose sound is copied as it is, without encoding it again; packets that lie partly in the part
            are copied whole. Kinds of animation and numbered pictures have none.
        quality: 1 to 100, of the kinds that lose detail.
        may_end_early: whether there may be fewer frames than times; the film then ends with the last one.

    Raises:
        ValueError: the number of frames is not that of the times.
        UsageError: see :func:`check_film_output`.
        InputError: the sound cannot be read.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    check_film_output(path, info, audio)
    timed = zip(frames, info.times, strict=not may_end_early)
    if is_pattern(path):
        write_sequence(path, (frame for frame, _ in timed), quality)
    else:
        write_atomic(path, lambda file: _write(file, KINDS[path.suffix.lower()], timed, info, audio, quality))


def _write(
    file: BinaryIO,
    kind: Kind,
    timed: Iterator[tuple[Frame, Fraction]],
    info: FilmInfo,
    audio: Path | None,
    quality: int,
) -> None:
    import av

    first, begin = next(timed)
    info = replace(info, size=first.pixels.shape[:2], alpha=first.pixels.shape[2] == 4)
    try:
        with _begun(file, kind, info, audio, quality) as (out, stream, clock, sound):
            for index, (frame, time) in enumerate(chain([(first, begin)], timed)):
                if index in clock.begins:
                    picture = _picture(frame.pixels, kind)
                    picture.pts, picture.time_base = clock.begins[index], clock.base
                    _mux(out, stream.encode(picture), clock)
                sound.mux(out, time + clock.delay)
            _mux(out, stream.encode(None), clock)
            sound.mux(out, None)
            out.close()
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file
            raise
        raise OutputError(f"the film cannot be written ({error.strerror})") from error
    if kind.container == "webp" and info.alpha:  # which libwebp forgets if each frame is opaque where it differs
        file.seek(_WEBP_FLAGS)
        file.write(b"\x12")  # an animation with alpha


class _Clock:
    """When each frame of a new film begins, by its index, and how long it is, by its begin, in ticks of the base.

    Frames that would be too short for the kind are left out, and the one before is longer. The first one begins when
    the sound has gone on for ``early`` seconds.
    """

    def __init__(self, info: FilmInfo, kind: Kind, early: Fraction) -> None:
        exact = math.lcm(*(at.denominator for at in (*info.times, info.duration)))
        self.base = kind.base or (Fraction(1, exact) if exact <= _FINEST else _COARSE)
        first = math.ceil(early / self.base)
        self.delay = first * self.base
        self.begins: dict[int, int] = {}
        last = first - kind.shortest
        for index, time in enumerate(info.times):
            begin = first + round(time / self.base)
            if begin - last >= kind.shortest:
                self.begins[index] = last = begin
        end = max(last + kind.shortest, first + round(info.duration / self.base))
        begins = list(self.begins.values())
        self.last = (end - begins[-1]) * self.base  # seconds
        self.lengths = {begin: after - begin for begin, after in zip(begins, (*begins[1:], end), strict=True)}


def _mux(out: Any, packets: list[Any], clock: _Clock) -> None:
    for packet in packets:
        packet.duration = clock.lengths[packet.pts]
        out.mux(packet)


def _try(kind: Kind, info: FilmInfo, audio: Path | None) -> None:
    """Begin a film in memory. Raises what FFmpeg raises."""
    with _begun(io.BytesIO(), kind, info, audio, QUALITY) as (out, *_):
        out.start_encoding()


@contextmanager
def _begun(
    file: BinaryIO, kind: Kind, info: FilmInfo, audio: Path | None, quality: int
) -> Iterator[tuple[Any, Any, _Clock, _Sound]]:
    """A container, its stream of pictures, when they begin, and the sound; closed whatever becomes of it."""
    import av

    with ExitStack() as stack:
        sound = _Sound(audio if kind.sound else None, info, stack)
        clock = _Clock(info, kind, sound.early)
        for_ever = {"gif": {"loop": "0"}, "webp": {"loop": "0"}, "apng": {"plays": "0", "final_delay": str(clock.last)}}
        out = av.open(file, "w", format=kind.container, options=for_ever.get(kind.container, {}))
        out.metadata.update(dict(info.metadata))
        stream = out.add_stream(kind.codec, options=_options(kind, quality, info.alpha))
        encoder = stream.codec_context
        height, width = info.size
        if kind.codec == _H264.codec:
            height, width = height + height % 2, width + width % 2
        encoder.height, encoder.width, encoder.pix_fmt = height, width, kind.alpha if info.alpha else kind.opaque
        encoder.time_base, encoder.framerate = clock.base, info.rate.limit_denominator(_FINEST)
        encoder.max_b_frames = 0  # with them MP4 gives the last frame of a variable rate a wrong length
        encoder.bit_rate = 0  # the quality decides
        encoder.sample_aspect_ratio = info.pixel_aspect
        if "yuv" in encoder.pix_fmt:
            encoder.colorspace = encoder.color_primaries = BT709
            encoder.color_trc, encoder.color_range = _SRGB_CURVE, _LIMITED_RANGE
        sound.add_to(out, clock.delay)
        try:
            yield out, stream, clock, sound
        finally:
            with suppress(av.FFmpegError, OSError):  # it failed, or is complete and closed already
                out.close()


def _options(kind: Kind, quality: int, alpha: bool) -> dict[str, str]:
    """Of encoders: their own scales of quality, on which 95 is hard to tell from the frames."""
    if kind.codec == "libx264":
        return {"crf": str(round(51 - 0.37 * quality))}
    if kind.codec == "libvpx-vp9":
        return {"crf": str(round(63 - 0.45 * quality)), "row-mt": "1"}
    if kind.codec == "prores_ks":
        return {"profile": "4444", "alpha_bits": "16" if alpha else "0"}
    return {"quality": str(quality)} if kind.codec == "libwebp_anim" else {}


def _picture(pixels: Pixels, kind: Kind) -> Any:
    """Pixels as the frame that an encoder takes."""
    import av

    if kind.codec == "gif":
        return av.VideoFrame.from_ndarray(_with_palette(pixels), format="pal8")
    if kind.codec == _H264.codec:
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    alpha = pixels.shape[2] == 4
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if alpha else "rgb24")
    layout = kind.alpha if alpha else kind.opaque
    if layout is None or "yuv" not in layout:
        return frame.reformat(format=layout)
    return frame.reformat(
        format=layout,
        dst_colorspace=BT709,
        src_color_range=_FULL_RANGE,
        dst_color_range=_LIMITED_RANGE,
        interpolation=SCALING,
    )


def _with_palette(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Indices [H, W] and their colours [256, 4], alpha first; 255 of a frame's own colours, errors spread."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    # Truer than the median cut, and a hundred times as fast.
    palette = picture.quantize(_CLEAR, Image.Quantize.FASTOCTREE)
    indices = np.array(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    colors = np.zeros((256, 4), np.uint8)
    given = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[:_CLEAR]
    colors[: len(given), 1:] = given
    colors[:_CLEAR, 0] = 255
    if pixels.shape[2] == 4:
        indices[pixels[..., 3] < 128] = _CLEAR
    return indices, colors


class _Sound:
    """The sound of a film as packets that are copied, on the clock of the pictures of a new film.

    Attributes:
        early: seconds by which sound that is not cut begins before the pictures, which then begin later in the file.
    """

    def __init__(self, path: Path | None, info: FilmInfo, stack: ExitStack) -> None:
        self._path, self._info = path, info
        self._held: tuple[Fraction, Any] | None = None
        self._sources: list[Any] = []
        self.early = Fraction(0)
        if path is not None:
            with readable(shown(path)):
                self._source = input_of(path, stack)
                self._sources = list(self._source.streams.audio)
        if path is not None and self._sources and info.sound[0] is None:
            self.early = self._seconds_before(path)

    def _seconds_before(self, path: Path) -> Fraction:
        """Of packets that are wholly before the pictures, but for those with which a decoder only warms up."""
        with opened(path) as source:
            for packet in source.demux(audio=0):
                begin, end = _span(packet)
                if end > self._info.begin:
                    break
                if packet.size and not packet.is_discard:
                    return self._info.begin - begin
        return Fraction(0)

    def add_to(self, out: Any, delay: Fraction) -> None:
        """Add streams to a container whose first frame is shown after ``delay`` seconds."""
        self._streams = {stream.index: out.add_stream_from_template(stream) for stream in self._sources}
        self._packets = self._copied(delay)

    def _copied(self, delay: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """The packets that lie in the part, or partly so, and when they begin in the new film."""
        first, last = self._info.sound
        with readable(shown(self._path or "")):
            for packet in self._source.demux(*self._sources) if self._sources else ():
                begin, end = _span(packet)
                if packet.size and (first is None or end > first) and (last is None or begin < last):
                    shift = round((delay - self._info.begin) / packet.time_base)
                    packet.pts, packet.dts = (None if at is None else at + shift for at in (packet.pts, packet.dts))
                    yield begin - self._info.begin + delay, packet

    def mux(self, out: Any, time: Fraction | None) -> None:
        """Write what begins by a time, or all that is left."""
        while (held := self._held or next(self._packets, None)) is not None:
            begin, packet = held
            if time is not None and begin > time:
                self._held = held
                return
            self._held = None
            packet.stream = self._streams[packet.stream_index]
            out.mux(packet)


def _span(packet: Any) -> tuple[Fraction, Fraction]:
    """Begin and end of a packet in seconds."""
    begin = Fraction((packet.pts or 0) * packet.time_base)
    return begin, begin + (packet.duration or 0) * packet.time_base
