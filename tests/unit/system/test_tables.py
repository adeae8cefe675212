"""Tables as text."""

from __future__ import annotations

from nst_fast.system.tables import csv_table, markdown_table


def test_csv_has_every_name_once_those_that_are_asked_for_in_front() -> None:
    rows = [{"b": 1, "a": "x,y"}, {"c": None, "a": 2}]
    assert csv_table(rows, ["a", "z"]) == 'a,z,b,c\n"x,y",,1,\n2,,,\n'


def test_figures_are_to_the_right() -> None:
    lines = markdown_table(["case", "ms"], [["eager", "4"]], figures=[1])
    assert lines == ["| case | ms |", "| --- | ---: |", "| eager | 4 |"]
