"""A step of a huge picture, measured from outside: python bench/memory/huge.py [SIDE] [BUDGET] [extra flags of stylize]

The picture is smooth noise, drawn here; weights are random. Prints one JSON object. ``peak_mib`` is the process's;
``device_peak_mib`` is the GPU's where one computes (``40GiB --device cuda --steps 20``).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from footprints import IDLE, record_in, stylize
from peaks import peak_mib

from nst_fast.benchmark.report import to_json
from nst_fast.benchmark.scripts import conditions


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    budget = sys.argv[2] if len(sys.argv) > 2 else "8GiB"
    flags = ["--image-size", str(side), "--steps", "1", "--max-memory", budget]
    flags += ["--style-scale", str(max(0.05, 512 / side)), *sys.argv[3:]]
    idle = peak_mib(IDLE)
    with tempfile.TemporaryDirectory() as folder:
        # The content is enlarged by the run: a huge file is not what is measured.
        run = stylize(side // 4, side // 4, Path(folder), *flags)
        started = time.perf_counter()
        peak = peak_mib(run) - idle
        seconds = time.perf_counter() - started
        record = record_in(Path(folder))
    facts = {"side": side, "budget": budget, "precision": record["precision"], "plan": record["plan"]}
    evaluations = record["steps"] + 1 + len(record["recoveries"])  # before every step and after the last
    facts |= {"peak_mib": round(peak), "device": record["device"], "device_peak_mib": round(record["peak_memory_mib"])}
    facts |= {"seconds": round(seconds), "evaluations": evaluations}
    facts |= {"loop_seconds": record["seconds"], "flags": flags}
    sys.stdout.write(to_json(conditions("nst-fast/huge/1") | facts))


if __name__ == "__main__":
    main()
