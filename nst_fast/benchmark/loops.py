"""Loop rows: steps per second of the real loop, engine against engine, and whether they compute the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.benchmark.rows import OK, LoopRow, MonitorRow
from nst_fast.benchmark.turns import Contender, compete, count_for, median_ratio, recorded
from nst_fast.benchmark.workbench import Scene, Workbench, arithmetic
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.onnx.session import Session
from nst_fast.optimizers import Stepper, make_stepper
from nst_fast.options.config import StylizeConfig
from nst_fast.run.guard import Guard
from nst_fast.run.loop import LossHistory, Span, optimize
from nst_fast.run.observer import StepEvent
from nst_fast.system.clock import Timing, make_clock

MOST_TURN_STEPS = 2000  # bounds the history that the loop keeps on the device


class PacedLoop:
    """The real loop of one engine, started and then run so many steps at a time; its events are the only stops."""

    def __init__(self, run: StylizeConfig, workbench: Workbench, scene: Scene) -> None:
        config = workbench.config
        self.clock = make_clock(workbench.device)
        started = self.clock()
        self.session: Session | None = None  # of ONNX Runtime, for its engine
        self.evaluate = workbench.evaluator(run, scene, self._opened)
        self.stepper = make_stepper(self.evaluate, scene.start.clone(), run)
        self._target = 0
        # One more than will be done. A monitored turn is rounded up to a multiple of the monitor's interval.
        most = 2 + config.warmup + config.repeats * (MOST_TURN_STEPS + config.monitor_every)
        self._events = start_loop(self.stepper, scene, most, run, due=lambda step: step >= self._target)
        next(self._events)  # the evaluation before the first step
        self.advance(1)
        self.setup_seconds = self.clock() - started

    def _opened(self, session: Session) -> None:
        self.session = session

    @property
    def pastiche(self) -> Tensor:
        return self.stepper.pastiche

    def advance(self, steps: int) -> float:
        """Do so many steps; the seconds that took, the device synchronised before and after."""
        self._target += steps
        started = self.clock()
        next(self._events)
        return self.clock() - started


class LoopContender(Contender):
    """One engine's loop under the clock; a turn is one sample, its mean time per step.

    Engine and precision in the row are those asked for until it is prepared, and then those that were chosen.
    """

    row: LoopRow | MonitorRow

    def __init__(self, row: LoopRow | MonitorRow, workbench: Workbench) -> None:
        super().__init__(row)
        self.workbench = workbench
        self.turn_steps = 1
        self.run: StylizeConfig
        self.loop: PacedLoop

    def prepare(self) -> None:
        row, workbench, config = self.row, self.workbench, self.workbench.config
        self.run = workbench.run_config(row.engine, row.precision)
        row.engine, row.precision = self.run.engine, self.run.precision
        with arithmetic(row.precision):
            self.loop = PacedLoop(self.run, workbench, workbench.scene(row.height, row.width, row.batch))
            seconds = self.loop.advance(config.warmup) / config.warmup
        row.setup_seconds = self.loop.setup_seconds
        if isinstance(row, LoopRow) and self.loop.session is not None:
            row.provider = self.loop.session.actual
        self.turn_steps = count_for(config.turn_seconds, seconds, MOST_TURN_STEPS)

    def take_turn(self) -> list[float]:
        with arithmetic(self.row.precision):
            return [1e3 * self.loop.advance(self.turn_steps) / self.turn_steps]


@dataclass(frozen=True)
class Reference:
    """What eager in IEEE fp32 makes of a scene: its gradient at the start, and its picture after ``steps`` steps.

    Attributes:
        evaluate: eager itself.
        start_gradient: where the run starts, [1, 3, H, W].
        pastiche, gradient, loss: the picture that it reaches, and what it says of it.
    """

    evaluate: Evaluator
    start_gradient: Tensor
    pastiche: Tensor
    gradient: Tensor
    loss: float


def loop_rows(workbench: Workbench, height: int, width: int) -> list[LoopRow]:
    """One row per engine: speed side by side, then quality."""
    config = workbench.config
    rows = [
        LoopRow(
            width=width,
            height=height,
            batch=config.batch,
            engine=engine,
            precision=precision,
            device=str(workbench.device),
            quality_steps=config.steps,
        )
        for engine, precision in config.engine_precisions
    ]
    contenders = [LoopContender(row, workbench) for row in rows]
    compete(contenders, config.repeats, workbench.stop)
    for contender, row in zip(contenders, rows, strict=True):
        if contender.turns:
            _fill_speed(row, contender, contenders[0], workbench)
    if config.steps and not workbench.stop():
        _fill_quality(rows, contenders, workbench)
    return rows


def _fill_speed(row: LoopRow, contender: LoopContender, eager: LoopContender, workbench: Workbench) -> None:
    timing = Timing(contender.samples)
    row.step_ms, row.step_ms_p10, row.step_ms_p90 = timing.median_ms, timing.p10_ms, timing.p90_ms
    row.steps_per_second = 1e3 / timing.median_ms
    row.pictures_per_second = row.batch * row.steps_per_second
    row.turn_steps = contender.turn_steps
    row.ratio_to_eager = median_ratio(eager, contender)
    workbench.rate(row, 2 * workbench.flops(row), timing.median_ms, workbench.device)


def _fill_quality(rows: list[LoopRow], contenders: list[LoopContender], workbench: Workbench) -> None:
    """Compare every engine that ran with the reference, which is made once, by the first of them."""
    reference: Reference | None = None
    for row, contender in zip(rows, contenders, strict=True):
        if row.status != OK:
            continue
        with recorded(row):
            scene = workbench.scene(row.height, row.width, row.batch)
            reference = reference or make_reference(workbench, scene)
            judge(row, contender, reference)


def make_reference(workbench: Workbench, scene: Scene) -> Reference:
    run = workbench.run_config("eager", "fp32")
    with arithmetic("fp32"):
        eager = workbench.evaluator(run, scene)
        start_gradient = eager(scene.start).gradient
        pastiche = run_steps(eager, scene, run)
        evaluation = eager(pastiche)
    return Reference(eager, start_gradient, pastiche, evaluation.gradient, mean_loss(evaluation))


def judge(row: LoopRow, contender: LoopContender, reference: Reference) -> None:
    """Fill in how far an engine's gradient and final loss are from the reference's."""
    evaluate, scene = contender.loop.evaluate, contender.workbench.scene(row.height, row.width, row.batch)
    with arithmetic(row.precision):
        row.gradient_cosine = cosine(evaluate(scene.start).gradient, reference.start_gradient)
        row.gradient_cosine_late = cosine(evaluate(reference.pastiche).gradient, reference.gradient)
        # Eager is the reference itself: once is enough.
        pastiche = reference.pastiche if row.engine == "eager" else run_steps(evaluate, scene, contender.run)
    with arithmetic("fp32"):
        row.final_loss = mean_loss(reference.evaluate(pastiche))
    row.final_loss_change = row.final_loss / reference.loss - 1 if reference.loss else None


def run_steps(evaluate: Evaluator, scene: Scene, run: StylizeConfig) -> Tensor:
    """The pastiche after ``run.steps`` steps, [1, 3, H, W], clamped as it would be saved."""
    stepper = make_stepper(evaluate, scene.start.clone(), run)
    for _ in start_loop(stepper, scene, run.steps, run, due=lambda step: False):
        pass
    return stepper.pastiche.detach().clamp(0, 1)


def start_loop(
    stepper: Stepper, scene: Scene, steps: int, run: StylizeConfig, due: Callable[[int], bool]
) -> Iterator[StepEvent]:
    """The loop of a run of ``stylize`` at its final scale, for so many steps whatever the run's own number."""
    pastiche = stepper.pastiche
    return optimize(
        stepper,
        Guard(pastiche, run.divergence_factor),
        LossHistory(scene.objective.term_names, steps, pastiche.device, pictures=len(pastiche)),
        Span(0, 0, steps, steps, last=True),
        run,
        due=due,
        elapsed=time.perf_counter,
    )


def mean_loss(evaluation: Evaluation) -> float:
    return float(evaluation.total.mean())


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two tensors taken as vectors, in float64: at 1 - 1e-8 the rounding of float32 would be all one sees."""
    x, y = a.flatten().double(), b.flatten().double()
    return float(torch.dot(x, y) / (x.norm() * y.norm()))
