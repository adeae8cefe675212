"""docs/reliability.md: eighty rows, each with a test that exists or a reason why it has none."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from places import ROOT

from nst_fast import errors
from nst_fast.errors import NstFastError

TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
CODES = set(range(13)) | {129, 130, 143}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its own."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


TABLE = rows("The table")


@cache
def functions(name: str) -> set[str]:
    """The tests in a file of this name, wherever below ``tests`` it is."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "tests").rglob(name)]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def missing(cell: str) -> list[str]:
    """The tests that a cell names and that do not exist."""
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
    return [f"{file}::{test}" for file, test in named if test not in functions(file)]


def test_the_table_has_at_least_eighty_rows_of_five_cells() -> None:
    assert [row[0] for row in TABLE] == [str(number) for number in range(1, len(TABLE) + 1)]
    assert len(TABLE) >= 80
    assert {len(row) for row in TABLE} == {5}
    assert all(all(row) for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_row_names_tests_that_exist_or_says_why_there_is_none(row: list[str]) -> None:
    proof = row[4]
    assert missing(proof) == []
    assert "::" in proof or re.match(r"no test: .{10,}", proof)


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_row_has_an_exit_code_that_is_explained(row: list[str]) -> None:
    assert row[3] == "-" or {int(code) for code in row[3].split("/")} <= CODES


def test_a_planted_name_is_missed() -> None:
    assert missing("`test_files.py::test_nothing`, `test_none.py::test_a`") == [
        "test_files.py::test_nothing",
        "test_none.py::test_a",
    ]


def test_the_exit_codes_are_those_of_the_errors() -> None:
    classes = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, NstFastError)]
    explained = {int(code) for row in rows("Exit codes") for code in row[0].split(", ")}
    assert explained == CODES
    assert {found.exit_code for found in classes} <= explained
