"""Steps per second at one size with the same taps, all programs taking turns; kept in OUTPUT/race.json after each run.

Every program's own default taps are relu4_2 for the content and relu1_1 to relu5_1 for the style, on VGG-19 in fp32
with max pooling: a step of each does the same convolutions, forward and backward; losses and optimiser differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from painting import Comparison, Pair, pooled, title, watch
from programs import OURS, PROGRAMS, Arguments, Job, Program

from nst_fast.benchmark.scripts import read_json, say, write_json
from nst_fast.errors import UsageError
from nst_fast.system.machine import describe_machine

IN_FP32 = f"{OURS} in fp32"
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
Run = dict[str, Any]


def our_program() -> Program:
    return next(program for program in PROGRAMS if program.name == OURS)


def renamed(program: Program, name: str, more: Arguments) -> Program:
    """The program under another name, with more arguments."""

    def arguments(job: Job, count: int) -> Arguments:
        return [*program.arguments(job, count), *more]

    return replace(program, name=name, arguments=arguments)


def default_pace(program: Program) -> str:
    """The racer that shows how fast a program is with its defaults."""
    return f"{program.name}, all its scales" if program.first_share > 1 else program.name


def racers(what: Comparison, steps: int) -> list[Program]:
    """Every peer and nst-fast, at the final size only, with so many steps; a peer of several scales also with those."""
    found = []
    for peer in what.programs:
        short = replace(peer, probe=max(2, steps // peer.first_share))
        if peer.first_share > 1:
            found.append(renamed(peer, default_pace(peer), []))
            short = renamed(short, peer.name, ["-ms", f"{what.size}"])
        found.append(short)
    once: Arguments = ["--scales", "1", "--monitor-every", "0"]
    ours = replace(our_program(), probe=steps, typical=statistics.median)
    return [*found, renamed(ours, OURS, once), renamed(ours, IN_FP32, [*once, "--precision", "fp32"])]


class Race:
    """The runs of all racers, in a file that is read first and written after each: pair -> racer -> a run per round."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, dict[str, list[Run]]] = read_json(path)

    def run(self, what: Comparison, rounds: int, steps: int, threads: int) -> None:
        """What is missing of so many rounds, every other round in reverse order."""
        for pair in what.pairs:
            own = self.runs.setdefault(title(pair), {})
            for index in range(rounds):
                order = racers(what, steps)
                for program in order if index % 2 == 0 else order[::-1]:
                    runs = own.setdefault(program.name, [])
                    if len(runs) <= index:
                        runs.append(raced(program, what, pair, threads))
                        write_json(self.path, self.runs)
                        say(f"{program.name} {title(pair)}: {runs[-1]}")

    def of(self, pair: Pair, racer: str) -> list[Run]:
        """A racer's runs, one per round.

        Raises:
            UsageError: there are none yet.
        """
        runs = self.runs.get(title(pair), {}).get(racer)
        if not runs:
            raise UsageError(f"{racer} has not raced on {title(pair)}", "Run the part race first")
        return runs

    def seconds(self, pair: Pair, racer: str) -> float:
        """Per step: the median over rounds, at the final size."""
        return statistics.median([final(run) for run in self.of(pair, racer)])

    def ratio(self, pair: Pair, peer: str, ours: str) -> float:
        """How many of our steps a peer's takes: the median over rounds."""
        runs = zip(self.of(pair, peer), self.of(pair, ours), strict=False)
        return statistics.median([final(a) / final(b) for a, b in runs])

    def peak_mib(self, pair: Pair, racer: str) -> float:
        return statistics.median([float(run["peak_mib"]) for run in self.of(pair, racer)])

    def default_seconds(self, pair: Pair, program: Program, count: int) -> float:
        """What the steps of a peer's own run take by its pace here.

        Too little for a long L-BFGS, which slows down until its history is full.
        """
        runs = [run["seconds"].values() for run in self.of(pair, default_pace(program))]
        scales = [statistics.median(values) for values in zip(*runs, strict=True)]
        shares = [program.first_share, *[1] * (len(scales) - 1)]
        return float(count * sum(share * seconds for share, seconds in zip(shares, scales, strict=True)))


def final(run: Mapping[str, Any]) -> float:
    """Seconds per step at the last of a run's scales."""
    return float([*run["seconds"].values()][-1])


def raced(program: Program, what: Comparison, pair: Pair, threads: int) -> Run:
    # Not where the finished pictures are, which it would replace.
    job = replace(what.job(program, pair), output=what.output / "race" / f"{program.name} {title(pair)}.png")
    job.output.parent.mkdir(exist_ok=True)
    run = watch(program, job, program.probe, threads)
    known = read_json(job.output.with_suffix(".json"))  # ours has one
    return {
        "seconds": {scale: round(program.typical(values), 4) for scale, values in pooled([run.clock]).items()},
        "processor": {scale: round(program.typical(values), 3) for scale, values in pooled([run.processor]).items()},
        "peak_mib": round(run.peak_mib),
        "start_seconds": round(run.start, 1),
        "steps": run.steps,
        **{name: known[name] for name in ("engine", "precision") if name in known},
    }


def has_bf16() -> bool:
    return bool(BF16_FLAGS & set(describe_machine()["cpu_flags"]))
