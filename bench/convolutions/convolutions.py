"""An evaluation by every engine, direct and by Winograd's algorithm.

    GOMP_SPINCOUNT=10000 THP_MEM_ALLOC_ENABLE=1 python bench/convolutions/convolutions.py OUT.json

Full depth, the default objective, random weights, fp32. The cases of one process take turns, forwards and backwards;
ratios are medians over turns. Wall-clock seconds in as many threads as PyTorch takes, and CPU seconds of one thread,
which other work on the machine disturbs less. A run of this size has both variables so.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nst_fast.benchmark.scripts import by_turns, conditions, paired_ratio, write_json
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.ort import OrtEvaluator
from nst_fast.memory.allocator import keep_freed_memory
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.evaluation import EagerEvaluator, Evaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import StylizeConfig

SIZES = ((192, 256), (384, 512))
TURNS = 5


def cases_of(encoder: Encoder, objective: Objective) -> dict[str, Evaluator]:
    first, *others = [name for name in encoder.layers if name.startswith("conv")]
    assert first == "conv1_1"
    return {
        "eager": EagerEvaluator(encoder, objective),
        "fast, direct": FastEvaluator(encoder, objective),
        "fast, winograd": FastEvaluator(encoder, objective, winograd=others),
        "ort": OrtEvaluator(encoder, objective),
    }


def rows_of(height: int, width: int, threads: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    options = StylizeConfig(weights="random:0")
    encoder, _ = make_encoder(options.weights, options.network, options.taps, **options.encoder_keywords)
    content, style, picture = torch.rand((3, 1, 3, height, width), generator=torch.Generator().manual_seed(0))
    cases = cases_of(encoder, Objective(options, build_targets(encoder, options, content, [style])))
    seconds = by_turns({name: partial(evaluate, picture) for name, evaluate in cases.items()}, TURNS, clock)
    return [
        {
            "case": name,
            "size": f"{width}x{height}",
            "threads": threads,
            "clock": clock.__name__,
            "seconds": round(statistics.median(found), 4),
            "times_eager": round(paired_ratio(seconds["eager"], found), 3),
            "times_direct": round(paired_ratio(seconds["fast, direct"], found), 3),
        }
        for name, found in seconds.items()
    ]


def main(output: Path) -> None:
    keep_freed_memory()  # as a run does
    threads = torch.get_num_threads()
    rows = []
    for size in SIZES:
        rows += rows_of(*size, threads, time.perf_counter)
        rows += rows_of(*size, 1, time.process_time)
    torch.set_num_threads(threads)
    set_before = {name: os.environ.get(name, "") for name in ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")}
    facts = {"environment": set_before, "turns": TURNS, "rows": rows}
    write_json(output, conditions("nst-fast/convolutions/1") | facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
