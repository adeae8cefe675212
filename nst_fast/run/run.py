"""One run of a problem: the loop over every scale, the monitor beside it, and the record of what came of it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace

import torch
from torch import Tensor

from nst_fast.engines import Choice, Evaluator, choose, confirmed
from nst_fast.errors import NumericsError
from nst_fast.memory.planner import Plan, describe
from nst_fast.objective.objective import Objective
from nst_fast.onnx.monitor import Monitor
from nst_fast.onnx.publish import open_monitor
from nst_fast.onnx.session import Session
from nst_fast.optimizers import learning_rate_at, smooths_at
from nst_fast.optimizers.ort_adam import optimizer_on
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.evaluation import evaluation_at, fits_whole, plan_as_before, plan_at
from nst_fast.run.guard import GUARD_STEPS, Guard, Recovery, StopRules
from nst_fast.run.keeper import Keeper
from nst_fast.run.loop import Course, EventClock, LossHistory, Span, optimize, row_of
from nst_fast.run.observer import Observer, StepEvent
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.pastiche import Pastiche
from nst_fast.run.problem import Problem, at_size
from nst_fast.run.record import RunRecord
from nst_fast.run.reporting import add_engine, add_kernels, add_readings, conclude, new_record, record_so_far
from nst_fast.run.resumption import as_it_was, check_size, places_of, refusing_what_does_not_fit
from nst_fast.run.scales import Scale, kernels_pay, share_of_work
from nst_fast.run.stage import Stage


def run(
    problem: Problem,
    files: OutputFiles | None,
    listeners: Observer,
    keeper: Keeper | None = None,
    interrupted: Checkpoint | None = None,
) -> Pastiche:
    """Run every scale to its end, or until something ends the run; complete the record.

    Snapshots are written when ``files`` are given; the picture itself is not: that is the caller's.

    Args:
        keeper: keeps the state of the run from time to time, and when the user stops it.
        interrupted: the state to go on from.

    Raises:
        ResumeError: that state does not fit the problem.
    """
    for note in problem.notes:
        listeners.note(note)
    return Run(problem, files, listeners, keeper, interrupted).run()


class Run:
    """One run over all scales: what passes from one scale to the next, who is told, and what is written down."""

    def __init__(
        self,
        problem: Problem,
        files: OutputFiles | None,
        listeners: Observer,
        keeper: Keeper | None = None,
        interrupted: Checkpoint | None = None,
    ) -> None:
        self.problem = problem
        self.config = problem.config
        self.files = files
        self.listeners = listeners
        self.keeper = keeper
        self.interrupted = interrupted
        self.record = new_record(problem) if interrupted is None else as_it_was(interrupted, problem.config)
        self.choice = replace(self.choose(), kernels=kernels_pay(problem.scales, problem.count))
        self.told = ""  # of the choice, to the listeners
        self.rules = StopRules(problem.config)
        self.started = time.perf_counter() - (interrupted.seconds if interrupted else 0.0)
        self.stage: Stage | None = None
        self.monitor: Monitor | None = None
        self.history: LossHistory | None = None
        self.last: StepEvent | None = None
        self.final: Tensor | None = None  # losses of what the run ends with, a row of its history
        self.status = "complete"
        self.stopped = False
        self.failure: NumericsError | None = None

    def run(self) -> Pastiche:
        picture = self.through_scales()
        self.conclude(self.record)
        picture, self.record.finish = self.problem.finished(picture)
        return Pastiche(picture, self.record, self.failure)

    def through_scales(self) -> Tensor:
        """Run scale after scale; the picture that it ends with, [B, 3, h, w], smaller if it was cut short."""
        scales = self.problem.scales
        self.settle(self.choice)
        if self.interrupted is None:
            pastiche, done = self.problem.start_at(scales[0]), 0
        else:
            check_size(self.interrupted, scales)
            pastiche, done = self.interrupted.pastiche.to(self.problem.device), self.interrupted.first
            scales = scales[self.interrupted.scale :]
        for scale in scales:
            self.stage = self.begin(scale, done, pastiche, self.stage)
            pastiche, updates = self.run_stage(self.stage, last=scale is scales[-1])
            done += updates
            if self.stopped or self.failure:
                break
        return pastiche

    def conclude(self, record: RunRecord, index: int = 0) -> None:
        """Write down how the run ended for one picture of the batch."""
        assert self.last is not None and self.history is not None and self.final is not None  # it did end
        conclude(record, self.status, self.last, self.history.named(self.final)[index], self.history.rows(index))

    def choose(self) -> Choice:
        """The engine and precision of the run; one that goes on keeps those it had."""
        if self.interrupted is None:
            return choose(self.config, self.problem.encoder, self.problem.device)
        settled = self.config.replace(engine=self.record.engine, precision=self.record.precision)
        return replace(choose(settled, self.problem.encoder, self.problem.device), reason="as before")

    def settle(self, choice: Choice) -> None:
        """Take this engine and precision from here on; say so when it was not the user who chose them."""
        if str(choice) != self.told and "auto" in (self.config.engine, self.config.precision):
            self.listeners.detail(str(choice))
            self.told = str(choice)
        self.choice = choice
        self.record.engine, self.record.precision = choice.engine, choice.precision
        for sentence in add_kernels(self.record, choice, self.problem.device):
            self.listeners.note(sentence)

    def begin(self, scale: Scale, first: int, pastiche: Tensor, coarser: Stage | None) -> Stage:
        """The stage of a scale, from the picture of the coarser one; or that of the interrupted run, as it was."""
        # Contiguous: the order in which a sum is taken, and with it its last bits, follows the layout.
        pastiche = at_size(pastiche, scale.height, scale.width).contiguous()
        plan = self.plan(scale)
        if not first and self.interrupted is None and fits_whole(self.problem, self.choice, scale, precision="fp32"):
            plan = self.confirm(plan, scale, pastiche)
        options = self.config.replace(lbfgs_history=plan.lbfgs_history)
        optimizer = optimizer_on(self.choice.engine, pastiche, options, coarser.optimizer if coarser else None)
        average = IterateAverage(pastiche, options.average_decay) if options.average_decay else None
        self.rules.next_scale(first)
        stage = Stage(scale, first, plan, optimizer, Guard(pastiche, options.divergence_factor), average)
        if self.interrupted is not None and coarser is None:
            with refusing_what_does_not_fit():
                self.rules.restore(self.interrupted.rules)
                return stage.restored(self.interrupted)
        return stage

    def confirm(self, plan: Plan, scale: Scale, pastiche: Tensor) -> Plan:
        """Give up a precision that bends the gradient, if that can be seen without tiles; then plan anew."""
        if self.config.precision != "auto" or plan.tiled:
            return plan
        before = self.choice.precision
        self.settle(self.confirmed(scale, pastiche))
        return plan if self.choice.precision == before else self.plan(scale)

    def confirmed(self, scale: Scale, pastiche: Tensor) -> Choice:
        return confirmed(self.choice, self.problem.encoder, self.problem.objective_at(scale), pastiche)

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after ``step`` updates: live tensors, to be written before the run goes on.

        :meth:`run` and :meth:`begin` take it up again.
        """
        assert self.stage is not None and self.history is not None  # the loop runs
        return Checkpoint(
            record=record_so_far(self.record, self.monitor, self.last),
            places=places_of(self.problem, self.files),
            step=step,
            seconds=self.elapsed(),
            history=self.history.first_rows(step),
            rules=self.rules.state(),
            **self.stage.state(),
        )

    def keep(self, step: int, stopping: bool) -> None:
        """Keep the state when that is due, and before a stop."""
        if self.keeper is not None and (stopping or self.keeper.due(step)):
            problem = self.keeper.keep(self.checkpoint(step))
            self.record.warnings += [problem] if problem else []

    def plan(self, scale: Scale) -> Plan:
        """How the scale fits into memory; said, and written down.

        A scale that goes on keeps its plan, unless it is another memory option that it goes on with, or the picture was
        shared and is no more.
        """
        at, asked = self.interrupted, self.config.as_dict()
        same = at is not None and all(at.record["options"][name] == asked[name] for name in ("max_memory", "tile_size"))
        if at is not None and at.scale == scale.index and same and "ranks" not in at.record["plan"]:
            plan = plan_as_before(self.problem, self.choice, scale, at.record["plan"])
        else:
            plan = plan_at(self.problem, self.choice, scale)
        self.record.plan = describe(plan)
        self.listeners.detail(str(plan))
        return plan

    def evaluation(self, stage: Stage) -> tuple[Objective, Evaluator]:
        """What is minimised at a scale, and what evaluates it."""
        at = stage.scale, stage.plan, stage.optimizer
        return evaluation_at(self.problem, self.choice, *at, self.listeners.note, self.opened)

    def opened(self, session: Session) -> None:
        """A session of ONNX Runtime computes for the loop from here on."""
        for sentence in add_engine(self.record, session):
            self.listeners.note(sentence)

    def run_stage(self, stage: Stage, *, last: bool) -> tuple[Tensor, int]:
        """Optimise at one scale; return its picture and the updates done.

        Only the last scale, if it is whole, is monitored.
        """
        scale, plan = stage.scale, stage.plan
        objective, evaluate = self.evaluation(stage)
        if self.history is None:
            steps, device = self.config.steps, self.problem.device
            self.history = LossHistory(objective.term_names, steps, device, pictures=self.problem.count)
            if self.interrupted is not None:
                with refusing_what_does_not_fit():
                    self.history.restore(self.interrupted.history)
        span = Span(scale.index, stage.first, scale.steps, self.config.steps, last=last, done=stage.done)
        events = optimize(evaluate, stage.optimizer, stage.guard, self.history, span, self.course(), stage.average)
        verdict = ""
        with self.monitoring(objective, enabled=last and not plan.tiled and self.config.strength > 0) as monitor:
            self.monitor = monitor
            try:
                for event in events:
                    self.hear(event, monitor)
                    verdict = self.verdict(event, scale)
                    if verdict:
                        break
            except NumericsError as error:
                verdict, self.failure = "diverged", error
        if monitor is not None:
            add_readings(self.record, monitor)
        assert self.last is not None  # the loop reports its end, and its beginning is always due
        updates = self.last.step - stage.first if verdict else scale.steps
        if last or self.stopped or self.failure:
            return self.picked(stage, evaluate, verdict), updates
        average = stage.average.mean if stage.average else None
        return stage.optimizer.pastiche if average is None else average, updates

    def course(self) -> Course:
        config = self.config
        return Course(
            learning_rate=lambda step: learning_rate_at(config, step),
            due=EventClock([config.monitor_every, config.save_every, config.log_every, GUARD_STEPS]),
            elapsed=self.elapsed,
            smooths=lambda step: smooths_at(config, step),
            stop=self.stop,
            recovered=self.recovered,
            keep=self.keep,
        )

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def stop(self) -> bool:
        """Whether the user wishes to stop; asked by the loop alone, so that all who act on it see the same answer."""
        self.stopped = self.stopped or self.listeners.stop()
        return self.stopped

    def verdict(self, event: StepEvent, scale: Scale) -> str:
        """Why the scale should end now, if it should: the user's wish, or one of the stop rules."""
        if self.stopped:
            return "stopped"
        if not self.config.strength:
            return "complete"  # without style the start, the content image itself, is the answer
        share = share_of_work(self.problem.scales, scale.index)
        return self.rules.verdict(event.step, event.totals, event.seconds, share)

    def recovered(self, recovery: Recovery) -> None:
        self.record.recoveries.append(asdict(recovery))
        self.record.warnings.append(str(recovery))
        self.listeners.note(str(recovery))

    def picked(self, stage: Stage, evaluate: Evaluator, verdict: str) -> Tensor:
        """The picture that the run ends with, ``self.final`` holding its losses; each of a batch for itself.

        It is the last iterate or, if iterates are averaged, their average. A run that was cut short ends with the best
        picture it has seen at its scale: the best iterate, or the average if that is better still.
        """
        assert self.history is not None  # something was evaluated
        pastiche, guard, self.final = stage.optimizer.pastiche, stage.guard, self.history.newest
        if verdict:
            self.status = verdict
            better = (guard.best_totals < self.final[-1]) | ~self.final[-1].isfinite()
            pastiche = torch.where(better.view(-1, 1, 1, 1), guard.best, pastiche)
            self.final = torch.where(better, self.history.at(guard.best_steps), self.final)
        average = stage.average.mean if stage.average else None
        if average is None:
            return pastiche
        row = row_of(evaluate(average))
        taken = row[-1] < self.final[-1] if verdict else torch.ones_like(row[-1], dtype=torch.bool)
        self.final = torch.where(taken, row, self.final)
        return torch.where(taken.view(-1, 1, 1, 1), average, pastiche)

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """Pass an event on to the monitor, the snapshots and the listeners."""
        self.last = event
        config = self.config
        if monitor is not None and event.step % config.monitor_every == 0:
            monitor.submit(event.step, event.pastiche.detach().to("cpu", copy=True))
        if self.files is not None and config.save_every and event.step and event.step % config.save_every == 0:
            self.files.save_snapshot(event.pastiche, event.step, config.save_format)
        self.listeners.event(event)

    def monitoring(self, objective: Objective, *, enabled: bool) -> AbstractContextManager[Monitor | None]:
        """The monitor for as long as the loop runs, or None when it is turned off."""
        if not (enabled and self.config.monitor_every):
            return nullcontext()
        weights = self.problem.weights["sha256"]
        return open_monitor(self.problem.encoder, objective, self.config, weights, self.listeners.note)
