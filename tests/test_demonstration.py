from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nst_fast.config import DemoConfig
from nst_fast.demonstration import demonstrate
from nst_fast.errors import OutputError, WeightsError
from nst_fast.transfer import Listeners

TINY = DemoConfig(image_size=64, steps=3, precision="fp32", device="cpu")


def test_without_pretrained_weights_it_says_so_and_still_makes_a_picture(tmp_path: Path) -> None:
    notes: list[str] = []
    made = demonstrate(tmp_path / "demo", TINY, overwrite=False, listeners=Listeners(note=notes.append))
    assert any("random weights" in note for note in notes)
    assert made.pastiche.record.options["weights"] == "random:0"
    with Image.open(made.sheet) as sheet:
        assert sheet.width > 3 * 64
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    expected = {"content.png", "style.png", "pastiche.png", "pastiche.json", "pastiche-losses.png", "comparison.png"}
    assert names == expected
    with pytest.raises(OutputError, match="exists"):
        demonstrate(tmp_path / "demo", TINY, overwrite=False, listeners=Listeners())


def test_weights_asked_for_by_name_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        demonstrate(tmp_path, TINY.replace(weights="missing.pth"), overwrite=False, listeners=Listeners())
