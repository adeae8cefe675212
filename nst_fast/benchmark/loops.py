"""Loop rows, steps per second of the real loop and how exact its engine is; monitor rows, what the monitor costs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from torch import Tensor

from nst_fast.benchmark.rows import OK, LoopRow, MonitorRow
from nst_fast.benchmark.turns import Contender, compete, count_for, median_ratio, recorded, spread
from nst_fast.benchmark.workbench import Scene, Workbench
from nst_fast.engines import Evaluator
from nst_fast.engines.precision import float32_arithmetic
from nst_fast.errors import NstFastError
from nst_fast.onnx.monitor import Monitor, open_monitor
from nst_fast.onnx.session import Session
from nst_fast.optimizers import Stepper, make_stepper
from nst_fast.options.config import StylizeConfig
from nst_fast.run.guard import Guard
from nst_fast.run.loop import LossHistory, Span, optimize
from nst_fast.run.observer import StepEvent
from nst_fast.system.clock import make_clock

MOST_TURN_STEPS = 2000  # bounds the history that the loop keeps on the device
MONITOR_SECONDS = 60.0  # how long the monitor is waited for


class PacedLoop:
    """The real loop of one engine, started and then run so many steps at a time; its events are the only stops."""

    def __init__(self, run: StylizeConfig, workbench: Workbench, scene: Scene) -> None:
        config = workbench.config
        self.clock = make_clock(workbench.device)
        started = self.clock()
        self.sessions: list[Session] = []  # of ONNX Runtime, for its engine
        self.evaluate = workbench.evaluator(run, scene, self.sessions.append)
        self.stepper = make_stepper(self.evaluate, scene.start.clone(), run)
        self._target = 0
        # One more than will be done. A monitored turn is rounded up to a multiple of the monitor's interval.
        most = 2 + config.warmup + config.repeats * (MOST_TURN_STEPS + config.monitor_every)
        self._events = start_loop(self.stepper, scene, most, run, due=lambda step: step >= self._target)
        next(self._events)  # the evaluation before the first step
        self.advance(1)
        self.setup_seconds = self.clock() - started

    def advance(self, steps: int) -> float:
        """Do so many steps; the seconds that took, the device synchronised before and after."""
        self._target += steps
        started = self.clock()
        next(self._events)
        return self.clock() - started


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


class LoopContender(Contender):
    """One engine's timed loop; a turn is one sample, its mean time per step.

    Engine and precision in the row are those asked for until it is prepared, and then those that were chosen.
    """

    row: LoopRow | MonitorRow

    def __init__(self, row: LoopRow | MonitorRow, workbench: Workbench) -> None:
        super().__init__(row)
        self.workbench = workbench
        self.turn_steps = 1
        self.run: StylizeConfig
        self.loop: PacedLoop

    @property
    def scene(self) -> Scene:
        return self.workbench.scene(self.row.height, self.row.width, self.row.batch)

    def prepare(self) -> None:
        row, config = self.row, self.workbench.config
        self.run = self.workbench.run_config(row.engine, row.precision)
        row.engine, row.precision = self.run.engine, self.run.precision
        with float32_arithmetic(row.precision):
            self.loop = PacedLoop(self.run, self.workbench, self.scene)
            seconds = self.loop.advance(config.warmup) / config.warmup
        row.setup_seconds = self.loop.setup_seconds
        if isinstance(row, LoopRow) and self.loop.sessions:
            row.provider = self.loop.sessions[-1].actual
        self.turn_steps = count_for(config.turn_seconds, seconds, MOST_TURN_STEPS)

    def take_turn(self) -> list[float]:
        with float32_arithmetic(self.row.precision):
            return [1e3 * self.loop.advance(self.turn_steps) / self.turn_steps]


def loop_rows(workbench: Workbench, height: int, width: int) -> list[LoopRow]:
    """One row per engine: speed side by side, then quality."""
    config, device = workbench.config, str(workbench.device)
    rows = [
        LoopRow(width=width, height=height, batch=config.batch, engine=engine, precision=precision, device=device)
        for engine, precision in config.engine_precisions
    ]
    contenders = [LoopContender(row, workbench) for row in rows]
    compete(contenders, config.repeats, workbench.stop)
    for contender, row in zip(contenders, rows, strict=True):
        row.quality_steps = config.steps
        if contender.turns:
            _fill_speed(row, contender, contenders[0])
    if config.steps and not workbench.stop():
        _fill_quality(rows, contenders, workbench)
    return rows


def _fill_speed(row: LoopRow, contender: LoopContender, eager: LoopContender) -> None:
    workbench = contender.workbench
    median_ms, row.step_ms_p10, row.step_ms_p90 = spread(contender.samples)
    row.step_ms = median_ms
    row.steps_per_second = 1e3 / median_ms
    row.pictures_per_second = row.batch * row.steps_per_second
    row.turn_steps = contender.turn_steps
    row.ratio_to_eager = median_ratio(eager, contender)
    workbench.rate(row, 2 * workbench.flops(row), median_ms, workbench.device)


def _fill_quality(rows: Sequence[LoopRow], contenders: Sequence[LoopContender], workbench: Workbench) -> None:
    """Compare every engine that ran with eager, which is evaluated once, for the first of them."""
    reference: Reference | None = None
    for row, contender in zip(rows, contenders, strict=True):
        if row.status == OK:
            with recorded(row):
                reference = reference or Reference(workbench, contender.scene)
                reference.compare(row, contender)


class Reference:
    """What eager in IEEE fp32 makes of a scene: its gradient at the start, and its picture after a run's steps."""

    def __init__(self, workbench: Workbench, scene: Scene) -> None:
        run = workbench.run_config("eager", "fp32")
        with float32_arithmetic("fp32"):
            self.evaluate = workbench.evaluator(run, scene)
            self.start_gradient = self.evaluate(scene.start).gradient
            self.pastiche = run_steps(self.evaluate, scene, run)
            self.evaluation = self.evaluate(self.pastiche)

    def compare(self, row: LoopRow, contender: LoopContender) -> None:
        """Fill in how far an engine's gradient and final loss are from these."""
        evaluate, scene = contender.loop.evaluate, contender.scene
        with float32_arithmetic(row.precision):
            row.gradient_cosine = cosine(evaluate(scene.start).gradient, self.start_gradient)
            row.gradient_cosine_late = cosine(evaluate(self.pastiche).gradient, self.evaluation.gradient)
            # Eager is the reference itself: once is enough.
            pastiche = self.pastiche if row.engine == "eager" else run_steps(evaluate, scene, contender.run)
        with float32_arithmetic("fp32"):
            row.final_loss = self.evaluate(pastiche).total.mean().item()
        loss = self.evaluation.total.mean().item()
        row.final_loss_change = row.final_loss / loss - 1 if loss else None


def run_steps(evaluate: Evaluator, scene: Scene, run: StylizeConfig) -> Tensor:
    """The pastiche after ``run.steps`` steps, [B, 3, H, W], clamped as it would be saved."""
    stepper = make_stepper(evaluate, scene.start.clone(), run)
    for _ in start_loop(stepper, scene, run.steps, run, due=lambda step: False):
        pass
    return stepper.pastiche.detach().clamp(0, 1)


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two tensors taken as vectors, in float64: at 1 - 1e-8 float32 would show its own rounding only."""
    x, y = a.flatten().double(), b.flatten().double()
    return float(torch.dot(x, y) / (x.norm() * y.norm()))


class MonitoredContender(LoopContender):
    """The loop as ``stylize`` runs it: a snapshot to the monitor every so many steps, the first at once.

    The loop without a monitor does the same number of steps in a turn, a multiple of the interval. What the monitor
    has not finished when a turn ends is waited for, untimed, so that it does not slow the other loop's turn.
    """

    row: MonitorRow

    def __init__(self, row: MonitorRow, workbench: Workbench, *, monitored: bool) -> None:
        super().__init__(row, workbench)
        self.monitored = monitored
        self.monitor: Monitor | None = None
        self.submitted = 0

    def prepare(self) -> None:
        super().prepare()
        every = self.row.monitor_every
        self.turn_steps = every * math.ceil(self.turn_steps / every)
        self.row.turn_steps = self.turn_steps
        if self.monitored:
            sha256 = self.workbench.weights["sha256"]
            objective = self.scene.objective
            self.monitor = open_monitor(self.workbench.encoder, objective, self.run, sha256, lambda note: None)
            self.row.actual = self.monitor.session.actual
            self._submit(self.monitor)  # the first run of a session allocates its memory
            self._settle(self.monitor)

    def take_turn(self) -> list[float]:
        if self.monitor is None:
            return super().take_turn()
        seconds = 0.0
        with float32_arithmetic(self.row.precision):
            for _ in range(self.turn_steps // self.row.monitor_every):
                started = self.loop.clock()
                self._submit(self.monitor)
                seconds += self.loop.clock() - started + self.loop.advance(self.row.monitor_every)
        self._settle(self.monitor)
        return [1e3 * seconds / self.turn_steps]

    def _submit(self, monitor: Monitor) -> None:
        monitor.submit(self.submitted, self.loop.stepper.pastiche.detach().to("cpu", copy=True))
        self.submitted += 1

    def _settle(self, monitor: Monitor) -> None:
        """Wait until the monitor has nothing to do."""
        deadline = time.monotonic() + MONITOR_SECONDS
        while len(monitor.readings()) + monitor.dropped < self.submitted:
            if monitor.warnings or time.monotonic() > deadline:
                raise NstFastError("; ".join(monitor.warnings) or f"no reading within {MONITOR_SECONDS:g} s")
            time.sleep(0.005)

    def close(self) -> None:
        if self.monitor is not None:
            self.row.readings, self.row.dropped = len(self.monitor.readings()), self.monitor.dropped
            self.monitor.close()


def monitor_rows(workbench: Workbench, height: int, width: int) -> list[MonitorRow]:
    """One row per engine."""
    config, device, rows = workbench.config, str(workbench.device), []
    for engine, precision in config.engine_precisions:
        row = MonitorRow(
            width=width,
            height=height,
            engine=engine,
            device=device,
            precision=precision,
            requested=config.monitor_provider,
            monitor_every=config.monitor_every,
        )
        rows.append(row)
        with_monitor, without = (MonitoredContender(row, workbench, monitored=yes) for yes in (True, False))
        compete([with_monitor, without], config.repeats, workbench.stop)
        with_monitor.close()
        if with_monitor.turns and without.turns:
            row.steps_per_second = 1e3 / median(with_monitor.samples)
            row.steps_per_second_without = 1e3 / median(without.samples)
            ratio = median_ratio(with_monitor, without)
            row.slowdown_percent = None if ratio is None else 100 * (ratio - 1)
            workbench.rate(row, 2 * workbench.flops(row), median(with_monitor.samples), workbench.device)
    return rows
