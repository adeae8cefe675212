"""Arrows between rooms point one way: a module imports only modules of lower rooms (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nst_fast"

ROOMS = [
    ["errors", "bundle_files"],
    ["options", "taps", "allocator"],
    ["control", "tiles", "footprint"],
    ["config", "presets"],
    ["scales", "grids", "series_config", "losses", "vgg", "files", "clock", "machine", "providers"],
    ["libraries", "sources", "colour", "palette", "resizing", "plots", "sample_art", "weight_files"],
    ["runtime", "decoding", "download", "postprocess"],
    ["session", "images", "weights", "onnx_ops", "step_spec", "coefficients"],
    ["backward_rules", "binding"],
    ["step_graph"],
    ["record", "sheet"],
    ["outputs", "objective", "series"],
    ["onnx_export", "targets"],
    ["step_export"],
    ["evaluators", "parity", "monitor"],
    ["optimizers", "step_parity", "planner", "guard"],
    ["publish"],
    ["bundle"],
    ["loop", "problem"],
    ["planned"],
    ["transfer", "series_folder"],
    ["series_run"],
    ["reconstruct", "texture", "sweep", "comparison"],
    ["demonstration", "benchmark", "benchmark_report"],
    ["cli"],
    ["__main__"],
]


def room(module: str) -> int:
    """The level of a module's room; ``nst_fast.cli.demo`` and ``nst_fast.cli`` are in the room ``cli``."""
    parts = module.split(".")
    if len(parts) == 1:
        return -1  # nst_fast itself: its version
    for level, names in enumerate(ROOMS):
        if parts[1] in names:
            return level
    raise AssertionError(f"{module} stands in no room: put it into ROOMS")


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
    """Imports that do not point down; within a folder (one room) anything goes."""
    own = module.split(".")[:2]
    return [name for name in sorted(imports(source)) if name.split(".")[:2] != own and room(name) >= room(module)]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_a_module_imports_only_from_lower_rooms(module: str, path: Path) -> None:
    if module == "nst_fast":
        return
    assert upward(module, path.read_text()) == []


def test_a_planted_upward_import_is_caught() -> None:
    assert upward("nst_fast.losses", "from nst_fast.loop import optimize") == ["nst_fast.loop"]
    assert upward("nst_fast.losses", "def f():\n    from nst_fast import transfer") == ["nst_fast.transfer"]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_only_the_bridges_import_torch_and_onnxruntime(module: str, path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.split(".")[0])
    assert not {"torch", "onnxruntime"} <= tops, "sessions belong to nst_fast.session, tensors to the rest"


def test_session_never_knows_torch() -> None:
    assert "torch" not in (PACKAGE / "session.py").read_text().replace("PyTorch", "").split()


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_files_and_functions_stay_short(module: str, path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 320
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
