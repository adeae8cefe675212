"""Programs for style transfer side by side, at one size and for the same seconds. See README.md beside this.

python bench/peers/compare.py --sources FOLDER --images FOLDER --output FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from painting import Comparison, Paces, Pair, measure, paint, say
from programs import PROGRAMS, Program
from scoring import save_sheet, score, to_csv, to_markdown

from nst_fast.benchmark.report import file_stem
from nst_fast.errors import NstFastError
from nst_fast.system.files import write_atomic

RESULTS = Path(__file__).parents[1] / "results"
PARTS = ("measure", "paint", "score")


def main() -> int:
    given = parser().parse_args()
    programs = [program for program in PROGRAMS if program.name in given.programs]
    try:
        what = Comparison.read(given.pairs, given.images, given.sources, given.output, programs)
        remove(what.output, given.again)
        paces = measure(what, given.rounds, given.threads)
        if "paint" in given.parts:
            count = partial(fitting, what, paces)
            paint(what, count, given.jobs, max(1, given.threads // given.jobs))
        if "score" in given.parts:
            write_results(what, paces, given.results, given.cell_size)
    except NstFastError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


def fitting(what: Comparison, paces: Paces, program: Program, pair: Pair) -> int:
    """The steps of a program that fit the seconds."""
    return paces.get(program, pair[0]).count(program, what.seconds)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [program.name for program in PROGRAMS]
    add = made.add_argument
    add("--sources", type=Path, required=True, help="the folder of the programs' repositories")
    add("--images", type=Path, required=True, help="the folder of the pairs' pictures")
    add("--output", type=Path, required=True, help="where pictures go; those that are there stay")
    add("--pairs", type=Path, default=Path(__file__).with_name("pairs.toml"), help="another TOML file")
    add("--programs", nargs="+", choices=names, default=names, help="only these")
    add("--again", nargs="+", choices=names, default=[], help="remove first what is there of these")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these; a missing pace is measured")
    add("--rounds", type=int, default=2, help="turns of the measurement (default: 2)")
    add("--threads", type=int, default=2, help="threads of the measurement (default: 2)")
    add("--jobs", type=int, default=1, help="pictures at a time, sharing the threads (default: 1)")
    add("--results", type=Path, default=RESULTS, help="where scores go (default: bench/results)")
    add("--cell-size", type=int, default=384, help="of the contact sheet, in pixels (default: 384)")
    return made


def remove(output: Path, programs: Sequence[str]) -> None:
    paces = Paces(output / "steps.json")
    for name in programs:
        shutil.rmtree(output / name, ignore_errors=True)
        if paces.known.pop(name, None):
            write_atomic(paces.path, (json.dumps(paces.known, indent=1) + "\n").encode())


def write_results(what: Comparison, paces: Paces, folder: Path, cell_size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = score(what, paces)
    stem = folder / file_stem("peers", data)
    texts = {"json": json.dumps(data, indent=1, ensure_ascii=False) + "\n", "csv": to_csv(data["rows"])}
    for suffix, text in (texts | {"md": to_markdown(data)}).items():
        write_atomic(stem.with_name(f"{stem.name}.{suffix}"), text.encode())
        sys.stdout.write(f"{stem.name}.{suffix}\n")
    save_sheet(what, stem.with_name(f"{stem.name}.jpg"), cell_size)
    sys.stdout.write(f"{stem.name}.jpg\n")


if __name__ == "__main__":
    sys.exit(main())
