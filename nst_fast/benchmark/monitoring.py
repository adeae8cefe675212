"""Monitor rows: how much the monitor slows the loop down, with and without taking turns."""

from __future__ import annotations

import math
import time
from statistics import median

from nst_fast.benchmark.loops import LoopContender
from nst_fast.benchmark.rows import MonitorRow
from nst_fast.benchmark.turns import compete, median_ratio
from nst_fast.benchmark.workbench import Workbench, arithmetic
from nst_fast.errors import NstFastError
from nst_fast.onnx.monitor import Monitor, open_monitor

SETTLE_SECONDS = 60.0


class MonitoredContender(LoopContender):
    """The loop as ``stylize`` runs it: a snapshot to the monitor every so many steps, the first at once.

    Both kinds of loop do the same number of steps in a turn, a multiple of the interval. What the monitor has not
    finished when a turn ends is waited for, untimed, so that it does not slow the other loop's turn.
    """

    row: MonitorRow

    def __init__(self, row: MonitorRow, workbench: Workbench, *, watched: bool) -> None:
        super().__init__(row, workbench)
        self.watched = watched
        self.monitor: Monitor | None = None
        self.submitted = 0

    def prepare(self) -> None:
        super().prepare()
        every = self.row.monitor_every
        self.turn_steps = every * math.ceil(self.turn_steps / every)
        self.row.turn_steps = self.turn_steps
        if self.watched:
            scene = self.workbench.scene(self.row.height, self.row.width)
            sha256 = self.workbench.weights["sha256"]
            self.monitor = open_monitor(self.workbench.encoder, scene.objective, self.run, sha256, lambda note: None)
            self.row.actual = self.monitor.session.actual
            self._submit(self.monitor)  # the first run of a session allocates its memory
            self._settle(self.monitor)

    def take_turn(self) -> list[float]:
        if self.monitor is None:
            return super().take_turn()
        seconds = 0.0
        with arithmetic(self.row.precision):
            for _ in range(self.turn_steps // self.row.monitor_every):
                started = self.loop.clock()
                self._submit(self.monitor)
                seconds += self.loop.clock() - started + self.loop.advance(self.row.monitor_every)
        self._settle(self.monitor)
        return [1e3 * seconds / self.turn_steps]

    def _submit(self, monitor: Monitor) -> None:
        monitor.submit(self.submitted, self.loop.pastiche.detach().to("cpu", copy=True))
        self.submitted += 1

    def _settle(self, monitor: Monitor) -> None:
        """Wait until the monitor has nothing to do."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(monitor.readings()) + monitor.dropped < self.submitted:
            if monitor.warnings or time.monotonic() > deadline:
                raise NstFastError("; ".join(monitor.warnings) or f"no reading within {SETTLE_SECONDS:g} s")
            time.sleep(0.005)

    def close(self) -> None:
        if self.monitor is not None:
            self.row.readings, self.row.dropped = len(self.monitor.readings()), self.monitor.dropped
            self.monitor.close()


def monitor_rows(workbench: Workbench, height: int, width: int) -> list[MonitorRow]:
    """One row per engine."""
    return [_monitor_row(workbench, *pair, height, width) for pair in workbench.config.engine_precisions]


def _monitor_row(workbench: Workbench, engine: str, precision: str, height: int, width: int) -> MonitorRow:
    config = workbench.config
    row = MonitorRow(
        width=width,
        height=height,
        engine=engine,
        device=str(workbench.device),
        precision=precision,
        requested=config.monitor_provider,
        monitor_every=config.monitor_every,
    )
    with_monitor, without = (MonitoredContender(row, workbench, watched=watched) for watched in (True, False))
    compete([with_monitor, without], config.repeats, workbench.stop)
    with_monitor.close()
    if with_monitor.turns and without.turns:
        row.steps_per_second = 1e3 / median(with_monitor.samples)
        row.steps_per_second_without = 1e3 / median(without.samples)
        ratio = median_ratio(with_monitor, without)
        row.slowdown_percent = None if ratio is None else 100 * (ratio - 1)
        workbench.rate(row, 2 * workbench.flops(row), median(with_monitor.samples), workbench.device)
    return row
