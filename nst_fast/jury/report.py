"""Scores as a table for people and as CSV, and the legend of the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nst_fast.jury.columns import COLUMNS, HEADLINE
from nst_fast.system.files import shown
from nst_fast.system.rounding import rounded
from nst_fast.system.tables import csv_table

if TYPE_CHECKING:
    from nst_fast.jury.evaluation import Evaluation


def score_table(evaluation: Evaluation) -> Table:
    """A row per picture, a column per headline measure; arrows say which way is better."""
    title = shown(f"{evaluation.content['name']} in the style of {evaluation.style['name']}")
    table = Table(title=Text(title), title_justify="left")  # Text: brackets in a name are no markup
    table.add_column("picture")
    table.add_column("size", justify="right")
    for column in HEADLINE:
        table.add_column(column.title, justify="right")
    for each in evaluation.pictures:
        scores = [each.scores[column.name] for column in HEADLINE]
        cells = ["–" if score is None else f"{score:.4f}" for score in scores]
        table.add_row(Text(shown(each.picture)), "{}x{}".format(*each.size), *cells)
    return table


def legend() -> Table:
    """Every column: name, unit, direction, source and definition."""
    headings = ("column", "unit", "better", "source", "what")
    table = Table(*headings, title="What the jury measures", title_justify="left")
    for column in COLUMNS:
        table.add_row(*column.as_dict().values())
    return table


def to_csv(evaluation: Evaluation) -> str:
    """A row per picture and a column per measure; what the scores depend on ends every line."""
    facts = {
        "content": evaluation.content["name"],
        "style": evaluation.style["name"],
        "weights_sha256": evaluation.weights["sha256"],
    }
    rows = []
    for each in evaluation.pictures:
        width, height = each.size
        row = {"picture": shown(each.picture), "width": width, "height": height, **rounded(dict(each.scores))}
        rows.append(row | facts)
    return csv_table(rows, ["picture", "width", "height", *(column.name for column in COLUMNS), *facts])
