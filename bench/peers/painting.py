"""The pictures: how many steps of each program fit the seconds, and its runs. What exists is not made again."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from programs import Job, Program

from nst_fast.benchmark.scripts import flags, read_json, say, write_json
from nst_fast.errors import PartialError, UsageError
from nst_fast.images import load_image, save_image

Pair = tuple[str, str]


def parser(
    description: str | None, pairs: str, programs: Sequence[Program], parts: Sequence[str]
) -> argparse.ArgumentParser:
    """The flags that all comparisons have.

    Args:
        pairs: the TOML file beside this that is read by default.
        programs, parts: to choose from.
    """
    made = flags(description, __file__)
    names = [program.name for program in programs]
    add = made.add_argument
    add("--sources", type=Path, required=True, help="the folder of the programs' repositories")
    add("--images", type=Path, required=True, help="the folder of the pairs' pictures")
    add("--output", type=Path, required=True, help="where all goes; what is there is not made again")
    add("--pairs", type=Path, default=Path(__file__).with_name(pairs), help="another TOML file")
    add("--programs", nargs="+", choices=names, default=names, help="only these")
    add("--parts", nargs="+", choices=parts, default=parts, help="only these")
    add("--threads", type=int, default=2, help="that programs have (default: 2)")
    add("--jobs", type=int, default=1, help="pictures at a time, sharing the threads (default: 1)")
    return made


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        description, size, pairs, seconds: from the TOML file; ``pairs`` are file names of content and style.
        style_size, recipes: from it too, for speed.py: the longest side of the style that all are given, by default its
            own; and by peer, options of ours whose scores are compared with that peer's beside the default's.
        images, sources, output: the folders of the pictures, of the programs' repositories, and of what is made.
        programs: which.
    """

    description: str
    size: int
    pairs: Sequence[Pair]
    images: Path
    sources: Path
    output: Path
    programs: Sequence[Program]
    seconds: float = 0.0
    style_size: int | None = None
    recipes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, images: Path, sources: Path, output: Path, programs: Sequence[Program]) -> Comparison:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        data["pairs"] = [(content, style) for content, style in data["pairs"]]
        return cls(
            **data, images=images.resolve(), sources=sources.resolve(), output=output.resolve(), programs=programs
        )

    def content(self, pair: Pair) -> Path:
        return prepare(self.images / pair[0], self.output / "inputs", self.size)

    def style(self, pair: Pair) -> Path:
        return prepare(self.images / pair[1], self.output / "inputs", self.style_size)

    def picture(self, program: Program, pair: Pair) -> Path:
        return self.output / program.name / f"{title(pair)}.png"

    def job(self, program: Program, pair: Pair) -> Job:
        picture, weights = self.picture(program, pair), self.output / "weights"
        picture.parent.mkdir(parents=True, exist_ok=True)
        if program.write_weights:
            program.write_weights(weights)
        return Job(self.content(pair), self.style(pair), picture, self.size, self.sources, weights)


def prepare(picture: Path, folder: Path, side: int | None) -> Path:
    """A picture as an upright sRGB PNG, with a longest side if one is given: programs read and resize in many ways."""
    target = folder / (f"{picture.stem}-{side}.png" if side else f"{picture.stem}.png")
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(load_image(picture, longest_side=side).tensor, target)
    return target


def title(pair: Pair) -> str:
    return "+".join(Path(name).stem for name in pair)


@dataclass(frozen=True)
class Pace:
    """How fast a program paints one content.

    Attributes:
        seconds_per_step: per scale; ``fastest_step`` and ``processor_seconds_per_step`` show how idle the machine was.
        start_seconds: until the first step ended; not counted.
        threads, samples: with so many threads, from so many steps.
        note: by people, in the file.
    """

    seconds_per_step: Mapping[str, float]
    fastest_step: Mapping[str, float]
    processor_seconds_per_step: Mapping[str, float]
    start_seconds: float
    threads: int
    samples: int
    note: str = ""

    def shares(self, program: Program) -> list[int]:
        """Steps at each scale for every one that is counted."""
        return [program.first_share, *[1] * (len(self.seconds_per_step) - 1)]

    def seconds_of(self, program: Program, count: float) -> float:
        """What the steps take when so many are counted."""
        each = zip(self.shares(program), self.seconds_per_step.values(), strict=True)
        return count * sum(share * seconds for share, seconds in each)

    def count(self, program: Program, seconds: float) -> int:
        """What a program is asked for so that its steps take so many seconds, or fewer where its default is."""
        return max(1, min(program.default, int(seconds / self.seconds_of(program, 1))))


class Paces:
    """The paces of all programs, in a file that is read first and written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = read_json(path)

    def has(self, program: Program, content: str) -> bool:
        return content in self.known.get(program.name, {})

    def get(self, program: Program, content: str) -> Pace:
        return Pace(**self.known[program.name][content])

    def put(self, program: Program, content: str, pace: Pace) -> None:
        self.known.setdefault(program.name, {})[content] = asdict(pace)
        write_json(self.path, self.known)


@dataclass
class Watched:
    """The run of a program.

    Attributes:
        clock, processor: per scale, seconds since the start at which its steps ended, and seconds of processor until
            then.
        seconds: of the whole process.
        peak_mib: of its memory until its last step ended; 0 where there is no ``/proc``.
    """

    clock: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    peak_mib: float = 0.0

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
                run.peak_mib = max(run.peak_mib, peak_mib(process.pid))
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


def peak_mib(pid: int) -> float:
    """The highest resident memory of a process so far."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # its last line outlived it
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def measure(what: Comparison, rounds: int, threads: int) -> Paces:
    """The pace of every program for every content, the programs taking turns; kept in steps.json."""
    what.output.mkdir(parents=True, exist_ok=True)
    paces = Paces(what.output / "steps.json")
    one_per_content: dict[str, Pair] = {}
    for pair in what.pairs:
        one_per_content.setdefault(pair[0], pair)
    for pair in one_per_content.values():
        missing = [program for program in what.programs if not paces.has(program, pair[0])]
        runs: list[list[Watched]] = [[] for _ in missing]
        for _ in range(rounds):
            for program, own in zip(missing, runs, strict=True):
                own.append(probe(program, what.job(program, pair), threads))
        for program, own in zip(missing, runs, strict=True):
            paces.put(program, pair[0], pace(program, own, threads))
            say(f"{program.name} {pair[0]}: {paces.get(program, pair[0])}")
    return paces


def probe(program: Program, job: Job, threads: int) -> Watched:
    with tempfile.TemporaryDirectory() as folder:
        return watch(program, replace(job, output=Path(folder, "probe.png")), program.probe, threads)


def pace(program: Program, runs: Sequence[Watched], threads: int) -> Pace:
    """The pace that the runs of a probe had."""
    clock, processor = pooled([run.clock for run in runs]), pooled([run.processor for run in runs])
    return Pace(
        rounded({scale: program.typical(values) for scale, values in clock.items()}),
        rounded({scale: min(values) for scale, values in clock.items()}),
        rounded({scale: program.typical(values) for scale, values in processor.items()}),
        round(min(run.start for run in runs), 2),
        threads,
        samples=sum(map(len, clock.values())),
    )


def pooled(runs: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Seconds of every step but the first of a run, which has the preparations in it."""
    return {scale: [b - a for run in runs for a, b in pairwise(run[scale])] for scale in runs[0]}


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def paint(what: Comparison, count: Callable[[Program, Pair], int], jobs: int, threads: int) -> None:
    """Make every picture that is not there: all programs' of a pair before the next pair, so many at a time.

    Args:
        count: the steps of a picture.

    Raises:
        PartialError: programs failed; the other pictures are made.
    """

    def make(program: Program, pair: Pair) -> str:
        try:
            painted(program, what.job(program, pair), count(program, pair), threads)
        except PartialError as error:
            return str(error)
        return ""

    work = [(program, pair) for pair in what.pairs for program in what.programs]
    with ThreadPoolExecutor(jobs) as pool:
        failed = list(filter(None, pool.map(lambda each: make(*each), work)))
    if failed:
        raise PartialError("\n".join(failed))


def facts_of(picture: Path) -> Path:
    """Beside a picture: what its run was. A picture without it is not finished."""
    return picture.with_suffix(".run.json")


def run_of(picture: Path) -> dict[str, Any]:
    """What the run of a finished picture was.

    Raises:
        UsageError: it is not there, or not finished.
    """
    if found := read_json(facts_of(picture)):
        return found
    raise UsageError(f"{picture.parent.name} has not painted {picture.stem}", "Run the parts that paint first")


def painted(program: Program, job: Job, count: int, threads: int) -> None:
    """Paint a picture unless it is there, and note what its run was.

    Raises:
        PartialError: the program failed.
    """
    if not (job.output.is_file() and facts_of(job.output).is_file()):
        name = f"{program.name} {job.output.stem}"
        say(f"{name} ...")
        run = watch(program, job, count, threads)
        facts: dict[str, Any] = {
            "steps": run.steps,
            "wall_seconds": round(run.seconds, 1),
            "start_seconds": round(run.start, 1),
            "processor_seconds": round(run.processor_seconds, 1),
            "peak_mib": round(run.peak_mib),
            "threads": threads,
            "load": round(os.getloadavg()[0], 1),
        }
        say(f"{name}: {facts}")
        facts["clock"] = {scale: [round(at, 3) for at in ends] for scale, ends in run.clock.items()}
        write_json(facts_of(job.output), facts)
