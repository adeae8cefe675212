"""Tables as text: CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Mapping, Sequence
from typing import Any


def csv_table(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """A column for every name in any row, those of ``first`` in front; empty where a row has none."""
    buffer = io.StringIO()
    columns = dict.fromkeys([*first, *(name for row in rows for name in row)])
    writer = csv.DictWriter(buffer, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], figures: Container[int] = ()) -> list[str]:
    """Its lines; columns of these numbers hold figures, to the right."""
    rule = ["---:" if index in figures else "---" for index in range(len(headings))]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
