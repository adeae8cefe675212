"""bench/optimizers/optimizers.py: how gradients are counted, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

from nst_fast import StylizeConfig
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.run.scales import plan_scales


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "optimizers"))
    import optimizers

    return optimizers


def test_steps_at_coarser_scales_cost_their_share_of_the_pixels(script: ModuleType) -> None:
    config = StylizeConfig(image_size=1024, scales=2)
    steps = script.steps_for(config, 100)
    assert [(scale.fraction, scale.steps) for scale in plan_scales(config, steps, 1024, 1024)] == [(0.5, 80), (1.0, 80)]
    assert script.steps_for(config.replace(scales=1), 100) == 100


def test_gradients_to_a_loss_are_interpolated(script: ModuleType) -> None:
    curve = {25: 3.0, 50: 2.0, 100: 1.0}
    assert [script.gradients_to(curve, loss) for loss in (4.0, 2.5, 1.0, 0.5)] == [25, 37.5, 100, None]


def test_the_table_has_every_recipe_on_every_pair(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(from_uint8(draw_content(40)), tmp_path / "content.png")
    save_image(from_uint8(draw_style(40)), tmp_path / "style.png")
    monkeypatch.setattr(script, "PAIRS", [("content.png", "style.png")])
    monkeypatch.setattr(script, "COUNTS", (2, 4))
    monkeypatch.setattr(script, "EACH", (4,))
    arguments = ["--images", tmp_path, "--output", tmp_path / "kept", "--size", "40", "--steps", "4", "--results"]
    recipes = ["from a half", "PyTorch's L-BFGS, strong Wolfe"]
    command = [*arguments, tmp_path / "results", "--weights", "random:0", "--recipes", *recipes]
    monkeypatch.setattr("sys.argv", ["optimizers.py", *map(str, command)])
    assert script.main() == 0
    assert [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]] == [
        script.DEFAULT,
        *recipes,
    ]
    report = json.loads(next((tmp_path / "results").iterdir()).read_text())
    assert report["losses"][script.DEFAULT]["content+style"].keys() == {"2", "4"}
    assert report["rows"][0]["relative"]["4"] == 1.0
    assert len(list((tmp_path / "kept").iterdir())) == 3
