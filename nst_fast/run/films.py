"""Films of a run: how its picture came about, as a contact sheet, an animation, or a film of any kind."""

from __future__ import annotations

import io
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nst_fast.errors import OutputError
from nst_fast.images import encode_image, from_uint8, resize, to_uint8
from nst_fast.images.film import FilmInfo, Frame, Pixels, check_film_output, film_files, write_film
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.run.guard import GUARD_STEPS
from nst_fast.run.observer import StepEvent
from nst_fast.run.outputs import Pastiche
from nst_fast.run.record import RunRecord
from nst_fast.run.trackers import Tracker
from nst_fast.system.files import check_all_writable, write_atomic

FRAMES = 24  # of a film
FILM_SIDE = 512  # of a frame, the longer
FRAME_MS, LAST_FRAME_MS = 120, 2000
LAPSE_FRAMES = 200  # of a film of the run, at most
LAPSE_SIDE = 1080
LAPSE_SECONDS = 4  # which it lasts at least, as far as its rate allows
LAPSE_RATES = (5, 25)  # frames per second
HOLD_SECONDS = 2  # of the result
QUEUED = 16  # pictures by which the encoder may be behind before the run waits


class Film(Tracker):
    """How the picture came about, written at the end: an animated GIF, or a contact sheet in another format.

    About :data:`FRAMES` pictures, evenly spaced, the first and the last among them, at most :data:`FILM_SIDE` pixels.
    """

    title = "the film"

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._path = path
        self._frames: list[tuple[int, NDArray[np.uint8]]] = []

    def event(self, event: StepEvent) -> None:
        every = GUARD_STEPS * math.ceil(event.steps / FRAMES / GUARD_STEPS)  # events come at multiples of GUARD_STEPS
        if event.step % every == 0:
            picture = event.pastiche[:1].detach().cpu()
            side = min(FILM_SIDE, max(picture.shape))
            self._guarded(lambda: self._frames.append((event.step, to_uint8(resize(picture, side)))))

    def result(self, pastiche: Pastiche) -> None:
        last = to_uint8(resize(pastiche.image, min(FILM_SIDE, max(pastiche.image.shape))))
        frames = [frame for frame in self._frames if frame[0] < pastiche.record.steps]
        frames.append((pastiche.record.steps, last))
        data = animation(frames) if self._path.suffix == ".gif" else sheet_of(frames)
        write_atomic(self._path, data)


class TimeLapse(Tracker):
    """The run as a film (MP4, WebM, GIF and others), encoded by a thread of its own while the run goes on.

    A picture every so many steps, such that there are at most :data:`LAPSE_FRAMES`, each enlarged to the final size, at
    most :data:`LAPSE_SIDE` pixels; then the result, for :data:`HOLD_SECONDS`. A run that stops early has a shorter
    film, a resumed one begins where it was resumed; one that fails leaves none.
    """

    title = "the film"

    @staticmethod
    def check(path: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
        """Raise, before the run, :class:`UsageError` or :class:`OutputError` for a film that could not be written."""
        check_film_output(path, FilmInfo((16, 16), (Fraction(0),), Fraction(1)))
        check_all_writable(film_files(path) or [path], overwrite, inputs)

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._path = path
        self._pictures: queue.Queue[Pixels | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._complete = False

    def started(self, record: RunRecord) -> None:
        steps, shrink = record.options["steps"], min(1.0, LAPSE_SIDE / max(record.size))
        self.every = math.ceil(steps / LAPSE_FRAMES)
        count = steps // self.every + 1
        slowest, fastest = LAPSE_RATES
        rate = Fraction(min(fastest, max(slowest, round(count / LAPSE_SECONDS))))
        times = tuple(at / rate for at in range(count + int(HOLD_SECONDS * rate)))
        width, height = (max(1, round(side * shrink)) for side in record.size)
        info = FilmInfo((height, width), times, len(times) / rate)
        self._thread = threading.Thread(target=self._encode, args=(info,), name="film", daemon=True)
        self._thread.start()

    def event(self, event: StepEvent) -> None:
        if event.step % self.every == 0:
            self._guarded(lambda: self._put(to_uint8(event.pastiche[:1].nan_to_num())))

    def result(self, pastiche: Pastiche) -> None:
        self._put(to_uint8(pastiche.image))
        self._end(complete=True)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._end(complete=False)

    def _put(self, picture: Pixels | None) -> None:
        """Give the encoder a picture, once it is not too far behind; None ends the film."""
        while self._thread is not None and self._thread.is_alive():
            with suppress(queue.Full):
                self._pictures.put(picture, timeout=0.1)
                return
        if self._error is not None:
            raise self._error

    def _end(self, *, complete: bool) -> None:
        thread, self._complete = self._thread, complete
        if thread is not None:
            with suppress(Exception):  # the encoder's; it has ended, then
                self._put(None)
            thread.join()
            self._thread = None

    def _encode(self, info: FilmInfo) -> None:
        frames = (Frame(index, *each) for index, each in enumerate(zip(info.times, self._pixels(info), strict=False)))
        try:
            write_film(self._path, frames, info, may_end_early=True)
        except Exception as error:  # of any type: it is raised in the run's thread
            self._error = error

    def _pixels(self, info: FilmInfo) -> Iterator[Pixels]:
        """The pictures as they come, then the last one for a while."""
        height, width = info.size
        while (picture := self._pictures.get()) is not None:
            last = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
            yield last
        if not self._complete:
            raise OutputError("the run has no result")
        yield from repeat(last, int(HOLD_SECONDS * info.rate) - 1)


def animation(frames: Sequence[tuple[int, NDArray[np.uint8]]]) -> bytes:
    """A GIF that ends with the last frame for a while, all of its size."""
    height, width = frames[-1][1].shape[:2]
    pictures = [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for _, pixels in frames]
    sink = io.BytesIO()
    times = [FRAME_MS] * (len(pictures) - 1) + [LAST_FRAME_MS]
    pictures[0].save(sink, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return sink.getvalue()


def sheet_of(frames: Sequence[tuple[int, NDArray[np.uint8]]]) -> bytes:
    """A contact sheet as PNG, six frames in a row, each with its step."""
    cells = [Cell(f"step {step}", pixels) for step, pixels in frames]
    rows = [cells[at : at + 6] for at in range(0, len(cells), 6)]
    return encode_image(from_uint8(contact_sheet(rows, cell_size=FILM_SIDE // 2)), ".png")
