"""Programs for style transfer side by side, at one size and for the same seconds. See README.md beside this.

python bench/peers/compare.py --sources FOLDER --images FOLDER --output FOLDER
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from painting import Comparison, Paces, Pair, measure, paint, parser
from programs import PROGRAMS, Program
from scoring import save_sheet, score, to_markdown

from nst_fast.benchmark.scripts import keep, script, write_json
from nst_fast.system.tables import csv_table

PARTS = ("measure", "paint", "score")


@script
def main() -> None:
    flags, names = parser(__doc__, "pairs.toml", PROGRAMS, PARTS), [program.name for program in PROGRAMS]
    flags.add_argument("--again", nargs="+", choices=names, default=[], help="remove first what is there of these")
    flags.add_argument("--rounds", type=int, default=2, help="turns of the measurement (default: 2)")
    flags.add_argument("--cell-size", type=int, default=384, help="of the contact sheet, in pixels (default: 384)")
    given = flags.parse_args()
    programs = [program for program in PROGRAMS if program.name in given.programs]
    what = Comparison.read(given.pairs, given.images, given.sources, given.output, programs)
    remove(what.output, given.again)
    paces = measure(what, given.rounds, given.threads)
    if "paint" in given.parts:
        count = partial(fitting, what, paces)
        paint(what, count, given.jobs, max(1, given.threads // given.jobs))
    if "score" in given.parts:
        write_results(what, paces, given.results, given.cell_size)


def fitting(what: Comparison, paces: Paces, program: Program, pair: Pair) -> int:
    """The steps of a program that fit the seconds."""
    return paces.get(program, pair[0]).count(program, what.seconds)


def remove(output: Path, programs: Sequence[str]) -> None:
    paces = Paces(output / "steps.json")
    for name in programs:
        shutil.rmtree(output / name, ignore_errors=True)
        if paces.known.pop(name, None):
            write_json(paces.path, paces.known)


def write_results(what: Comparison, paces: Paces, folder: Path, cell_size: int) -> None:
    data = score(what, paces)
    paths = keep(folder, "peers", data, csv=csv_table(data["rows"]), md=to_markdown(data))
    paths.append(paths[0].with_suffix(".jpg"))
    save_sheet(what, paths[-1], cell_size)
    sys.stdout.writelines(f"{path.name}\n" for path in paths)


if __name__ == "__main__":
    sys.exit(main())
