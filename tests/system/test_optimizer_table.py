"""bench/optimizers/optimizers.py: how gradients are counted, and the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from in_process import Run, imported
from places import ROOT

from nst_fast import StylizeConfig
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.run.scales import plan_scales


@pytest.fixture
def table() -> Iterator[ModuleType]:
    with imported(ROOT / "bench" / "optimizers", ["optimizers"]) as found:
        yield found["optimizers"]


def test_steps_at_coarser_scales_cost_their_share_of_the_pixels(table: ModuleType) -> None:
    config = StylizeConfig(image_size=1024, scales=2)
    steps = table.steps_for(config, 100)
    assert [(scale.fraction, scale.steps) for scale in plan_scales(config, steps, 1024, 1024)] == [(0.5, 80), (1.0, 80)]
    assert table.steps_for(config.replace(scales=1), 100) == 100


def test_gradients_to_a_loss_are_interpolated(table: ModuleType) -> None:
    curve = {25: 3.0, 50: 2.0, 100: 1.0}
    assert [table.gradients_to(curve, loss) for loss in (4.0, 2.5, 1.0, 0.5)] == [25, 37.5, 100, None]


def test_the_table_has_every_recipe_on_every_pair(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Run
) -> None:
    save_image(from_uint8(draw_content(40)), tmp_path / "content.png")
    save_image(from_uint8(draw_style(40)), tmp_path / "style.png")
    monkeypatch.setattr(table, "PAIRS", [("content.png", "style.png")])
    monkeypatch.setattr(table, "COUNTS", (2, 4))
    monkeypatch.setattr(table, "EACH", (4,))
    arguments = ["--images", tmp_path, "--output", tmp_path / "kept", "--size", "40", "--steps", "4", "--results"]
    recipes = ["from a half", "PyTorch's L-BFGS, strong Wolfe"]
    given = [*arguments, tmp_path / "results", "--weights", "random:0", "--recipes", *recipes]
    code, out, _ = script(table.main, *given)
    assert code == 0
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == [table.DEFAULT, *recipes]
    report = json.loads(next((tmp_path / "results").iterdir()).read_text())
    assert report["losses"][table.DEFAULT]["content+style"].keys() == {"2", "4"}
    assert report["rows"][0]["relative"]["4"] == 1.0
    assert len(list((tmp_path / "kept").iterdir())) == 3
