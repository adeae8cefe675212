"""A step of a huge picture, measured from outside: python bench/memory/huge.py [SIDE] [BUDGET] [extra flags of stylize]

The picture is noise of 64-pixel grain, drawn here; weights are random. Prints one JSON object. ``peak_mib`` is the
process's; ``device_peak_mib`` is the GPU's where one computes (``40GiB --device cuda --steps 20``).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from footprints import clouds
from peaks import peak_mib

from nst_fast.images import save_image
from nst_fast.system.machine import describe_machine


def main() -> int:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    budget = sys.argv[2] if len(sys.argv) > 2 else "8GiB"
    idle = peak_mib(["-c", "import nst_fast.api"])
    with tempfile.TemporaryDirectory() as folder:
        content, style, output = (Path(folder) / name for name in ("content.png", "style.png", "out.png"))
        save_image(clouds(side // 4, side // 4), content)  # enlarged by the run: a huge file is not what is measured
        save_image(clouds(512, 512), style)
        run = ["-m", "nst_fast", "stylize", str(content), str(style), "-o", str(output), "--weights", "random:0"]
        flags = ["--image-size", str(side), "--steps", "1", "--scales", "1", "--max-memory", budget]
        flags += ["--monitor-every", "0", "--style-scale", str(max(0.05, 512 / side)), *sys.argv[3:]]
        started = time.perf_counter()
        peak = peak_mib([*run, *flags]) - idle
        seconds = time.perf_counter() - started
        record = json.loads(output.with_suffix(".json").read_text())
    facts = {"side": side, "budget": budget, "precision": record["precision"], "plan": record["plan"]}
    evaluations = record["steps"] + 1 + len(record["recoveries"])  # before every step and after the last
    facts |= {"peak_mib": round(peak), "device": record["device"], "device_peak_mib": round(record["peak_memory_mib"])}
    facts |= {"seconds": round(seconds), "evaluations": evaluations}
    facts |= {"loop_seconds": record["seconds"], "flags": flags, "machine": describe_machine()}
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
