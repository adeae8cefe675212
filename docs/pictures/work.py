"""The work folder: runs nst-fast for what is not there yet, and sums up the results."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entries import Run

from nst_fast.errors import PartialError
from nst_fast.images.plots import grouped
from nst_fast.run.record import read_record
from nst_fast.system.files import write_atomic
from nst_fast.system.tables import markdown_table

SUMMARY = ("picture", "size", "steps", "seconds", "content", "style", "tv", "total", "PSNR, dB")


@dataclass(frozen=True)
class Work:
    """A folder with one folder per run, whose ``command.json`` holds the command, and whether it was finished."""

    folder: Path
    images: Path

    def of(self, run: Run) -> Path:
        return self.folder / run.name

    def picture(self, run: Run) -> Path:
        """The picture of a run of ``stylize``."""
        return self.of(run) / f"{run.name}.png"

    def finished(self, run: Run) -> bool:
        return self._mark(run) == {"command": list(run.command), "finished": True}

    def make(self, run: Run) -> None:
        """Run the command, into an empty folder unless the same command was interrupted there.

        Raises:
            PartialError: nst-fast ended with an error, which it has explained itself.
        """
        folder = self.of(run)
        if self._mark(run).get("command") != list(run.command):
            self.remove(run)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_mark(run, finished=False)
        output = self.picture(run) if run.command[0] == "stylize" else folder
        given = [part.replace("{images}", str(self.images)) for part in run.command]
        command = [sys.executable, "-m", "nst_fast", *given, "-o", str(output), "--overwrite"]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            raise PartialError(f"{run.name}: nst-fast ended with {code}")
        self._write_mark(run, finished=True)

    def remove(self, run: Run) -> None:
        shutil.rmtree(self.of(run), ignore_errors=True)

    def _mark(self, run: Run) -> dict[str, Any]:
        try:
            mark: dict[str, Any] = json.loads((self.of(run) / "command.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return mark

    def _write_mark(self, run: Run, *, finished: bool) -> None:
        mark = {"command": list(run.command), "finished": finished}
        write_atomic(self.of(run) / "command.json", (json.dumps(mark) + "\n").encode())

    def results(self, run: Run) -> list[dict[str, str]]:
        """What the runs of a command ended with: one row, or one for each picture of a series."""
        table = self.of(run) / "table.csv"
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as stream:
                return [self._series_row(run, row) for row in csv.DictReader(stream)]
        record = read_record(self.picture(run) if run.command[0] == "stylize" else self.of(run) / "pastiche.png")
        losses = {name: column[0] for name, column in grouped({n: [v] for n, v in record["losses"].items()}).items()}
        facts = {name: str(record[name]) for name in ("steps", "seconds")}
        return [row({"picture": run.name, "size": "x".join(map(str, record["size"])), **facts, **losses})]

    def _series_row(self, run: Run, found: Mapping[str, str]) -> dict[str, str]:
        size = read_record(self.of(run) / "pictures" / found["picture"])["size"]
        name = f"{run.name}: {Path(found['picture']).stem}"
        more = {"picture": name, "size": "x".join(map(str, size)), "PSNR, dB": found.get("psnr_db", "")}
        return row({**found, **more})


def row(facts: Mapping[str, Any]) -> dict[str, str]:
    """A row of the summary; numbers with four digits."""

    def short(value: Any) -> str:
        try:
            return f"{float(value):.4g}"
        except ValueError:
            return str(value)

    return {name: short(facts.get(name, "")) for name in SUMMARY}


def to_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The summary as a table for the docs; columns that no row fills are left out."""
    names = [name for name in SUMMARY if any(row[name] for row in rows)]
    figures = [index for index, name in enumerate(names) if name != "picture"]
    return "\n".join(markdown_table(names, [[row[name] for name in names] for row in rows], figures)) + "\n"
