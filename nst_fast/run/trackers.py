"""Observers that keep a run's losses where people compare runs: TensorBoard, Weights & Biases, MLflow, a table; films.

Each is a :class:`Tracker`, which is given figures at the events of a run: every few steps, and at least twice a second.
"""

from __future__ import annotations

import csv
import io
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nst_fast.errors import OutputError, UsageError
from nst_fast.images import encode_image, from_uint8, resize, to_uint8
from nst_fast.images.film import FilmInfo, Frame, Pixels, check_film_output, film_files, write_film
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.run.guard import GUARD_STEPS
from nst_fast.run.observer import Observer, StepEvent
from nst_fast.run.outputs import Pastiche
from nst_fast.run.record import RunRecord
from nst_fast.system.files import check_all_writable, make_folder, write_atomic

FRAMES = 24  # of a film
FILM_SIDE = 512  # of a frame, the longer
FRAME_MS, LAST_FRAME_MS = 120, 2000
LAPSE_FRAMES = 200  # of a film of the run, at most
LAPSE_SIDE = 1080
LAPSE_SECONDS = 4  # which it lasts at least, as far as its rate allows
LAPSE_RATES = (5, 25)  # frames per second
HOLD_SECONDS = 2  # of the result
QUEUED = 16  # pictures by which the encoder may be behind before the run waits
MLFLOW_TEXT = 500  # characters of a parameter


class Observers(Observer):
    """Several observers as one: each is told everything that a run tells its caller's, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    @property
    def every(self) -> int:  # type: ignore[override]  # known once the run has started
        """Steps at which each has the events that it asks for."""
        return math.gcd(*(observer.every for observer in self.observers))

    def started(self, record: RunRecord) -> None:
        for observer in self.observers:
            observer.started(record)

    def event(self, event: StepEvent) -> None:
        for observer in self.observers:
            observer.event(event)

    def note(self, text: str) -> None:
        for observer in self.observers:
            observer.note(text)

    def detail(self, text: str) -> None:
        for observer in self.observers:
            observer.detail(text)

    def stop(self) -> bool:
        return any(observer.stop() for observer in self.observers)

    def finished(self, pastiche: Pastiche) -> None:
        for observer in self.observers:
            observer.finished(pastiche)


class Tracker(Observer):
    """What the trackers have in common: a fault of theirs ends the tracking, with a sentence, and not the run.

    Used in a ``with`` statement around the run, at whose end it is closed.

    Args:
        say: is given that sentence.
    """

    title = ""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._failed = say, False

    def open(self, options: Mapping[str, Any]) -> None:
        """Begin a run with these options."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep figures of a step by their names."""

    def result(self, pastiche: Pastiche) -> None:
        """Keep the result of the run."""

    def close(self) -> None:
        """End; there may have been no result."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._guarded(self.close)

    def started(self, record: RunRecord) -> None:
        self._guarded(lambda: self.open(record.options))

    def event(self, event: StepEvent) -> None:
        speed = {"steps_per_second": event.steps_per_second, "peak_memory_mib": event.peak_memory_mib}
        self._guarded(lambda: self.log(event.step, event.terms | speed))

    def finished(self, pastiche: Pastiche) -> None:
        self._guarded(lambda: self.result(pastiche))

    def _guarded(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # of any type: services, disks and networks fail in their own ways
            self._failed = True
            detail = " ".join(str(error).split()) or type(error).__name__
            self._say(f"{self.title} no longer follows the run: {detail[:300]}")


class TensorBoard(Tracker):
    """Event files in a folder: the figures, and the picture at the end. Needs the package ``tensorboard``.

    The package's writer without ``torch.utils.tensorboard``, whose import takes eight times as long.
    """

    title = "TensorBoard"

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        super().__init__(say)
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise absent("TensorBoard", "`log_dir`", "tensorboard") from None
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(make_folder(folder)))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._add(step, [self._summary.Value(tag=name, simple_value=value) for name, value in figures.items()])

    def result(self, pastiche: Pastiche) -> None:
        height, width = pastiche.image.shape[2:]
        png = encode_image(pastiche.image, ".png")
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(pastiche.record.steps, [self._summary.Value(tag="pastiche", image=image)])

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, which its variables (``WANDB_MODE``, ``WANDB_PROJECT``) direct. Needs ``wandb``."""

    title = "Weights & Biases"

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(say)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise absent("Weights & Biases", "`tracker` wandb", "wandb") from None
        self._wandb = wandb

    def open(self, options: Mapping[str, Any]) -> None:
        settings = self._wandb.Settings(console="off", silent=True)  # stdout and stderr stay ours
        self._run = self._wandb.init(config=dict(options), settings=settings)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def result(self, pastiche: Pastiche) -> None:
        pixels = pastiche.image[0].permute(1, 2, 0).numpy()
        self._run.log({"pastiche": self._wandb.Image(pixels)}, step=pastiche.record.steps)

    def close(self) -> None:
        self._wandb.finish()


class MLflow(Tracker):
    """A run of MLflow, in the store that ``MLFLOW_TRACKING_URI`` names. Needs the package ``mlflow``."""

    title = "MLflow"

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(say)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers; not what the user asks for
        try:
            import mlflow
        except ImportError:
            raise absent("MLflow", "`tracker` mlflow", "mlflow") from None
        self._mlflow = mlflow

    def open(self, options: Mapping[str, Any]) -> None:
        self._mlflow.start_run()
        self._mlflow.log_params({name: str(value)[:MLFLOW_TEXT] for name, value in options.items()})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=step, synchronous=False)

    def result(self, pastiche: Pastiche) -> None:
        self._mlflow.log_dict(pastiche.record.as_dict(), "record.json")

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()


class LossTable(Tracker):
    """A CSV file, written at the end: a row for every step, not only those of events, and a column for every term."""

    title = "the table of losses"

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._path = path

    def result(self, pastiche: Pastiche) -> None:
        columns = pastiche.record.history
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(["step", *columns])
        writer.writerows([step, *row] for step, row in enumerate(zip(*columns.values(), strict=True)))
        write_atomic(self._path, sink.getvalue().encode())


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
        check_film_output(path, FilmInfo((16, 16), (Fraction(0),), Fraction(1), Fraction(1)))
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
        info = FilmInfo((height, width), times, rate, len(times) / rate)
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


SERVICES: dict[str, Callable[[Callable[[str], None]], Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def absent(title: str, option: str, package: str) -> UsageError:
    """The refusal of a tracker whose package is not installed."""
    return UsageError(f"{option}: {title} is not installed", f"`pip install {package}` brings it")
