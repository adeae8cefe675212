"""What `nst-fast export` refuses before any work: options that the others leave without effect."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import run_command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--capability", "8.9"], "without --prove"),
        (["--target", "openvino", "--provider", "cpu", "-o", "m.xml"], "--target openvino with"),
        (["--target", "openvino", "--prove", "tensorrt-rtx", "-o", "m.xml"], "--target openvino with"),
        (["--target", "openvino"], "without --output"),
        (["--graph", "step", "--bundle", "folder", "--prove", "tensorrt-rtx"], "--prove with --bundle"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(monkeypatch, capsys, "export", *arguments)
    assert code == 2
    assert words in err
    assert not any(tmp_path.iterdir())
