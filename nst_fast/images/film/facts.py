"""What is known of a film, its frames, and the part of it that is wanted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from nst_fast.errors import InputError, UsageError

Pixels = NDArray[np.uint8]  # [H, W, 3], or [H, W, 4] with straight alpha; sRGB, upright


@dataclass(frozen=True)
class Frame:
    """A picture of a film, or of the part of it that was chosen."""

    index: int  # from 0
    time: Fraction  # in seconds, from the first frame
    pixels: Pixels


@dataclass(frozen=True)
class FilmInfo:
    """The facts of a film, or of the part of it between two times; all times are in seconds."""

    size: tuple[int, int]  # height and width in pixels, upright
    times: tuple[Fraction, ...]  # of each frame, from the first one
    duration: Fraction  # from the first frame to the end of the last one
    audio: bool = False  # whether there is sound
    alpha: bool = False  # whether frames have alpha
    begin: Fraction = Fraction(0)  # of the first frame on the clock of the file
    sound: tuple[Fraction | None, Fraction | None] = (None, None)  # on that clock, if it is to be cut
    pixel_aspect: Fraction = Fraction(1)  # width of a pixel divided by its height
    metadata: tuple[tuple[str, str], ...] = ()  # names and texts (title, artist)
    notes: tuple[str, ...] = ()  # what a user should know

    @classmethod
    def of_clock(cls, clock: Sequence[Fraction], size: tuple[int, int], **facts: Any) -> FilmInfo:
        """Of frames that begin at these times of the file's clock, the last of which is the end; and other facts."""
        return cls(size, tuple(at - clock[0] for at in clock[:-1]), clock[-1] - clock[0], begin=clock[0], **facts)

    @property
    def rate(self) -> Fraction:
        """Frames per second, on average."""
        return len(self.times) / self.duration

    @property
    def ends(self) -> tuple[Fraction, ...]:
        """When each frame gives way to the next one, or to the end."""
        return (*self.times[1:], self.duration)


Reader = Callable[[int, int], Generator[Pixels]]  # the frames from one index, of the whole film, to before another


class Film(AbstractContextManager["Film"]):
    """A film that is open; see :func:`nst_fast.images.film.open_film`. Leaving its context ends all iterations."""

    def __init__(self, info: FilmInfo, offset: int, read: Reader) -> None:
        self.info = info
        self._offset = offset
        self._read = read
        self._open: WeakSet[Generator[Pixels]] = WeakSet()

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames from an index to before another, by default all; several iterations can go on at once.

        Raises :class:`InputError` where a frame is damaged or missing.
        """
        count = len(self.info.times)
        stop = count if stop is None else min(stop, count)
        pixels = self._read(self._offset + first, self._offset + stop)
        self._open.add(pixels)
        for index, picture in enumerate(pixels, first):
            yield Frame(index, self.info.times[index], picture)

    def __exit__(self, *error: object) -> None:
        for pixels in list(self._open):
            pixels.close()


@dataclass(frozen=True)
class Part:
    """The part of a film between two times in seconds from its first frame; None is its beginning or end."""

    start: float | None = None
    end: float | None = None

    def of(self, clock: Sequence[Fraction], name: str) -> tuple[int, int]:
        """The index of the first frame and that behind the last; ``clock`` as for :meth:`FilmInfo.of_clock`.

        A frame belongs to the part if it begins in it.

        Raises:
            UsageError: the end is not behind the start.
            InputError: the film has no such frame.
        """
        duration = clock[-1] - clock[0]
        start = Fraction(str(self.start or 0))  # 0.1 as it is written, not as a float holds it
        end = duration if self.end is None else Fraction(str(self.end))
        if not 0 <= start < (end if self.end is not None else start + 1):
            raise UsageError(f"a part of a film from {float(start):g} s to {float(end):g} s", "Give times in order")
        first, stop = (bisect_left(clock[:-1], clock[0] + at) for at in (start, end))
        if first >= stop:
            message = f"{name} has no frame that begins between {float(start):g} s and {float(end):g} s"
            raise InputError(message, f"It is {float(duration):.3f} s long")
        return first, stop
