"""The step graph's two forms, and ONNX Runtime's session options, on the CPU: python bench/ort/cpu_forms.py OUT.json

Sessions of one process take turns, forwards and backwards, with one thread unless the case says more; in CPU seconds,
so that a busy machine disturbs little. Ratios are medians over turns. Memory is what session and runs add to a process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import torch

from nst_fast.benchmark.scripts import by_turns, conditions, paired_ratio, write_json
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import build_targets
from nst_fast.onnx.graph.step import AdamConstants, StepGraph, build_step_graph, constant_feeds
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import session_options
from nst_fast.options.config import StylizeConfig
from nst_fast.system.machine import MIB

SIZES = ((192, 256), (384, 512))
TURNS = 9
Case = tuple[bool, dict[str, Any], dict[str, str]]  # form, attributes of SessionOptions, entries of its config
LEVELS = onnxruntime.GraphOptimizationLevel
# The first one is what the ratios are to.
FORMS: dict[str, Case] = {"plain form": (False, {}, {}), "form for the CPU": (True, {}, {})}
OPTIONS: dict[str, Case] = {
    "form for the CPU": (True, {}, {}),
    "memory pattern": (True, {"enable_mem_pattern": True}, {}),
    "no arena": (True, {"enable_cpu_mem_arena": False}, {}),
    "extended optimisation": (True, {"graph_optimization_level": LEVELS.ORT_ENABLE_EXTENDED}, {}),
    "basic optimisation": (True, {"graph_optimization_level": LEVELS.ORT_ENABLE_BASIC}, {}),
    "2 threads": (True, {"intra_op_num_threads": 2}, {}),
    "2 threads that spin": (True, {"intra_op_num_threads": 2}, {"session.intra_op.allow_spinning": "1"}),
}  # fmt: skip


def problem(height: int, width: int) -> tuple[StepGraph, dict[str, Any]]:
    """The step graph of the default network with random weights, and all that it is fed."""
    options = StylizeConfig(weights="random:0")
    encoder, _ = make_encoder(options.weights, options.network, options.taps, **options.encoder_keywords)
    generator = torch.Generator().manual_seed(0)
    content, style, pastiche = (torch.rand(1, 3, height, width, generator=generator) for _ in range(3))
    spec = StepGraph(encoder, options, "fp32", AdamConstants(), (height, width))
    feeds = constant_feeds(spec, build_targets(encoder, options, content, [style]), (height, width))
    zero = np.zeros(pastiche.shape, np.float32)
    scalars = {name: np.array([0.1], np.float32) for name in ("learning_rate", "correction1", "correction2")}
    return spec, {**feeds, **scalars, "pastiche": pastiche.numpy(), "m": zero, "v": zero}


def open_case(spec: StepGraph, case: Case) -> Any:
    for_cpu, attributes, entries = case
    options = session_options(SessionConfig(threads=1, deterministic=True), strict=False)
    options.enable_mem_pattern = False  # as open_session has it
    for name, value in attributes.items():
        setattr(options, name, value)
    for name, entry in entries.items():
        options.add_session_config_entry(name, entry)
    model = build_step_graph(replace(spec, for_cpu=for_cpu)).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rows_of(cases: dict[str, Case], height: int, width: int) -> list[dict[str, Any]]:
    spec, feeds = problem(height, width)
    runs = {name: partial(open_case(spec, case).run, None, feeds) for name, case in cases.items()}
    seconds = by_turns(runs, TURNS, time.process_time)
    first = seconds[next(iter(seconds))]
    return [
        {
            "case": name,
            "size": f"{width}x{height}",
            "cpu_seconds": round(statistics.median(found), 4),
            "ratio": round(paired_ratio(first, found), 3),
        }
        for name, found in seconds.items()
    ]


def memory_mib(name: str, height: int, width: int) -> None:
    """Print what a session of a case and three runs of it add to this process."""
    spec, feeds = problem(height, width)
    before = psutil.Process().memory_info().rss
    session = open_case(spec, (FORMS | OPTIONS)[name])
    for _ in range(3):
        session.run(None, feeds)
    print(round((psutil.Process().memory_info().rss - before) / MIB))  # noqa: T201 - the parent reads it


def main(output: Path) -> None:
    rows = [row for size in SIZES for row in rows_of(FORMS, *size)] + rows_of(OPTIONS, *SIZES[0])
    height, width = SIZES[-1]
    for row in rows:
        if row["size"] == f"{width}x{height}" or row["case"] == "memory pattern":
            command = [sys.executable, __file__, "--memory", row["case"], str(height), str(width)]
            row["memory_mib_512x384"] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    write_json(output, conditions("nst-fast/ort-cpu-forms/1") | {"turns": TURNS, "rows": rows})


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        memory_mib(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main(Path(sys.argv[1]))
