"""Make the pictures of the docs: ``python docs/pictures/make.py --images FOLDER``. See README.md beside this."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from entries import chosen, read_entries
from layouts import lay_out, write
from work import Work, to_markdown

from nst_fast.benchmark.scripts import say, script
from nst_fast.errors import PartialError

HERE = Path(__file__).parent


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="the folder of contents and styles")
    add("--only", nargs="+", default=[], metavar="NAME", help="these entries")
    add("--again", action="store_true", help="make them again, whatever the work folder has")
    add("--long", action="store_true", help="with the stated steps where fewer are usual")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options for every command")
    add("--work", type=Path, default=Path("build", "pictures"), help="full-size results")
    add("--output", type=Path, default=HERE.parent / "images", help="by default docs/images")
    add("--entries", type=Path, default=HERE / "pictures.toml", help="another list")
    given = parser.parse_args()
    work, failed, rows = Work(given.work.resolve(), given.images.resolve()), [], []
    for entry in chosen(read_entries(given.entries), given.only):
        runs, started = entry.runs(long=given.long, changes=given.set), time.monotonic()
        try:
            for run in runs:
                if given.again:
                    work.remove(run)
                if not work.finished(run):
                    say(f"{run.name}: nst-fast {' '.join(run.command)}")
                    work.make(run)
            write(lay_out(entry, runs, work), given.output)
        except PartialError as error:
            failed.append(str(error))
        else:
            rows += [row for run in runs for row in work.results(run)]
            say(f"{entry.name}: {time.monotonic() - started:.0f} s")
    sys.stdout.write(to_markdown(rows) if rows else "")
    if failed:
        raise PartialError("; ".join(failed), "Run again for those; what is finished is kept")


if __name__ == "__main__":
    sys.exit(main())
