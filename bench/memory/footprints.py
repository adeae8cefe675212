"""Peak memory of whole runs, measured from outside, beside the prediction: python bench/memory/footprints.py OUT.json

Every run is a fresh process; its peak is the kernel's (ru_maxrss), less that of a process that only imports PyTorch and
the program. Pictures are drawn here; weights are random, which changes nothing in what is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peaks import peak_mib

from nst_fast.benchmark.scripts import conditions, say, write_json
from nst_fast.images import save_image
from nst_fast.images.resizing import resize_to

IDLE = ["-c", "import nst_fast.api"]
Case = dict[str, Any]


def stylize(width: int, height: int, folder: Path, *flags: str) -> list[str]:
    """Arguments of Python for a run at one scale, with smooth random pictures, the style of 512 pixels."""
    for name, size in (("content", (height, width)), ("style", (384, 512))):
        coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
        save_image(resize_to(coarse, size), folder / f"{name}.png")
    files = [str(folder / name) for name in ("content.png", "style.png", "out.png")]
    run = ["-m", "nst_fast", "stylize", *files[:2], "-o", files[2], "-q", "--overwrite", "--weights", "random:0"]
    return [*run, "--monitor-every", "0", "--scales", "1", *flags]


def stylize_case(case: Case, folder: Path, *flags: str) -> list[str]:
    """The same for a case of a TOML file: ``size`` and flags."""
    width, height = map(int, case["size"].split("x"))
    longest = max(width, height)
    flags += ("--image-size", str(longest), "--style-scale", str(max(0.05, 512 / longest)))
    own = [part for key, value in case.items() if key not in ("size", "ranks") for part in (f"--{key}", str(value))]
    return stylize(width, height, folder, *flags, *own)


def record_in(folder: Path) -> dict[str, Any]:
    """The record of the run that :func:`stylize` gives."""
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def measure(case: Case, folder: Path, idle: float) -> Case:
    peak = peak_mib(stylize_case(case, folder, "--steps", "2")) - idle
    record = record_in(folder)
    plan = record["plan"]
    row = case | {"engine": record["engine"], "precision": record["precision"], "grid": plan["grid"]}
    row |= {"measured_mib": round(peak), "predicted_mib": plan["peak_mib"], "ratio": round(plan["peak_mib"] / peak, 3)}
    return row | {"seconds_per_step": round(1 / record["steps_per_second"], 2)}


def main(name: str, measure: Callable[[Case, Path, float], Case]) -> None:
    """Measure the cases of NAME.toml beside this, or of the file that is the second argument; write the first."""
    output = Path(sys.argv[1])
    table = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name(f"{name}.toml")
    idle = peak_mib(IDLE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in tomllib.loads(table.read_text())["case"]:
            rows.append(measure(case, Path(folder), idle))
            say(f"{rows[-1]}")
    write_json(output, conditions(f"nst-fast/{name}/1") | {"idle_mib": round(idle), "rows": rows})


if __name__ == "__main__":
    main("footprints", measure)
