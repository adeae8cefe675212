"""Peak memory of whole runs, measured from outside, beside the prediction: python bench/memory/footprints.py OUT.json

Every run is a fresh process; its peak is the kernel's (ru_maxrss), less that of a process that only imports PyTorch and
the program. Pictures are drawn here; weights are random, which changes nothing in what is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path

import torch
from peaks import peak_mib

from nst_fast.images import save_image
from nst_fast.images.resizing import resize_to
from nst_fast.system.files import write_atomic
from nst_fast.system.machine import describe_machine


def clouds(width: int, height: int) -> torch.Tensor:
    """A smooth picture [1, 3, H, W]."""
    return resize_to(torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)), (height, width))


def measure(case: dict[str, object], folder: Path, idle: float) -> dict[str, object]:
    width, height = (int(side) for side in str(case["size"]).split("x"))
    content, style, output = (folder / name for name in ("content.png", "style.png", "out.png"))
    save_image(clouds(width, height), content)
    save_image(clouds(512, 384), style)
    flags = [part for key, value in case.items() if key != "size" for part in (f"--{key}", str(value))]
    common = ["--weights", "random:0", "--monitor-every", "0", "--image-size", str(max(width, height)), "--overwrite"]
    steps = ["--steps", "2", "--scales", "1", "--style-scale", str(max(0.05, 512 / max(width, height)))]
    run = ["-m", "nst_fast", "stylize", str(content), str(style), "-o", str(output), "-q"]
    peak = peak_mib([*run, *common, *steps, *flags]) - idle
    record = json.loads(output.with_suffix(".json").read_text())
    plan = record["plan"]
    row = case | {"engine": record["engine"], "precision": record["precision"], "grid": plan["grid"]}
    row |= {"measured_mib": round(peak), "predicted_mib": plan["peak_mib"], "ratio": round(plan["peak_mib"] / peak, 3)}
    return row | {"seconds_per_step": round(1 / record["steps_per_second"], 2)}


if __name__ == "__main__":
    output = Path(sys.argv[1])
    cases = tomllib.loads(Path(sys.argv[2] if len(sys.argv) > 2 else "bench/memory/footprints.toml").read_text())[
        "case"
    ]
    idle = peak_mib(["-c", "import nst_fast.api"])
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for case in cases:
            rows.append(measure(case, Path(folder), idle))
            sys.stderr.write(f"{rows[-1]}\n")
    facts = {"schema": "nst-fast/footprints/1", "idle_mib": round(idle), "machine": describe_machine(), "rows": rows}
    write_atomic(output, (json.dumps(facts, indent=1) + "\n").encode())
