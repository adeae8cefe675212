"""Arrows between rooms point one way: a module imports only modules of lower rooms (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nst_fast"

ROOMS = [
    ["errors", "step.bundle_files"],
    ["options", "taps", "jury.columns"],
    ["control", "tiles"],
    ["config", "presets", "images.palette"],
    ["scales", "series.config", "jury.config", "losses", "vgg", "files", "clock", "machine", "ort.providers"],
    ["images.resizing", "images.sources", "images.colour", "ort", "plots", "sample_art"],
    ["images", "weights", "step.onnx_ops", "step.spec", "step.coefficients"],
    ["step.backward_rules", "ort.binding"],
    ["step.graph"],
    ["record", "sheet", "runs.checkpoint"],
    ["outputs", "objective", "series.jobs"],
    ["onnx_export", "targets", "runs.keeper"],
    ["step.export"],
    ["ranks"],
    ["evaluators", "parity", "monitor"],
    ["optimizers", "step.parity", "memory.footprint", "memory.allocator", "memory.grids"],
    ["runs.averaging", "runs.guard", "memory.planner", "publish"],
    ["step.bundle"],
    ["runs.loop", "problem"],
    ["memory.planned", "runs.reporting", "runs.resumption", "runs.pastiche", "runs.stage"],
    ["memory.strips", "jury"],
    ["runs.run"],
    ["runs"],
    ["transfer", "series.folder"],
    ["series"],
    ["demonstration", "benchmark", "batch"],
    ["cli"],
    ["__main__"],
]


def place(module: str) -> str:
    """The entry of ROOMS that a module stands in: its own dotted name, or that of the folder it is in."""
    name = module.partition(".")[2]
    entries = {entry for room in ROOMS for entry in room}
    while name and name not in entries:
        name = name.rpartition(".")[0]
    return name


def room(module: str) -> int:
    """The level of a module's room; that of ``nst_fast`` itself, its version, is below all."""
    if module == "nst_fast":
        return -1
    found = place(module)
    assert found, f"{module} stands in no room: put it into ROOMS"
    return next(level for level, entries in enumerate(ROOMS) if found in entries)


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["nst_fast", *path.relative_to(PACKAGE).with_suffix("").parts]
        found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports(source: str) -> set[str]:
    """Modules of the package that a source imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nst_fast":
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(
                    deeper if (PACKAGE.parent / Path(*deeper.split("."))).with_suffix(".py").exists() else node.module
                )
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "nst_fast"}
    return found


def upward(module: str, source: str) -> list[str]:
    """Imports that do not point down; within a folder that is one room anything goes."""
    own = place(module)
    return [name for name in sorted(imports(source)) if place(name) != own and room(name) >= room(module)]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_a_module_imports_only_from_lower_rooms(module: str, path: Path) -> None:
    if module == "nst_fast":
        return
    assert upward(module, path.read_text()) == []


def test_a_planted_upward_import_is_caught() -> None:
    assert upward("nst_fast.losses", "from nst_fast.runs.loop import optimize") == ["nst_fast.runs.loop"]
    assert upward("nst_fast.losses", "def f():\n    from nst_fast import transfer") == ["nst_fast.transfer"]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_only_the_bridges_import_torch_and_onnxruntime(module: str, path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.split(".")[0])
    assert not {"torch", "onnxruntime"} <= tops, "sessions belong to nst_fast.ort.session, tensors to the rest"


def test_session_never_knows_torch() -> None:
    assert "torch" not in (PACKAGE / "ort" / "session.py").read_text().replace("PyTorch", "").split()


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_functions_stay_short(module: str, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
