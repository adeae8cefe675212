"""Programs in processes of their own, and waiting for what others do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE = 300.0  # seconds, on a loaded machine
Found = TypeVar("Found")


def python(*arguments: str | Path, cwd: Path | None = None, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """What Python says when it is started so. ``changes``: of the environment; None takes one away."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **changes}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={name: value for name, value in environment.items() if value is not None},
        timeout=PATIENCE,
    )


def wait_until(condition: Callable[[], Found], seconds: float = PATIENCE, pause: float = 0.05) -> Found:
    """The first result that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(pause)
    return found
