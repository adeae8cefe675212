"""Build the documentation site: ``python docs/site/make_site.py``. See README.md beside this."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reference import PAGES

from nst_fast.benchmark.scripts import script
from nst_fast.errors import InputError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COLORS = re.compile(r"\x1b\[[\d;]*m")


def linked(page: Path) -> Iterator[Path]:
    """The files that a page links to."""
    for target in LINK.findall(page.read_text("utf-8")):
        if not re.match(r"#|[a-z]+:", target):
            yield (page.parent / target.partition("#")[0]).resolve()


def pages_of(nav: Iterable[Any]) -> Iterator[str]:
    """The pages of a navigation as Zensical writes it: a list of tables from titles to pages or to lists."""
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages_of(value)


def stage(pages: Iterable[str], folder: Path) -> None:
    """Copy pages, and whatever they link to, to where they are in the repository: their links hold on the site too.

    Raises:
        InputError: a link leads to nothing, to a folder, to what is hidden, as .github, or out of the repository.
    """
    waiting = [(ROOT / page, "the navigation") for page in pages]
    while waiting:
        path, source = waiting.pop()
        if not path.is_file() or ROOT not in path.parents:
            raise InputError(f"{source}: a link leads to {path}, which is no file of the repository")
        name = path.relative_to(ROOT)
        if any(part.startswith(".") for part in name.parts):
            raise InputError(
                f"{source}: a link leads to {name}, and sites have no hidden files", "Name it without a link"
            )
        copy = folder / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if path.suffix == ".md":
                waiting += [(target, name.as_posix()) for target in linked(path)]


def fill(work: Path) -> None:
    """Write the settings and all pages, the generated ones too, into a new folder.

    Raises:
        InputError: as :func:`stage`.
    """
    pages = work / "pages"
    shutil.rmtree(work, ignore_errors=True)
    pages.mkdir(parents=True)
    shutil.copy(HERE / "zensical.toml", work)
    shutil.copy(HERE / "extra.css", pages)
    for page, written in PAGES.items():
        (pages / page).parent.mkdir(parents=True, exist_ok=True)
        (pages / page).write_text(written(), "utf-8")
    stage((page for page in navigation() if page not in PAGES), pages)


def navigation() -> list[str]:
    """The pages in their order."""
    return list(pages_of(tomllib.loads((HERE / "zensical.toml").read_text("utf-8"))["project"]["nav"]))


def build(work: Path) -> Path:
    """Build the site from a filled folder; the folder of the site.

    Raises:
        InputError: Zensical warns of anything, as of an anchor that there is not.
    """
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "zensical.toml"]
    done = subprocess.run(command, check=False, cwd=work, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        said = COLORS.sub("", done.stdout + done.stderr).partition("Traceback")[0]
        raise InputError(f"zensical ended with {done.returncode}:\n{said.rstrip()}")
    return work / "site"


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "docs", help="the site is in its folder `site`")
    work = parser.parse_args().work.resolve()
    fill(work)
    sys.stdout.write(f"{build(work)}\n")


if __name__ == "__main__":
    sys.exit(main())
