from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nst_fast.api import Listeners
from nst_fast.errors import OutputError, WeightsError
from nst_fast.jobs.demo import demonstrate
from nst_fast.network.weights import original
from nst_fast.options.config import DemoConfig

TINY = DemoConfig(image_size=64, steps=3, precision="fp32", device="cpu")


def test_offline_it_paints_with_the_original_weights_through_all_blocks(tmp_path: Path) -> None:
    made = demonstrate(tmp_path / "demo", TINY, overwrite=False, listeners=Listeners())
    assert made.pastiche.record.weights["sha256"] == original.SHA256
    assert "style/relu5_1" in made.pastiche.record.losses
    with Image.open(made.sheet) as sheet:
        assert sheet.width > 3 * 64
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    expected = {"content.png", "style.png", "pastiche.png", "pastiche.json", "pastiche-losses.png", "comparison.png"}
    assert names == expected
    with pytest.raises(OutputError, match="exists"):
        demonstrate(tmp_path / "demo", TINY, overwrite=False, listeners=Listeners())


def test_weights_that_are_not_there_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        demonstrate(tmp_path, TINY.replace(weights="missing.pth"), overwrite=False, listeners=Listeners())
