"""One run of the benchmark: every kind of row at every size, in order, into one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nst_fast.benchmark.evaluations import evaluation_rows
from nst_fast.benchmark.loops import loop_rows, monitor_rows
from nst_fast.benchmark.memory import measure_memory
from nst_fast.benchmark.quality import quality_rows
from nst_fast.benchmark.rows import BenchReport, Row
from nst_fast.benchmark.scenarios import SAMPLE, BenchConfig
from nst_fast.benchmark.workbench import Workbench
from nst_fast.errors import UsageError
from nst_fast.memory.allocator import keep_freed_memory, use_huge_pages
from nst_fast.run.observer import Observer
from nst_fast.system.machine import describe_machine

Measure = Callable[[Workbench, int, int], Sequence[Row]]  # the rows of one kind at one height and width


def asks_for_speed(config: BenchConfig) -> bool:
    return bool(config.engine_precisions) and not config.picture_pairs


# Kind -> whether a config asks for it, and what measures it. A new kind is a new entry.
KINDS: dict[str, tuple[Callable[[BenchConfig], bool], Measure]] = {
    "loop": (asks_for_speed, loop_rows),
    "monitor": (lambda config: asks_for_speed(config) and config.monitor_every > 0, monitor_rows),
    "quality": (lambda config: bool(config.picture_pairs), quality_rows),
    "evaluation": (lambda config: bool(config.provider_names), evaluation_rows),
}


def run_benchmark(config: BenchConfig, observer: Observer | None = None) -> BenchReport:
    """Measure what the config asks for. A case that fails becomes a row that says why.

    Args:
        config: what to measure.
        observer: its ``note`` gets what is being measured; its ``stop``, asked between turns, ends the run, and the
            report holds what there is.

    Raises:
        UsageError: nothing was asked for.
        DeviceError, WeightsError: PyTorch's device or the network is not there, so that no row could be measured.
    """
    observer = observer or Observer()
    kinds = {kind: measure for kind, (wanted, measure) in KINDS.items() if wanted(config)}
    if not kinds:
        raise UsageError("nothing to measure: neither engines nor providers", "Name one, as `engines` eager")
    started = time.perf_counter()
    use_huge_pages(max(max(size) for size in config.image_sizes))  # this and the next as a run does
    keep_freed_memory()
    workbench = Workbench(config, observer)
    report = BenchReport(options=shareable(config), machine=describe_machine(), device=str(workbench.device))
    for height, width in config.image_sizes:
        for kind, measure in kinds.items():
            if observer.stop():
                break
            observer.note(f"measuring {kind} at {width}x{height}")
            rows = measure(workbench, height, width)
            report.rows += rows
            for row in rows if config.memory else ():
                if not observer.stop():
                    measure_memory(row, workbench)
    report.status = "stopped" if observer.stop() else "complete"
    report.ceilings = [asdict(ceiling) for ceiling in workbench.ceilings.values()]
    report.seconds = time.perf_counter() - started
    return report


def shareable(config: BenchConfig) -> dict[str, Any]:
    """The options as they may be published: files by their names, without the user's folders."""
    options = config.as_dict()
    pairs = [pair and "+".join(Path(name).name for name in pair) for pair in config.picture_pairs]
    options["pairs"] = ",".join(pair or SAMPLE for pair in pairs)
    return options | {name: Path(options[name]).name for name in ("weights", "jury")}
