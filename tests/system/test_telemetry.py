"""A run asks no name server and leaves nothing of others in the home folder: ONNX Runtime would do both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batches import draw
from processes import python

import nst_fast
from nst_fast.onnx import TELEMETRY_VARIABLE

RUN_PY = Path(nst_fast.__file__).parent / "onnx" / "bundle_files" / "run.py"
RUN = ("stylize", "content.png", "style.png", "-o", "out.png", "--weights", "random:0", "--image-size", "32")
ORT = ("--engine", "ort", "--optimizer", "adam", "--steps", "2", "--monitor-every", "1", "--style-taps", "relu1_1")
NETWORK = re.compile(r"(?:connect|sendto|sendmsg|sendmmsg)\(.*AF_INET.*")


def traced(tmp_path: Path, *command: str, **changes: str) -> tuple[list[str], list[str]]:
    """A command with an empty home: what it asked over a network, where strace can tell, and what it left at home."""
    home, log = tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NST_FAST_", "MPL", "ORT_"))
    }
    strace = shutil.which("strace")
    if strace and subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0:
        command = (strace, "-f", "-e", "trace=network", "-o", str(log), *command)
    environment = kept | {"HOME": str(home), **changes}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    calls = NETWORK.findall(log.read_text()) if log.exists() else []
    return calls, [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="the home folder is laid out otherwise")
def test_a_whole_run_asks_no_name_server_and_leaves_nothing_foreign_at_home(tmp_path: Path) -> None:
    draw(tmp_path / "content.png", 1), draw(tmp_path / "style.png", 2)
    calls, files = traced(tmp_path, sys.executable, "-m", "nst_fast", *RUN, *ORT)
    assert calls == []
    assert [file for file in files if not file.startswith(".cache/nst-fast/")] == []
    assert any(file.endswith(".onnx") for file in files)  # the home was used


@pytest.mark.skipif(sys.platform != "linux", reason="the home folder is laid out otherwise")
@pytest.mark.parametrize("allowed", [False, True])
def test_the_bundles_program_reports_nothing_unless_it_is_allowed_to(allowed: bool, tmp_path: Path) -> None:
    script = f"import runpy, time; runpy.run_path({str(RUN_PY)!r}); time.sleep(1)"
    changes = {TELEMETRY_VARIABLE: "0"} if allowed else {}
    calls, files = traced(tmp_path, sys.executable, "-c", script, **changes)
    if not allowed:
        assert (calls, files) == ([], [])
    elif not files:
        pytest.skip("this ONNX Runtime reports nothing")


def test_what_the_user_has_set_stays() -> None:
    script = f"import os; from nst_fast.onnx import session; print(os.environ[{TELEMETRY_VARIABLE!r}])"
    for given, kept in ((None, "1"), ("0", "0"), ("1", "1")):
        said = python("-c", script, **{TELEMETRY_VARIABLE: given}, ORT_HOME=os.devnull)
        assert said.stdout.strip() == kept, said.stderr
