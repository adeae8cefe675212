"""One run: every scale in turn, from the start to the picture and its record."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.engines import Choice
from nst_fast.errors import NumericsError, OutOfMemoryError
from nst_fast.memory.allocator import release_freed_memory
from nst_fast.memory.planner import may_use_winograd
from nst_fast.objective.objective import Objective
from nst_fast.optimizers import Stepper, make_stepper, resized_moments
from nst_fast.optimizers.base import State
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.checkpoint import Checkpoint, CheckpointWriter
from nst_fast.run.guard import GUARD_STEPS, Guard, Recovery, StopRules
from nst_fast.run.layout import Layout, ScalePlan, SharedPicture
from nst_fast.run.loop import EventClock, LossHistory, Span, optimize, row_of
from nst_fast.run.observer import Listeners, LoopObserver, Observer, StepEvent
from nst_fast.run.out_of_memory import memory_errors
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Batch, Problem, at_size
from nst_fast.run.reporting import Report, add_readings
from nst_fast.run.resumption import check_size, places_of, refusing_what_does_not_fit
from nst_fast.run.scales import Scale, is_long, share_of_work

if TYPE_CHECKING:
    from nst_fast.onnx.monitor import Monitor


@dataclass(frozen=True)
class Stage:
    """What lives as long as one scale does. Stepper, guard and average change from step to step.

    Attributes:
        first: updates done before it.
        plan: of its memory, with the part of the picture that this process has.
        average: of the iterates, if it was asked for.
        done: updates done at this scale before, by a run that was interrupted.
    """

    scale: Scale
    first: int
    plan: ScalePlan
    objective: Objective
    stepper: Stepper
    guard: Guard
    average: IterateAverage | None
    done: int = 0

    def state(self) -> dict[str, Any]:
        """Its fields of a :class:`Checkpoint`: live tensors, to be written before the run continues."""
        parts = {
            "pastiche": self.stepper.pastiche,
            "optimizer": self.stepper.state(),
            "guard": self.guard.state(),
            "average": self.average.state() if self.average is not None else None,
        }
        return {"scale": self.scale.index, "first": self.first, **self.whole(parts)}

    def whole(self, state: Any) -> Any:
        """A state with the strips of all ranks put together to pictures; everything else is the same on all ranks."""
        if isinstance(state, Mapping):
            return {name: self.whole(value) for name, value in state.items()}
        is_strip = isinstance(state, Tensor) and state.shape[1:] == self.stepper.pastiche.shape[1:]
        return self.plan.strip.whole(state) if is_strip else state

    def restored(self, interrupted: Checkpoint) -> Stage:
        """This stage, fresh but for the checkpoint's picture, in the checkpoint's state."""
        self.stepper.restore(interrupted.optimizer)
        self.guard.restore(interrupted.guard)
        if self.average is not None and interrupted.average is not None:
            self.average.restore(interrupted.average)
        return replace(self, done=interrupted.step - interrupted.first)


def run(
    problem: Problem,
    files: OutputFiles | None,
    observer: Observer,
    writer: CheckpointWriter | None = None,
    interrupted: Checkpoint | None = None,
    ranks: Ranks | None = None,
) -> Pastiche:
    """Run one problem, see :class:`Run`; shared by ``ranks``, if they are given, each of which makes the same call.

    Every rank gets the picture. Rank 0 alone reports and writes; the observers of the others can stop the run. A
    checkpoint is one of the whole picture, for a single process to resume from.

    Raises:
        UsageError: an option that cannot be shared.
        DeviceError: another rank has ended.
    """
    layout = Layout()
    if ranks is not None:
        layout = SharedPicture(ranks)
        problem = replace(problem, config=problem.config.replace(monitor_every=0))
        if ranks.rank:
            files, observer = None, Listeners(stop=observer.stop)
    (pastiche,) = Run([problem], layout, observer, [files], writer, interrupted).run()
    return pastiche


@dataclass(eq=False)
class Run(LoopObserver):
    """A run over all scales. It follows its own loop as an observer, and reports to the caller's.

    Args:
        problems: of one config and one size; several share the loop, and are independent but for what a run decides as
            a whole: it ends when none of them improves any more, and after a divergence all return to their best.
        layout: whether this process has the whole picture, or its part of it.
        observer: gets events and notes; may stop the run.
        files: of each problem, for its snapshots. The pictures themselves are written by the caller.
        writer: writes checkpoints, when they are due and before a stop.
        interrupted: the state to resume from.
    """

    problems: Sequence[Problem]
    layout: Layout
    observer: Observer
    files: Sequence[OutputFiles | None]
    writer: CheckpointWriter | None = None
    interrupted: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.batch = Batch(self.problems)
        self.config, self.phases = self.batch.config, self.problems[0].phases
        self.report = Report(self.batch, self.observer, self.interrupted)
        self.rules = StopRules(self.config)
        self.stage: Stage | None = None
        self.monitor: Monitor | None = None
        self.history: LossHistory | None = None
        self.final: Tensor | None = None  # losses of the picture that the run ends with, a row of its history
        self.status = "complete"
        self.stopped = False
        self.failure: NumericsError | None = None

    def run(self) -> list[Pastiche]:
        """Run every scale to its end, or until something ends the run: a result for each problem.

        Raises:
            ResumeError: the state to resume from does not fit the problem.
        """
        self.layout.check(self.config)
        for note in self.batch.notes:
            self.observer.note(note)
        with self.phases("trial"):
            choice = self.choose()
        self.observer.started(self.report.records[0])
        try:
            with memory_errors():
                pictures = self.through_scales(choice)
        finally:
            release_freed_memory()
        assert self.history is not None and self.final is not None  # every run evaluates at least once
        results = []
        for index, problem in enumerate(self.problems):
            record = self.report.records[index]
            self.report.conclude(index, self.status, self.history.named(self.final)[index], self.history.rows(index))
            with self.phases("finish"):
                picture, record.finish = problem.finished(pictures[index : index + 1])
            record.phases = self.batch.seconds
            results.append(Pastiche(picture, record, self.failure, problem.inputs, problem.alpha))
            self.observer.finished(results[-1])
        return results

    def choose(self) -> Choice:
        """The engine and precision of the run; a resumed run keeps those it had."""
        settled, record = self.config, self.report.records[0]
        if self.interrupted is not None:
            settled = settled.replace(engine=record.engine, precision=record.precision, convolution=record.convolution)
        pictures = self.batch.count * self.problems[0].runs
        long = is_long(self.batch.scales, pictures, self.batch.device, self.config.time_budget)
        if settled.convolution == "auto" and not may_use_winograd(settled, str(self.batch.device)):
            settled = settled.replace(convolution="direct")
        choice = self.layout.choose(self.batch, settled, self.observer, long=long)
        return choice if self.interrupted is None else replace(choice, reason="as before")

    def through_scales(self, choice: Choice) -> Tensor:
        """Run scale after scale; the whole pictures at the end [B, 3, h, w], smaller if the run was cut short."""
        scales, at = self.batch.scales, self.interrupted
        self.report.settle(choice)
        if at is None:
            picture, done = self.batch.start_at(scales[0]), 0
        else:
            check_size(at, scales)
            picture, done, scales = at.pastiche.to(self.batch.device), at.first, scales[at.scale :]
        moments: State = {}
        for scale in scales:
            self.stage = self.begin(scale, done, picture, moments)
            own, updates = self.run_stage(self.stage, last=scale is scales[-1])
            picture, done = self.stage.whole(own), done + updates
            if self.stopped or self.failure:
                break
            moments = self.stage.whole(self.stage.stepper.state()) if self.config.optimizer == "adam" else {}
            self.stage = None
        return picture

    def begin(self, scale: Scale, first: int, picture: Tensor, moments: State) -> Stage:
        """The stage of a scale, from the picture of the coarser one; or that of the interrupted run, as it was."""
        # Contiguous: the order in which a sum is taken, and with it its last bits, follows the memory format.
        picture = at_size(picture, scale.height, scale.width, self.config.wraps).contiguous()
        plan = self.plan(scale)
        resumes = self.interrupted is not None and self.interrupted.scale == scale.index
        own = plan.strip.own(picture)
        if not first and not resumes:
            before = self.report.choice.precision
            with self.phases("trial"):
                self.report.settle(self.layout.confirm_precision(self.batch, self.report.choice, plan, own))
            plan = plan if self.report.choice.precision == before else self.plan(scale)
        options = self.config.replace(lbfgs_history=plan.memory.lbfgs_history)
        with self.phases("engine"):
            objective, evaluator = self.layout.evaluator(
                self.batch, self.report.choice, plan, self.observer, self.report.opened
            )
            near = self.problems[0].continuation is not None
            moments = resized_moments(moments, plan.strip)
            stepper = make_stepper(evaluator, own, options, moments, plan.strip, near=near)
        average = IterateAverage(own, options.average_decay) if options.average_decay else None
        self.rules.next_scale(first)
        floor = self.layout.ranks.maximum(objective.rounding(scale.height, scale.width).tolist())
        guard = Guard(own, options.divergence_factor, floor)
        stage = Stage(scale, first, plan, objective, stepper, guard, average)
        if not resumes or self.interrupted is None:
            return stage
        with refusing_what_does_not_fit():
            self.rules.restore(self.interrupted.rules)
            return stage.restored(self.interrupted)

    def plan(self, scale: Scale) -> ScalePlan:
        """How the scale fits into memory.

        A scale that is resumed keeps its plan, because tiles decide the order of sums; unless it is resumed with other
        memory options, or by one process where there were several.
        """
        at, asked = self.interrupted, self.config.as_dict()
        same = at is not None and all(at.record["options"][name] == asked[name] for name in ("max_memory", "tile_size"))
        before = at.record["plan"] if at is not None and same and at.scale == scale.index else {}
        plan = self.layout.plan(self.batch, self.report.choice, scale, None if "ranks" in before else before or None)
        if plan.tiled and self.batch.count > 1:
            message = f"{self.batch.count} pictures no longer fit into memory together"
            raise OutOfMemoryError(message, "Take fewer together, or give `max_memory` more")
        self.report.planned(plan, last=scale.index == len(self.batch.scales) - 1)
        return plan

    def run_stage(self, stage: Stage, *, last: bool) -> tuple[Tensor, int]:
        """Optimise at one scale; the picture of this process, and the updates done."""
        config, scale = self.config, stage.scale
        if self.history is None:
            names, device = stage.objective.term_names, self.batch.device
            self.history = LossHistory(names, config.steps, device, pictures=self.batch.count)
            if self.interrupted is not None:
                with refusing_what_does_not_fit():
                    self.history.restore(self.interrupted.history)
        events = optimize(
            stage.stepper,
            stage.guard,
            self.history,
            Span(scale.index, stage.first, scale.steps, config.steps, last=last, done=stage.done),
            config,
            due=EventClock(
                [config.monitor_every, config.save_every, config.log_every, GUARD_STEPS, self.observer.every],
                self.layout.clock,
            ),
            elapsed=self.elapsed,
            observer=self,
            average=stage.average,
            begin_step=stage.objective.begin_step,
        )
        verdict = ""
        # Only the last scale, if it is whole, is monitored; the first event does not wait for the monitor.
        monitored = last and not stage.plan.tiled and config.monitor_every and config.style_factor
        if monitored and (obstacle := obstacle_to_monitor(stage.objective)):
            self.observer.note(f"no monitor: {obstacle}")
            monitored = False
        with self.phases("monitor"), ExitStack() as stack:
            try:
                for event in self.timed(events):
                    self.event(event)
                    if monitored and self.monitor is None:
                        self.monitor = self.opened_monitor(stage.objective, stack)
                        monitored = self.monitor is not None
                    if self.monitor is not None and event.step % config.monitor_every == 0:
                        self.monitor.submit(event.step, event.pastiche.detach().to("cpu", copy=True))
                    verdict = self.verdict(event, scale)
                    if verdict:
                        break
            except NumericsError as error:
                verdict, self.failure = "diverged", error
        if self.monitor is not None:
            add_readings(self.report.records[0], self.monitor)  # several pictures have no monitor
            self.monitor = None
        assert self.report.last is not None  # the loop reports its end, and its beginning is always due
        updates = self.report.last.step - stage.first if verdict else scale.steps
        if last or self.stopped or self.failure:
            return self.picked(stage, verdict), updates
        average = stage.average.mean if stage.average else None
        return stage.stepper.pastiche if average is None else average, updates

    def timed(self, events: Iterator[StepEvent]) -> Iterator[StepEvent]:
        """The events, the time until the first of them apart from that between them."""
        phase = "first step"
        while True:
            with self.phases(phase):
                event = next(events, None)
            if event is None:
                return
            yield event
            phase = "loop"

    def opened_monitor(self, objective: Objective, stack: ExitStack) -> Monitor | None:
        """None on a GPU where the network would have to be exported, which takes longer than most of its runs."""
        from nst_fast.onnx.monitor import is_exported, open_monitor  # and with it onnx and ONNX Runtime

        weights = self.batch.weights["sha256"]
        if self.batch.device.type != "cpu" and not is_exported(objective, weights):
            self.observer.note("no monitor: the network is not exported yet; `nst-fast export` does it, once")
            return None
        return stack.enter_context(
            open_monitor(self.batch.encoder, objective, self.config, weights, self.observer.note)
        )

    def picked(self, stage: Stage, verdict: str) -> Tensor:
        """The picture that the run ends with, ``self.final`` its losses; chosen for each problem by itself.

        It is the last iterate or, if iterates are averaged, their average. A run that was cut short ends with the best
        picture of its scale: the best iterate, or the average if that is better still.
        """
        assert self.history is not None  # something was evaluated
        pastiche, guard, self.final = stage.stepper.pastiche, stage.guard, self.history.newest
        if verdict:
            self.status = verdict
            better = (guard.best_totals < self.final[-1]) | ~self.final[-1].isfinite()
            pastiche = torch.where(better.view(-1, 1, 1, 1), guard.best, pastiche)
            self.final = torch.where(better, self.history.at(guard.best_steps), self.final)
        average = stage.average.mean if stage.average else None
        if average is None:
            return pastiche
        row = row_of(stage.stepper.evaluate_image(average))
        taken = row[-1] < self.final[-1] if verdict else torch.ones_like(row[-1], dtype=torch.bool)
        self.final = torch.where(taken, row, self.final)
        return torch.where(taken.view(-1, 1, 1, 1), average, pastiche)

    def elapsed(self) -> float:
        """Seconds since the run began, without the time between interruption and resumption."""
        earlier = self.interrupted.seconds if self.interrupted else 0.0
        return earlier + self.layout.clock()

    def verdict(self, event: StepEvent, scale: Scale) -> str:
        """Why the scale ends now, if it does: the user stopped it, or one of the stop rules holds."""
        if self.stopped:
            return "stopped"
        if not self.config.style_factor:
            return "complete"  # without style the start, the content image itself, is the answer
        assert self.stage is not None  # the loop runs
        if self.stage.guard.nothing_left(event.totals) or self.good_enough(event):
            return "converged"
        share = share_of_work(self.batch.scales, scale.index)
        return self.rules.verdict(event.step, event.totals, event.seconds, share)

    def good_enough(self, event: StepEvent) -> bool:
        """Whether a frame of a film has come as far as the others; asked at steps that do not depend on the time."""
        others = self.problems[0].continuation
        if others is None or event.step % GUARD_STEPS:
            return False
        return event.terms["total"] - event.terms["temporal"] <= others.enough

    # The run as the observer of its own loop.

    def stop(self) -> bool:
        """Asked by the loop alone, so that all that depends on it sees the same answer."""
        self.stopped = self.layout.stop(self.stopped or bool(self.observer.stop()))
        return self.stopped

    def recovered(self, recovery: Recovery) -> None:
        self.report.recovered(recovery)

    def evaluated(self, step: int, stopping: bool) -> None:
        """Write a checkpoint when one is due, and before a stop; all ranks bring their parts."""
        due = self.writer is not None and self.writer.due(step)
        if not self.config.checkpoint_every or not (stopping or self.layout.any(due)):
            return
        state = self.checkpoint(step)
        problem = self.writer.write(state) if self.writer is not None else ""
        self.report.warn(problem)

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after ``step`` updates: live tensors, to be written before the run continues."""
        assert self.stage is not None and self.history is not None  # the loop runs
        return Checkpoint(
            record=self.report.so_far(self.monitor),
            places=places_of(self.problems[0], self.files[0]),
            step=step,
            seconds=self.elapsed(),
            history=self.history.first_rows(step),
            rules=self.rules.state(),
            **self.stage.state(),
        )

    def event(self, event: StepEvent) -> None:
        """Pass an event on to the snapshots and the caller's observer."""
        config, self.report.last = self.config, event
        if config.save_every and event.step and event.step % config.save_every == 0:
            assert self.stage is not None  # the loop runs
            event = replace(event, pastiche=self.stage.whole(event.pastiche))
            for index, files in enumerate(self.files):
                if files is not None:
                    image = event.pastiche[index : index + 1].cpu()
                    alpha = self.problems[index].alpha_at(self.stage.scale)
                    files.save_snapshot(image, event.step, config, alpha)
        self.observer.event(event)


def obstacle_to_monitor(objective: Objective) -> str:
    """Why ONNX Runtime cannot evaluate the objective beside the loop; empty if it can."""
    if not objective.guides.plain:
        return "its graph counts all pixels alike, and here masks or alpha weigh them"
    if importlib.util.find_spec("onnxruntime") is None:
        from nst_fast.onnx.libraries import runtime_remedy

        return f"ONNX Runtime is not installed. {runtime_remedy()}"
    return ""
