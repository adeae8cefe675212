"""The pictures of 29 runs are the same, bit by bit, as when tests/support/pixels.json was written.

After a change that is meant to change pictures: ``python tests/support/pixel_runs.py > tests/support/pixels.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from places import SUPPORT

KEPT = json.loads((SUPPORT / "pixels.json").read_text())


def test_pictures_are_the_same_bit_by_bit() -> None:
    done = subprocess.run([sys.executable, str(SUPPORT / "pixel_runs.py")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pixels"].keys() == KEPT["pixels"].keys()
    if found["environment"] != KEPT["environment"]:
        pytest.skip(f"the hashes are of {KEPT['environment']}; compare two checkouts with pixel_runs.py")
    assert {name for name, kept in KEPT["pixels"].items() if found["pixels"][name] != kept} == set()
