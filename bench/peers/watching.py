"""Run a program and note when each of its steps ended, on the clock and on the processor."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise

import psutil
from programs import Job, Program

from nst_fast.errors import PartialError


@dataclass
class Watched:
    """The run of a program.

    Attributes:
        clock, processor: per scale, seconds since the start at which its steps ended, and seconds of processor until
            then.
        seconds: of the whole process.
    """

    clock: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def start(self) -> float:
        """Seconds until the first step ended."""
        return min(ends[0] for ends in self.clock.values())

    @property
    def steps(self) -> int:
        return sum(map(len, self.clock.values()))

    @property
    def processor_seconds(self) -> float:
        return max(ends[-1] for ends in self.processor.values())

    def note_step(self, scale: str, seconds: float, processor: float) -> None:
        self.clock.setdefault(scale, []).append(seconds)
        self.processor.setdefault(scale, []).append(processor)


def durations(ends: list[float]) -> list[float]:
    """Of every step but the first, which has the preparations in it."""
    return [after - before for before, after in pairwise(ends)]


def watch(program: Program, job: Job, count: int, threads: int) -> Watched:
    """Run a program to its end, in an empty folder.

    Raises:
        PartialError: it failed, or wrote no picture; with the end of its output.
    """
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **limits, **program.environment(job)}
    run, lines, began = Watched(), list[str](), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            program.command(job, count),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := program.step.search(line):
                scale = found[1] if found.groups() else ""
                run.note_step(scale, time.monotonic() - began, processor_seconds(process.pid))
    run.seconds = time.monotonic() - began
    if process.returncode or not job.output.is_file() or not run.clock:
        raise PartialError(f"{program.name} ended with {process.returncode}:\n" + "".join(lines[-20:]))
    return run


def processor_seconds(pid: int) -> float:
    try:
        spent = psutil.Process(pid).cpu_times()
    except psutil.Error:  # its last line outlived it
        return 0.0
    return float(spent.user + spent.system)
