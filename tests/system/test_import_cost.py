"""Help must come at once, and a run imports nothing that it does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pictures import sample

from nst_fast.cli.commands import COMMANDS, made

HEAVY = ("torch", "onnxruntime", "matplotlib", "numpy", "onnx", "pydantic", "filelock", "nst_fast.options.commands")
# Which a run of stylize does not use, though PyTorch, matplotlib and ONNX Runtime may.
UNUSED = ("torch._inductor", "torch._dynamo", "sympy", "triton", "scipy", "skimage", "torchvision", "onnxscript")
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


def imported_by(*arguments: str, planted: str = "", modules: Sequence[str] = HEAVY) -> str:
    source = PROBE.format(argv=["nst-fast", *arguments], heavy=modules, planted=planted)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("taps", "--help"), ("info", "--help"), ("weights", "list", "--help")]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_no_library_that_computes(name: str) -> None:
    found = imported_by(name, "--help").split(",")
    assert set(found) <= {"", "nst_fast.options.commands"}


def test_the_list_has_the_first_paragraph_of_every_commands_help() -> None:
    assert {name: " ".join((made(name).help or "").split("\n\n")[0].split()) for name in COMMANDS} == COMMANDS


def test_a_run_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    picture = str(tmp_path / "picture.png")
    sample().save(picture)
    options = ("--weights", "random", "--content-taps", "relu1_1", "--style-taps", "relu1_1", "--image-size", "24")
    command = ("stylize", picture, picture, "-o", str(tmp_path / "out.png"), "--steps", "1", "--quiet", *options)
    assert imported_by(*command, "--monitor-every", "0", modules=(*UNUSED, "onnx", "onnxruntime")) == ""


def test_an_encoder_is_built_and_the_state_set_without_the_compiler() -> None:
    lines = (
        "import sys",
        "from nst_fast.network.weights import make_encoder",
        "from nst_fast.system.isolation import own_state",
        "own_state()(make_encoder)('random', 'vgg19', ['relu1_1'])",
        f"print(*(name for name in {UNUSED!r} if name in sys.modules))",
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


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


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are opened ahead on Linux alone")
def test_libraries_are_opened_beside_the_imports_without_importing_pytorch() -> None:
    lines = (
        "import sys, threading",
        "from pathlib import Path",
        "from nst_fast.cli.startup import open_libraries",
        "open_libraries()",
        "[thread.join() for thread in threading.enumerate() if thread is not threading.main_thread()]",
        "assert 'torch' not in sys.modules",
        "assert 'libtorch.so' in Path('/proc/self/maps').read_text()",
        "import torch",
        "print(int(torch.ones(3).sum()))",
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "3"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000 1"),
        ({"GOMP_SPINCOUNT": "7", "THP_MEM_ALLOC_ENABLE": "0"}, "7 0"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None 1"),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_how(given: dict[str, str], expected: str) -> None:
    lines = (
        "import os",
        "from nst_fast.cli.startup import tune_torch",
        "tune_torch()",
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ['THP_MEM_ALLOC_ENABLE'])",
        "import torch",
        "os.environ.pop('GOMP_SPINCOUNT', None)",
        "tune_torch()",
        "print(os.environ.get('GOMP_SPINCOUNT'))",
    )
    read = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE"}
    environment = {name: value for name, value in os.environ.items() if name not in read}
    command = [sys.executable, "-c", "\n".join(lines)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | given)
    assert result.stdout.splitlines() == [expected, "None"]
