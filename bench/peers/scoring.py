"""The jury's scores of all pictures, which program is ahead on which pair, and the table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from painting import Comparison, Paces, run_of, title
from programs import OURS

from nst_fast import evaluate
from nst_fast.benchmark.scripts import conditions
from nst_fast.images import from_uint8, load_image, save_image, to_uint8
from nst_fast.images.sheet import Cell, Heading, contact_sheet
from nst_fast.jury.columns import COMPARED, CONTENT, STYLE
from nst_fast.system.tables import markdown_table

MARGIN = 1.03  # one measure may be worse by so much where the other is better
Row = dict[str, Any]


def score(what: Comparison, paces: Paces) -> dict[str, Any]:
    """Plain data: a row per pair and program with scores, steps and seconds; names of files, and no folders."""
    rows: list[Row] = []
    for pair in what.pairs:
        pictures = [what.picture(program, pair) for program in what.programs]
        judged = evaluate(what.content(pair), what.style(pair), pictures)
        for program, picture, scores in zip(what.programs, pictures, judged.pictures, strict=True):
            run = run_of(picture)
            pace = paces.get(program, pair[0])
            seconds = pace.seconds_of(program, run["steps"] / sum(pace.shares(program)))
            used = {"seconds": round(seconds, 1), "steps": run["steps"]}
            rows.append({"pair": title(pair), "program": program.name, **used, **scores.as_dict()["scores"]})
    add_verdicts(rows)
    return {
        **conditions("nst-fast/peers/1"),
        "description": what.description,
        "paces": paces.known,
        "rows": rows,
        "counts": counts(rows),
    }


def verdict(ours: Mapping[str, float], theirs: Mapping[str, float], style: str = STYLE) -> str:
    """``both``: better on style and on content. ``style``, ``content``: on that, and at most 3 % worse on the other."""
    names = {"style": style, "content": CONTENT}
    better = [short for short, name in names.items() if ours[name] < theirs[name]]
    if len(better) == 2:
        return "both"
    held = all(ours[name] <= MARGIN * theirs[name] for name in names.values())
    return better[0] if better and held else "no"


def add_verdicts(rows: Sequence[Row]) -> None:
    """To each peer's row, whether nst-fast is better: by sliced Wasserstein distance, and by Gram distance."""
    ours = {row["pair"]: row for row in rows if row["program"] == OURS}
    for row in rows:
        if row["program"] != OURS and row["pair"] in ours:
            row["ours_better"] = verdict(ours[row["pair"]], row)
            row["ours_better_by_gram"] = verdict(ours[row["pair"]], row, "style_gram")


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Per peer: pairs in all, and those on which nst-fast is better by either measure of style."""
    found: dict[str, dict[str, int]] = {}
    for row in (row for row in rows if "ours_better" in row):
        own = found.setdefault(row["program"], {"pairs": 0, "ours_better": 0, "ours_better_by_gram": 0})
        own["pairs"] += 1
        for name in ("ours_better", "ours_better_by_gram"):
            own[name] += row[name] != "no"
    return found


def to_markdown(data: Mapping[str, Any]) -> str:
    """The table of all rows, then the counts."""
    headings = ["pair", "program", *COMPARED.values(), "steps", "seconds", "nst-fast is better on"]
    rows, last = [], ""
    for row in data["rows"]:
        figures = [f"{row[name]:.4f}" for name in COMPARED]
        named = ["" if row["pair"] == last else row["pair"], row["program"]]
        rows.append([*named, *figures, f"{row['steps']}", f"{row['seconds']:.0f}", row.get("ours_better", "")])
        last = row["pair"]
    against = [
        [program, f"{own['ours_better']} of {own['pairs']}", f"{own['ours_better_by_gram']}"]
        for program, own in data["counts"].items()
    ]
    counted = markdown_table(["against", "nst-fast is better, style by SWD", "style by Gram"], against)
    return "\n".join([*markdown_table(headings, rows, range(2, len(headings) - 1)), "", *counted]) + "\n"


def save_sheet(what: Comparison, path: Path, cell_size: int) -> None:
    """All pictures, a row per pair and a column per program; the pictures they were made from are not on it."""
    rows = [
        [Cell("", to_uint8(load_image(what.picture(program, pair)).tensor)) for program in what.programs]
        for pair in what.pairs
    ]
    columns = [[Heading("program", program.name)] for program in what.programs]
    beside = [[Heading("content", Path(pair[0]).stem), Heading("style", Path(pair[1]).stem)] for pair in what.pairs]
    sheet = contact_sheet(rows, cell_size=cell_size, title=what.description, columns=columns, row_headings=beside)
    save_image(from_uint8(sheet), path)
