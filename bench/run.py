"""Run scenarios and keep their results: ``python bench/run.py bench/steps-cpu.toml``. See README.md beside this."""

# ruff: noqa: E402  # what PyTorch's threads read when it is loaded is set before, as by the command line

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nst_fast.cli.startup import wait_briefly

wait_briefly()

from nst_fast.benchmark.report import file_stem, write_results
from nst_fast.benchmark.scenarios import BenchConfig, load_scenario
from nst_fast.benchmark.scripts import say, script
from nst_fast.benchmark.suite import run_benchmark
from nst_fast.run.observer import Listeners
from nst_fast.system.files import check_writable

RESULTS = Path(__file__).parent / "results"
SET_HELP = "an option in place of the scenarios' own, as weights=FILE; the result says so"


def run(name: str, config: BenchConfig, folder: Path) -> list[Path]:
    """Run a scenario and write its result: .json, .csv and, if there is something to draw, .png.

    Files are named after scenario, machine, versions and day; a result of the same name is replaced.
    """
    check_writable(folder / f"{name}.json", overwrite=True)
    data = run_benchmark(config, Listeners(note=say)).as_dict()
    stem = folder / file_stem(name, data)
    return write_results(data, *(stem.with_name(f"{stem.name}.{suffix}") for suffix in ("json", "csv", "png")))


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("scenarios", nargs="+", type=Path, help="scenario files (.toml)")
    add("--results", type=Path, default=RESULTS, help="the folder to write to; by default bench/results")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help=SET_HELP)
    arguments = parser.parse_args()
    # All are read before the first is run: a typing error in the last must not cost an hour.
    scenarios = [(path.stem, *load_scenario(path, arguments.set)) for path in arguments.scenarios]
    for name, description, config in scenarios:
        say(f"{name}: {description}")
        for path in run(name, config, arguments.results):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
