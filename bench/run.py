"""Run scenarios and keep their results: ``python bench/run.py bench/steps-cpu.toml``. See README.md beside this."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nst_fast.benchmark.scenario import load_scenario, run_scenario
from nst_fast.errors import NstFastError


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="+", type=Path, help="scenario files (.toml)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).parent / "results",
        help="the folder to write to; by default bench/results",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option in place of the scenarios' own, as weights=FILE; the result says so",
    )
    arguments = parser.parse_args()
    try:
        # All are read before the first is run: a typing error in the last must not cost an hour.
        for scenario in [load_scenario(path, arguments.set) for path in arguments.scenarios]:
            for path in run_scenario(scenario, arguments.results, say):
                sys.stdout.write(f"{path}\n")
    except NstFastError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
