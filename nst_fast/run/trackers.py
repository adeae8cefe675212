"""Observers that keep a run's losses where people compare runs: TensorBoard, Weights & Biases, MLflow, a table.

Each is a :class:`Tracker`, which is given figures at the events of a run: every few steps, and at least twice a second.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from nst_fast.errors import UsageError
from nst_fast.images import encode_image
from nst_fast.run.observer import Observer, StepEvent
from nst_fast.run.outputs import Pastiche
from nst_fast.run.record import RunRecord
from nst_fast.system.files import make_folder, write_atomic

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
        event_pb2, summary_pb2, writer = (
            needed(f"tensorboard.{name}", self.title, "`log_dir`")
            for name in ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.event_file_writer")
        )
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = writer.EventFileWriter(str(make_folder(folder)))

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
        self._wandb = needed("wandb", self.title, "`tracker` wandb")

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
        self._mlflow = needed("mlflow", self.title, "`tracker` mlflow")

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


SERVICES: dict[str, Callable[[Callable[[str], None]], Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def needed(module: str, title: str, option: str) -> Any:
    """A module of a tracker's package. Raises :class:`UsageError` where that is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UsageError(f"{option}: {title} is not installed", f"`pip install {package}` brings it") from None
