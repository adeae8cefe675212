"""Help must come at once: no command's help may import torch or onnxruntime."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "matplotlib", "numpy", "onnx")
PROBE = """
import sys
sys.argv = {argv!r}
from nst_fast.cli import main
try:
    main()
except SystemExit:
    pass
{planted}
sys.stderr.write(",".join(name for name in {heavy!r} if name in sys.modules))
"""


def imported_by(*arguments: str, planted: str = "") -> str:
    source = PROBE.format(argv=["nst-fast", *arguments], heavy=HEAVY, planted=planted)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("stylize", "--help"), ("taps",), ("bench", "--help")]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) == ""


def test_the_probe_would_notice() -> None:
    assert imported_by("--version", planted="import numpy") == "numpy"


def test_importing_the_package_is_cheap_and_still_offers_the_api() -> None:
    lines = (
        "import sys, nst_fast",
        "assert 'torch' not in sys.modules",
        "from nst_fast import stylize, StylizeConfig",
        "print(stylize.__name__)",
    )
    result = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "stylize"
