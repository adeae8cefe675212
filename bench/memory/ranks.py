"""Peak memory of every rank beside that of one process, and their losses: python bench/memory/ranks.py OUT.json

Peaks are the kernel's (ru_maxrss of each child, measured from outside), less that of a process that only imports.
Cases are in ranks.toml; pictures are drawn here, weights are random, which changes nothing in what is measured.
"""

from __future__ import annotations

import socket
from pathlib import Path

from footprints import Case, main, record_in, stylize_case
from peaks import peak_mib, peaks_mib


def rank_variables(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of so many ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [common | {"RANK": str(rank)} for rank in range(count)]


def measure(case: Case, folder: Path, idle: float) -> Case:
    run = stylize_case(case, folder, "--device", "cpu", "--engine", "fast")
    alone = peak_mib(run) - idle
    expected = record_in(folder)["history"]["total"]
    ranks = [peak - idle for peak in peaks_mib(run, rank_variables(case["ranks"]))]
    record = record_in(folder)
    gaps = [abs(a - b) / a for a, b in zip(expected, record["history"]["total"], strict=True)]
    shares = {"above start-up": max(ranks) / alone, "whole process": (max(ranks) + idle) / (alone + idle)}
    return case | {
        "alone_mib": round(alone),
        "ranks_mib": [round(peak) for peak in ranks],
        "predicted_mib": record["plan"]["peak_mib"],
        "largest_share": {name: round(value, 3) for name, value in shares.items()},
        "updates": record["steps"],
        "largest_loss_gap": max(gaps),
    }


if __name__ == "__main__":
    main("ranks", measure)
