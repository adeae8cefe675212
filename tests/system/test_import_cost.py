"""Help must come at once, and a run imports nothing that it does not use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pictures import sample
from processes import python
from tiny import TINY, flags

from nst_fast.cli.commands import COMMANDS, made

HEAVY = ("torch", "onnxruntime", "matplotlib", "numpy", "onnx", "pydantic", "filelock", "nst_fast.options.commands")
# Which a run of stylize does not use, though PyTorch, matplotlib and ONNX Runtime may.
UNUSED = ("torch._inductor", "torch._dynamo", "sympy", "triton", "scipy", "skimage", "torchvision", "onnxscript")
PROBE = """
import sys
from nst_fast.cli import main
for line in {lines!r}:
    sys.argv = ["nst-fast", *line]
    try:
        main()
    except SystemExit:
        pass
{planted}
sys.stderr.write(",".join(name for name in {heavy!r} if name in sys.modules))
"""


def imported_by(*lines: tuple[str, ...], planted: str = "", modules: Sequence[str] = HEAVY) -> str:
    """Those of the modules that one process has after these command lines."""
    return python("-c", PROBE.format(lines=lines, heavy=modules, planted=planted)).stderr


def said_by(*lines: str, **changes: str | None) -> str:
    done = python("-c", "\n".join(lines), **changes)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_help_imports_nothing_heavy() -> None:
    others = (("taps", "--help"), ("info", "--help"), ("weights", "list", "--help"))
    assert imported_by(("--help",), ("--version",), *others) == ""


def test_help_of_a_command_imports_no_library_that_computes() -> None:
    found = imported_by(*((name, "--help") for name in COMMANDS)).split(",")
    assert set(found) <= {"", "nst_fast.options.commands"}


def test_the_list_has_the_first_paragraph_of_every_commands_help() -> None:
    assert {name: " ".join((made(name).help or "").split("\n\n")[0].split()) for name in COMMANDS} == COMMANDS


def test_a_run_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    picture = str(tmp_path / "picture.png")
    sample().save(picture)
    options = flags(TINY, engine="auto", convolution="direct")
    command = ("stylize", picture, picture, "-o", str(tmp_path / "out.png"), "--quiet", *options)
    assert imported_by(command, modules=(*UNUSED, "onnx", "onnxruntime")) == ""


def test_an_encoder_is_built_and_the_state_set_without_the_compiler() -> None:
    said = said_by(
        "import sys",
        "from nst_fast.network.weights import make_encoder",
        "from nst_fast.system.isolation import own_state",
        "own_state()(make_encoder)('random', 'vgg19', ['relu1_1'])",
        f"print(*(name for name in {UNUSED!r} if name in sys.modules))",
    )
    assert said == ""


def test_the_probe_would_notice() -> None:
    assert imported_by(("--version",), planted="import numpy") == "numpy"


def test_importing_the_package_is_cheap_and_still_offers_the_api() -> None:
    said = said_by(
        "import sys, nst_fast",
        "assert 'torch' not in sys.modules",
        "assert set(nst_fast.__all__) <= set(dir(nst_fast))",
        "from nst_fast import stylize, StylizeConfig",
        "print(stylize.__name__)",
    )
    assert said == "stylize"


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are opened ahead on Linux alone")
def test_libraries_are_opened_beside_the_imports_without_importing_pytorch() -> None:
    said = said_by(
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
    assert said == "3"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_wait_briefly_unless_the_user_says_how(given: dict[str, str], expected: str | None) -> None:
    said = said_by(
        "import os",
        "from nst_fast.cli.startup import wait_briefly",
        "wait_briefly()",
        "print(os.environ.get('GOMP_SPINCOUNT'))",
        "import torch",
        "os.environ.pop('GOMP_SPINCOUNT', None)",
        "wait_briefly()",
        "print(os.environ.get('GOMP_SPINCOUNT'))",
        **dict.fromkeys(("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")) | given,
    )
    assert said.split() == [str(expected), "None"]
