"""Arrows between rooms point one way: each room's docstring says which rooms it may import (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "nst_fast"
MOST_ROOMS = 18
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix != ".typed" and path.stem[:2] != "__")


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, as its docstring says."""
    path = PACKAGE / room / "__init__.py"
    source = (path if path.exists() else PACKAGE / f"{room}.py").read_text()
    found = re.search(r"^May import: (.+?)\.$", ast.get_docstring(ast.parse(source)) or "", re.MULTILINE | re.DOTALL)
    assert found, f"{room}: the docstring has no line 'May import: ...'"
    return set() if found[1] == "nothing" else {name.strip() for name in found[1].split(",")}


def imported(source: str) -> Iterator[str]:
    """The rooms that a source imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nst_fast":
            inner = node.module.split(".")[1:]
            yield from inner[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nst_fast."))


def wrong(room: str, source: str) -> set[str]:
    return {name for name in imported(source) if name in ROOMS} - allowed(room) - {room}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_rooms_fit_into_the_head_and_have_no_circle() -> None:
    assert len(ROOMS) <= MOST_ROOMS
    assert all(allowed(room) <= set(ROOMS) for room in ROOMS)
    try:
        TopologicalSorter({room: allowed(room) for room in ROOMS}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem[:2] != "__" or path.parent != PACKAGE], ids=name_of
)
def test_a_module_imports_only_rooms_that_its_own_may_import(path: Path) -> None:
    assert not wrong(name_of(path).split("/")[0].removesuffix(".py"), path.read_text())


def test_every_arrow_that_is_allowed_is_used() -> None:
    for room in ROOMS:
        own = [path for path in FILES if name_of(path).split("/")[0].removesuffix(".py") == room]
        assert allowed(room) <= {name for path in own for name in imported(path.read_text())}, room


def test_a_planted_wrong_import_is_caught() -> None:
    assert wrong("objective", "from nst_fast.run.loop import optimize") == {"run"}
    assert wrong("objective", "def f():\n    from nst_fast import api") == {"api"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_bridges_import_torch_and_onnxruntime(path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.split(".")[0])
    assert not {"torch", "onnxruntime"} <= tops, "sessions belong to nst_fast.onnx.session, tensors to the rest"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
