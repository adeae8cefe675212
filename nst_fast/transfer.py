"""Images in, pastiche out: runs loop and monitor over the scales of a problem and keeps the record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from nst_fast.config import StylizeConfig
from nst_fast.errors import NumericsError, UsageError
from nst_fast.evaluators import Choice, choose, confirmed
from nst_fast.files import sha256_of
from nst_fast.guard import GUARD_STEPS, Guard, Recovery, StopRules
from nst_fast.images import LoadedImage
from nst_fast.images.postprocess import finished
from nst_fast.loop import Course, EventClock, LossHistory, Span, StepEvent, optimize
from nst_fast.machine import describe_machine
from nst_fast.memory.planned import evaluation_at, plan_at
from nst_fast.memory.planner import Plan, describe
from nst_fast.monitor import Monitor
from nst_fast.objective import Objective
from nst_fast.optimizers import PixelOptimizer, learning_rate_at, make_optimizer, smooths_at
from nst_fast.options import known
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Networks, Problem, at_size, load_problem
from nst_fast.publish import open_monitor
from nst_fast.record import RunRecord
from nst_fast.scales import Scale


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
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record.

    A run that diverged beyond repair still has a picture, its best; ``failure`` is then what to raise once it is saved.
    """

    image: Tensor
    record: RunRecord
    failure: NumericsError | None = None

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
        style: the picture, or pictures, whose manner is taken; several are blended as ``style_weight_each`` says.
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
    if pastiche.failure is not None:
        raise pastiche.failure
    return pastiche


def run(problem: Problem, files: OutputFiles | None, listeners: Listeners) -> Pastiche:
    """Run every scale to its end, or until something ends the run; complete the record.

    Snapshots are written when ``files`` are given; the picture itself is not: that is the caller's.
    """
    for note in problem.notes:
        listeners.note(note)
    return Run(problem, files, listeners).run()


class Run:
    """One run over all scales: what passes from one scale to the next, who is told, and what is written down."""

    def __init__(self, problem: Problem, files: OutputFiles | None, listeners: Listeners) -> None:
        self.problem = problem
        self.config = problem.config
        self.files = files
        self.listeners = listeners
        self.record = new_record(problem)
        self.choice = choose(problem.config, problem.encoder, problem.device)
        self.rules = StopRules(problem.config)
        self.started = time.perf_counter()
        self.history: LossHistory | None = None
        self.last: StepEvent | None = None
        self.status = "complete"
        self.failure: NumericsError | None = None

    def run(self) -> Pastiche:
        scales = self.problem.scales
        self.settle(self.choice)
        pastiche = self.problem.start_at(scales[0])
        optimizer: PixelOptimizer | None = None
        done = 0
        for scale in scales:
            pastiche = at_size(pastiche, scale.height, scale.width)
            plan = self.plan(scale)
            options = self.config.replace(lbfgs_history=plan.lbfgs_history)
            optimizer = make_optimizer(pastiche, options, previous=optimizer)
            span = Span(scale.index, done, scale.steps, self.config.steps, last=scale is scales[-1])
            done += self.run_scale(scale, span, optimizer, plan)
            if self.listeners.stop() or self.failure:
                break
        self.conclude()
        return Pastiche(self.finish(pastiche), self.record, self.failure)

    def finish(self, pastiche: Tensor) -> Tensor:
        """The picture on the CPU at its full size, its colours kept and its noise taken out if the config says so."""
        problem = self.problem
        picture = at_size(pastiche.detach(), problem.height, problem.width).clamp(0, 1).cpu()
        content = problem.content.tensor if problem.content is not None else None
        if content is not None:
            content = at_size(content, problem.height, problem.width)
        picture, self.record.finish = finished(picture, content, self.config)
        return picture

    def settle(self, choice: Choice) -> None:
        """Take this engine and precision from here on; say so when it was not the user who chose them."""
        if choice is not self.choice or "auto" in (self.config.engine, self.config.precision):
            self.listeners.note(str(choice))
        self.choice = choice
        self.record.engine, self.record.precision = choice.engine, choice.precision

    def plan(self, scale: Scale) -> Plan:
        """How the scale fits into memory; said, and written down."""
        plan = plan_at(self.problem, self.choice, scale)
        self.record.plan = describe(plan)
        self.listeners.note(str(plan))
        return plan

    def run_scale(self, scale: Scale, span: Span, optimizer: PixelOptimizer, plan: Plan) -> int:
        """Optimise at one scale and return the updates done; only the last scale, if it is whole, is monitored."""
        if self.config.precision == "auto" and not span.first and not plan.tiled:
            self.settle(
                confirmed(self.choice, self.problem.encoder, self.problem.objective_at(scale), optimizer.pastiche)
            )
        objective, evaluate = evaluation_at(self.problem, self.choice, scale, plan, self.listeners.note)
        if self.history is None:
            self.history = LossHistory(objective.term_names, self.config.steps, self.problem.device)
        self.rules.next_scale(span.first)
        guard = Guard(optimizer.pastiche, self.config.divergence_factor)
        verdict = ""
        with self.monitoring(objective, enabled=span.last and not plan.tiled and self.config.strength > 0) as monitor:
            try:
                for event in optimize(evaluate, optimizer, guard, self.history, span, self.course()):
                    self.hear(event, monitor)
                    verdict = self.verdict(event, scale)
                    if verdict:
                        break
            except NumericsError as error:
                verdict, self.failure = "diverged", error
        if monitor is not None:
            add_readings(self.record, monitor)
        assert self.last is not None  # the loop reports its end, and its beginning is always due
        if verdict and (span.last or self.failure or self.listeners.stop()):
            self.status = verdict
            self.return_to_best(optimizer, guard)
        return self.last.step - span.first if verdict else span.steps

    def course(self) -> Course:
        config = self.config
        return Course(
            learning_rate=lambda step: learning_rate_at(config, step),
            due=EventClock([config.monitor_every, config.save_every, config.log_every, GUARD_STEPS]),
            elapsed=self.elapsed,
            smooths=lambda step: smooths_at(config, step),
            stop=self.listeners.stop,
            recovered=self.recovered,
        )

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def verdict(self, event: StepEvent, scale: Scale) -> str:
        """Why the scale should end now, if it should: the user's wish, or one of the stop rules."""
        if self.listeners.stop():
            return "stopped"
        if not self.config.strength:
            return "complete"  # without style the start, the content image itself, is the answer
        share = share_of_work(self.problem.scales, scale.index)
        return self.rules.verdict(event.step, event.terms["total"], event.seconds, share)

    def recovered(self, recovery: Recovery) -> None:
        self.record.recoveries.append(asdict(recovery))
        self.record.warnings.append(str(recovery))
        self.listeners.note(str(recovery))

    def return_to_best(self, optimizer: PixelOptimizer, guard: Guard) -> None:
        """A run that was cut short ends with the best picture it has seen at its scale, not with its last."""
        assert self.last is not None and self.history is not None  # something was evaluated
        if guard.best_total < self.last.terms["total"] or not math.isfinite(self.last.terms["total"]):
            optimizer.pastiche.copy_(guard.best)
            self.last = replace(self.last, terms=self.history.row(guard.best_step))

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """Pass an event on to the monitor, the snapshots and the listeners."""
        self.last = event
        config = self.config
        if monitor is not None and event.step % config.monitor_every == 0:
            monitor.submit(event.step, event.pastiche.detach().to("cpu", copy=True))
        if self.files is not None and config.save_every and event.step and event.step % config.save_every == 0:
            self.files.save_snapshot(event.pastiche, event.step, config.save_format)
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
        record.status = self.status
        record.steps, record.seconds, record.steps_per_second = last.step, last.seconds, last.steps_per_second
        record.peak_memory_mib, record.losses, record.history = last.peak_memory_mib, last.terms, self.history.rows()


def share_of_work(scales: Sequence[Scale], index: int) -> float:
    """The part of a run's work, counted in pixels times steps, that is done by the end of a scale."""
    work = [scale.height * scale.width * scale.steps for scale in scales]
    return sum(work[: index + 1]) / sum(work)


def new_record(problem: Problem) -> RunRecord:
    content, styles, init = problem.content, problem.styles, problem.config.init_file
    return RunRecord(
        options=problem.config.as_dict(),
        inputs={
            "content": provenance(content) if content is not None else None,
            "styles": [provenance(image) for image in styles],
            **({"init": {"name": init.name, "sha256": sha256_of(init)}} if init is not None else {}),
        },
        weights=problem.weights,
        device=str(problem.device),
        engine="",
        precision="",
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
