"""What a run would take, against what it has taken; and how often its observer asks to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nst_fast.api import Listeners, StepEvent, plan, stylize
from nst_fast.errors import OutOfMemoryError, UsageError
from nst_fast.images import load_image
from nst_fast.options.config import StylizeConfig

SMALL: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu1_2",
    "style_taps": "relu1_1,relu2_1",
    "image_size": 40,
    "monitor_every": 0,
    "engine": "eager",
    "precision": "fp32",
}


@pytest.mark.parametrize(
    "options",
    [{}, {"content_fit": "square"}, {"style_fit": "match"}, {"seamless": "x"}, {"scales": 2, "min_size": 16}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_forecast_is_the_plan_of_the_run(options: dict[str, Any], pair: tuple[Path, Path]) -> None:
    config = StylizeConfig(**SMALL, steps=4, style_crop="none").replace(**options)
    sizes = [load_image(path).original_size[::-1] for path in pair]
    forecast = plan(sizes[0], sizes[1:], config)
    record = stylize(*pair, config).record
    ran = record.plan
    assert [forecast.memory.tiling.width, forecast.memory.tiling.height] == record.size
    assert (forecast.device, forecast.engine) == (record.device, record.engine)
    assert forecast.memory.as_dict()["parts_mib"] == ran["parts_mib"]
    assert forecast.scales[-1].first + forecast.scales[-1].steps == record.steps


def test_the_share_of_the_work_that_is_done() -> None:
    config = StylizeConfig(**SMALL, steps=10, scales=2, min_size=16)
    forecast = plan((30, 40), [(30, 40)], config)
    shares = [forecast.share_done(step) for step in range(11)]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 1)
    assert shares[5] == pytest.approx(0.2, abs=0.01)  # half of the steps, at a quarter of the pixels


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="2 weights for 1 style"):
        plan((30, 40), [(30, 40)], StylizeConfig(style_weight_each="1,2"))
    with pytest.raises(OutOfMemoryError, match="needs at least"):
        plan((30, 40), [(30, 40)], StylizeConfig(max_memory="1KiB"))


def test_an_observer_says_how_often_it_is_told_and_changes_nothing(pair: tuple[Path, Path]) -> None:
    class Often(Listeners):
        every = 1

    seen: list[int] = []

    def event(event: StepEvent) -> None:
        seen.append(event.step)

    often = stylize(*pair, SMALL, steps=7, listeners=Often(event=event))
    assert seen == list(range(8))
    assert often.image.equal(stylize(*pair, SMALL, steps=7).image)
