"""Peak memory of every rank beside that of one process, and their losses: python bench/memory/ranks.py OUT.json

Peaks are the kernel's (ru_maxrss of each child, measured from outside), less that of a process that only imports.
Cases are in ranks.toml; pictures are drawn here, weights are random, which changes nothing in what is measured.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from footprints import clouds
from peaks import peak_mib

from nst_fast.images import save_image
from nst_fast.system.files import write_atomic
from nst_fast.system.machine import MIB, describe_machine


def peaks_mib(arguments: list[str], count: int) -> list[float]:
    """The highest resident memory of each of so many copies of ``python ARGUMENTS``, numbered as torchrun does it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = {}
    for rank in range(count):
        child = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, env=common | {"RANK": str(rank)}
        )
        children[child.pid] = (rank, child)
    found = [0.0] * count
    while children:
        number, status, usage = os.wait3(0)
        rank, child = children.pop(number)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"rank {rank} of {' '.join(arguments)}: ended with {child.returncode}")
        found[rank] = usage.ru_maxrss * 1024 / MIB
    return found


def measure(case: dict[str, object], folder: Path, idle: float) -> dict[str, object]:
    width, height = (int(side) for side in str(case["size"]).split("x"))
    content, style, output = (folder / name for name in ("content.png", "style.png", "out.png"))
    save_image(clouds(width, height), content)
    save_image(clouds(512, 384), style)
    given = {key: value for key, value in case.items() if key not in ("size", "ranks")}
    flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    common = ["--weights", "random:0", "--scales", "1", "--monitor-every", "0", "--overwrite"]
    common += ["--image-size", str(max(width, height))]
    common += ["--device", "cpu", "--engine", "fast", "--style-scale", str(max(0.05, 512 / max(width, height)))]
    run = ["-m", "nst_fast", "stylize", str(content), str(style), "-o", str(output), "-q", *common, *flags]
    alone = peak_mib(run) - idle
    expected = json.loads(output.with_suffix(".json").read_text())["history"]["total"]
    ranks = [peak - idle for peak in peaks_mib(run, int(str(case["ranks"])))]
    record = json.loads(output.with_suffix(".json").read_text())
    found = record["history"]["total"]
    gap = max(abs(a - b) / a for a, b in zip(expected, found, strict=True))
    shares = {"above start-up": max(ranks) / alone, "whole process": (max(ranks) + idle) / (alone + idle)}
    return case | {
        "alone_mib": round(alone),
        "ranks_mib": [round(peak) for peak in ranks],
        "predicted_mib": record["plan"]["peak_mib"],
        "largest_share": {name: round(value, 3) for name, value in shares.items()},
        "updates": record["steps"],
        "largest_loss_gap": gap,
    }


if __name__ == "__main__":
    output = Path(sys.argv[1])
    table = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("ranks.toml")
    idle = peak_mib(["-c", "import nst_fast.api"])
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for case in tomllib.loads(table.read_text())["case"]:
            rows.append(measure(case, Path(folder), idle))
            sys.stderr.write(f"{rows[-1]}\n")
    facts = {"schema": "nst-fast/ranks/1", "idle_mib": round(idle), "machine": describe_machine(), "rows": rows}
    write_atomic(output, (json.dumps(facts, indent=1) + "\n").encode())
