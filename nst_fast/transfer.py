"""Images in, pastiche out: runs loop and monitor over the scales of a problem and keeps the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nst_fast.config import StylizeConfig
from nst_fast.errors import UsageError
from nst_fast.evaluators import make_evaluator
from nst_fast.images import LoadedImage
from nst_fast.loop import LossHistory, Span, StepEvent, optimize
from nst_fast.machine import describe_machine
from nst_fast.monitor import Monitor
from nst_fast.objective import Objective
from nst_fast.optimizers import PixelOptimizer, learning_rate_at, make_optimizer, smooths_at
from nst_fast.options import known
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Networks, Problem, at_size, load_problem
from nst_fast.publish import open_monitor
from nst_fast.record import RunRecord
from nst_fast.scales import Scale

EVENT_SECONDS = 0.5  # the progress display is fed at least this often
EVENT_STEPS = 50  # and at least every so many steps, however fast they are


@dataclass(frozen=True)
class Listeners:
    """Who hears of a run while it goes on. All are called on the thread that runs the loop.

    Attributes:
        event: every StepEvent.
        note: one sentence about something the user should know.
        stop: asked once a step; True ends the run in good order, with the picture it has.
    """

    event: Callable[[StepEvent], None] = lambda event: None
    note: Callable[[str], None] = lambda note: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Pastiche:
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record."""

    image: Tensor
    record: RunRecord

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the picture with its record inside, and record and loss curve beside it."""
        files = OutputFiles(Path(path))
        files.check(overwrite=overwrite, inputs=())
        files.save(self.image, self.record)


def stylize(
    content: str | Path,
    style: str | Path | Sequence[str | Path],
    config: StylizeConfig | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    listeners: Listeners | None = None,
    networks: Networks | None = None,
    **options: object,
) -> Pastiche:
    """Paint the content image in the style of one or more style images (Gatys et al. 2016).

    Args:
        content: the picture whose scene is kept.
        style: the picture, or pictures, whose manner is taken; several are blended in equal shares.
        config: every option; by default ``StylizeConfig()``.
        output: the picture to write, checked before any work; nothing is written without it.
        overwrite: replace an output that exists.
        listeners: hear of events and notes; may stop the run.
        networks: shares loaded networks between several calls.
        **options: fields of :class:`StylizeConfig` that differ from ``config``, as ``steps=100``.

    Returns:
        The picture and its record.

    Raises:
        NstFastError: one of the tree in :mod:`nst_fast.errors`, according to what is wrong.
    """
    config = (config or StylizeConfig()).replace(**known(StylizeConfig, options))
    styles = [Path(style)] if isinstance(style, (str, Path)) else [Path(item) for item in style]
    if not styles:
        raise UsageError("no style image was given", "Name at least one")
    files = OutputFiles(Path(output)) if output is not None else None
    if files is not None:
        files.check(overwrite=overwrite, inputs=[Path(content), *styles])
    problem = load_problem(config, Path(content), styles, networks or Networks())
    pastiche = run(problem, files, listeners or Listeners())
    if files is not None:
        files.save(pastiche.image, pastiche.record)
    return pastiche


def run(problem: Problem, files: OutputFiles | None, listeners: Listeners) -> Pastiche:
    """Run every scale to its end, or until the listeners stop the run; complete the record.

    Snapshots are written when ``files`` are given; the picture itself is not: that is the caller's.
    """
    for note in problem.notes:
        listeners.note(note)
    record = new_record(problem)
    course = Course(problem, files, listeners, record)
    pastiche = course.run()
    return Pastiche(pastiche.detach().clamp(0, 1).cpu(), record)


class Course:
    """One run over all scales: what passes from one scale to the next, and who is told."""

    def __init__(self, problem: Problem, files: OutputFiles | None, listeners: Listeners, record: RunRecord) -> None:
        self.problem = problem
        self.config = problem.config
        self.files = files
        self.listeners = listeners
        self.record = record
        self.started = time.perf_counter()
        self.history: LossHistory | None = None
        self.last: StepEvent | None = None

    def run(self) -> Tensor:
        scales = self.problem.scales
        pastiche = self.problem.start_at(scales[0])
        optimizer: PixelOptimizer | None = None
        for scale in scales:
            pastiche = at_size(pastiche, scale.height, scale.width)
            optimizer = make_optimizer(pastiche, self.config, previous=optimizer)
            self.run_scale(scale, optimizer, last=scale is scales[-1])
            if self.listeners.stop():
                break
        self.conclude()
        return at_size(pastiche, self.problem.height, self.problem.width)

    def run_scale(self, scale: Scale, optimizer: PixelOptimizer, *, last: bool) -> None:
        """Optimise at one scale; only the last one is monitored."""
        objective = self.problem.objective_at(scale)
        if self.history is None:
            self.history = LossHistory(objective.term_names, self.config.steps, self.problem.device)
        with self.monitoring(objective, enabled=last) as monitor:
            for event in optimize(
                make_evaluator(self.config, self.problem.encoder, objective),
                optimizer,
                self.history,
                Span(scale.index, scale.first, scale.steps, self.config.steps),
                learning_rate=lambda step: learning_rate_at(self.config, step),
                smooths=lambda step: smooths_at(self.config, step),
                due=EventClock([self.config.monitor_every, self.config.save_every, EVENT_STEPS]),
                stop=self.listeners.stop,
                elapsed=lambda: time.perf_counter() - self.started,
            ):
                self.hear(event, monitor)
        if monitor is not None:
            add_readings(self.record, monitor)

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """Pass an event on to the monitor, the snapshots and the listeners."""
        self.last = event
        config = self.config
        if monitor is not None and event.step % config.monitor_every == 0:
            monitor.submit(event.step, event.pastiche.detach().to("cpu", copy=True))
        if self.files is not None and config.save_every and event.step and event.step % config.save_every == 0:
            self.files.save_snapshot(event.pastiche, event.step)
        self.listeners.event(event)

    @contextmanager
    def monitoring(self, objective: Objective, *, enabled: bool) -> Iterator[Monitor | None]:
        """The monitor for as long as the loop runs, or None when it is turned off."""
        if not (enabled and self.config.monitor_every):
            yield None
            return
        weights = self.problem.weights["sha256"]
        with open_monitor(self.problem.encoder, objective, self.config, weights, self.listeners.note) as monitor:
            yield monitor

    def conclude(self) -> None:
        """Write what came of the run into its record."""
        assert self.last is not None and self.history is not None  # the loop always reports its end
        record, last = self.record, self.last
        record.status = "complete" if last.step == self.config.steps else "stopped"
        record.steps, record.seconds, record.steps_per_second = last.step, last.seconds, last.steps_per_second
        record.peak_memory_mib, record.losses, record.history = last.peak_memory_mib, last.terms, self.history.rows()


def new_record(problem: Problem) -> RunRecord:
    content, styles = problem.content, problem.styles
    return RunRecord(
        options=problem.config.as_dict(),
        inputs={
            "content": provenance(content) if content is not None else None,
            "styles": [provenance(image) for image in styles],
        },
        weights=problem.weights,
        device=str(problem.device),
        engine=problem.config.engine,
        precision="fp32",
        size=[problem.width, problem.height],
        machine=describe_machine(),
        warnings=list(problem.notes),
    )


def provenance(image: LoadedImage) -> dict[str, object]:
    """What a record says of a picture: its name without folders, its hash and its size in pixels."""
    return {"name": image.path.name, "sha256": image.sha256, "size": list(image.original_size)}


def add_readings(record: RunRecord, monitor: Monitor) -> None:
    """Put the monitor's readings into the record, as columns like the loop's own history."""
    readings = monitor.readings()
    names = list(readings[0].terms) if readings else []
    record.provider = {"requested": monitor.session.requested, "actual": monitor.session.actual}
    record.monitor = {
        "steps": [reading.step for reading in readings],
        "terms": {name: [reading.terms[name] for reading in readings] for name in names},
        "latency_ms": [reading.latency_ms for reading in readings],
        "dropped": monitor.dropped,
    }
    record.warnings += monitor.warnings


@dataclass
class EventClock:
    """Says when an event is due: at multiples of the given steps, and when half a second has passed on the host."""

    every: Sequence[int]
    last: float = field(default_factory=time.monotonic)

    def __call__(self, step: int) -> bool:
        now = time.monotonic()
        if now - self.last > EVENT_SECONDS or any(step % every == 0 for every in self.every if every):
            self.last = now
            return True
        return False
