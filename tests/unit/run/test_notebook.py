"""The progress bar of notebooks, with a stand-in for what shows it; the notebook itself runs in test_examples.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nst_fast import ProgressBar, stylize
from nst_fast.errors import UsageError

OPTIONS: dict[str, Any] = {"weights": "random:0", "content_taps": "relu1_2", "style_taps": "relu1_1", "image_size": 24}
OPTIONS |= {"steps": 4, "monitor_every": 0, "engine": "eager", "precision": "fp32", "device": "cpu"}


class Cell(ModuleType):
    """Stands in for IPython.display: keeps what is shown, and what it is replaced by."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[dict[str, str]] = []

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Cell:
        self.update(bundle, raw=raw)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(bundle)


def test_the_bar_is_replaced_at_every_event_and_ends_with_how_the_run_ended(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell()
    monkeypatch.setitem(sys.modules, "IPython.display", cell)
    bar = ProgressBar()
    bar.note("a < b")
    made = stylize(*pair, OPTIONS, listeners=bar)
    pages = [bundle["text/html"] for bundle in cell.shown]
    assert any('<progress value="4" max="4"' in page and "step 4 of 4, loss " in page for page in pages)
    assert cell.shown[-1]["text/plain"].startswith(f"complete: 4 steps in {made.record.seconds:.1f} s on cpu")
    assert "<progress" not in pages[-1]
    assert "a &lt; b" not in pages[-1]  # a note of another run
    bar.note("a < b")
    bar.finished(made)
    assert "<br>note: a &lt; b" in cell.shown[-1]["text/html"]


def test_without_ipython_the_bar_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UsageError, match=r"IPython, which is not installed\. Use it in a notebook"):
        ProgressBar()


def test_a_result_shows_itself_as_the_png_that_save_writes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    made = stylize(pair[0], pair[1], OPTIONS, output=tmp_path / "out.png")
    assert made._repr_png_() == (tmp_path / "out.png").read_bytes()
