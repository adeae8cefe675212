"""Commands and scripts run in the process of the tests, where starting them costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from nst_fast import cli

Run = Callable[..., tuple[int, str, str]]  # arguments -> exit code, stdout, stderr


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    """``nst-fast ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["nst-fast", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    written = capsys.readouterr()
    return int(ended.value.code or 0), written.out, written.err


def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: Callable[[], int], *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    code = main()
    written = capsys.readouterr()
    return code, written.out, written.err


@contextmanager
def imported(folder: Path, names: Sequence[str]) -> Iterator[dict[str, ModuleType]]:
    """The modules of a folder of scripts; afterwards their names are free for another folder's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)
