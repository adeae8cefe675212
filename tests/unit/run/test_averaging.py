from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loops import bowl, ramp, run_loop, stepper_on
from tiny import DEEPER

from nst_fast import api
from nst_fast.engines import Evaluation
from nst_fast.images import save_image
from nst_fast.options.config import OptimizerOptions, StylizeConfig
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.observer import StepEvent

TINY = StylizeConfig(**DEEPER | {"engine": "auto", "steps": 12})


def seen_by(pair: tuple[Path, Path], **options: object) -> tuple[api.Pastiche, dict[int, torch.Tensor]]:
    """A run that reports every step, and its iterates by step."""
    iterates: dict[int, torch.Tensor] = {}

    def keep(event: StepEvent) -> None:
        iterates[event.step] = event.pastiche.clone()

    config = TINY.replace(log_every=1, **options)
    return api.stylize(*pair, config, listeners=api.Listeners(event=keep)), iterates


def weighted_mean(pictures: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The definition: the newest picture weighs 1, the one before it ``decay``, and so on."""
    weights = [decay**age for age in reversed(range(len(pictures)))]
    total = sum(weight * picture.double() for weight, picture in zip(weights, pictures, strict=True))
    return total / sum(weights)  # type: ignore[operator, return-value]


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_the_weighted_mean_of_all_pictures_since_the_first(decay: float) -> None:
    pictures = list(torch.rand(7, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    average = IterateAverage(pictures[0], decay)
    for count, picture in enumerate(pictures, start=1):
        average.add(picture)
        expected = weighted_mean(pictures[:count], decay).float()
        torch.testing.assert_close(average.mean, expected)


def test_an_average_of_nothing_is_none_also_after_a_restart_from_nan() -> None:
    average = IterateAverage(torch.zeros(1, 3, 2, 2), 0.9)
    assert average.mean is None
    average.add(torch.full((1, 3, 2, 2), torch.nan))
    average.restart()
    assert average.mean is None
    average.add(torch.full((1, 3, 2, 2), 0.25))
    torch.testing.assert_close(average.mean, torch.full((1, 3, 2, 2), 0.25))


@pytest.mark.parametrize("options", [{}, {"optimizer": "lbfgs"}, {"tile_size": 16}], ids=["adam", "lbfgs", "tiled"])
def test_the_finished_picture_is_the_average_of_the_iterates(
    pair: tuple[Path, Path], options: dict[str, object]
) -> None:
    pastiche, iterates = seen_by(pair, average_decay=0.8, **options)
    expected = weighted_mean([iterates[step] for step in range(1, 13)], 0.8).float()
    torch.testing.assert_close(pastiche.image, expected.clamp(0, 1), atol=1e-6, rtol=0)
    assert not torch.equal(pastiche.image, iterates[12].clamp(0, 1))


def test_the_iterates_are_the_same_with_and_without_average(pair: tuple[Path, Path]) -> None:
    with_average, iterates = seen_by(pair, average_decay=0.9)
    without, plain = seen_by(pair)
    assert all(torch.equal(iterates[step], plain[step]) for step in plain)
    assert with_average.record.history == without.record.history


def test_the_final_losses_are_those_of_the_average_and_the_history_is_that_of_the_iterates(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pastiche, _ = seen_by(pair, average_decay=0.9)
    assert len(pastiche.record.history["total"]) == 13
    assert pastiche.record.losses["total"] != pastiche.record.history["total"][-1]
    save_image(pastiche.image, tmp_path / "average.tif")
    again = api.stylize(*pair, TINY.replace(init=str(tmp_path / "average.tif"), steps=1))
    assert again.record.history["total"][0] == pytest.approx(pastiche.record.losses["total"], rel=0.02)  # 8-bit file


def test_a_smoothing_restarts_the_average(pair: tuple[Path, Path]) -> None:
    pastiche, iterates = seen_by(pair, average_decay=0.9, smooth_every=8)
    expected = weighted_mean([iterates[step] for step in range(9, 13)], 0.9).float()
    torch.testing.assert_close(pastiche.image, expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_a_finer_scale_starts_from_the_average_and_averages_anew(pair: tuple[Path, Path]) -> None:
    pastiche, iterates = seen_by(pair, average_decay=0.9, scales=2, min_size=16)
    coarse = weighted_mean([iterates[step] for step in range(1, 6)], 0.9)
    assert iterates[5].shape[3] == 16
    assert iterates[6].shape[3] == 32
    expected = weighted_mean([iterates[step] for step in range(7, 13)], 0.9).float()
    torch.testing.assert_close(pastiche.image, expected.clamp(0, 1), atol=1e-6, rtol=0)
    shrunk = torch.nn.functional.avg_pool2d(iterates[6], 2)
    assert (shrunk - coarse).abs().mean() < (shrunk - iterates[5]).abs().mean()


def test_a_divergence_restarts_the_average() -> None:
    calls = iter(range(10_000))

    def poisoned(pastiche: torch.Tensor) -> Evaluation:
        good, bad = bowl(pastiche), torch.nan if next(calls) in (7, 8) else 1.0
        return Evaluation(good.total * bad, {"bowl": good.total * bad}, good.gradient * bad)

    pastiche, options = ramp(), OptimizerOptions(optimizer="adam", steps=20, learning_rate=0.02)
    average = IterateAverage(pastiche, 0.9)
    assert run_loop(stepper_on(pastiche, options, poisoned), options, average=average).observer.recoveries
    assert average.mean is not None
    assert torch.isfinite(average.mean).all()


class StopAt:
    def __init__(self, step: int) -> None:
        self.calls = -1
        self.step = step

    def __call__(self) -> bool:
        self.calls += 1
        return self.calls >= self.step


@pytest.mark.parametrize(("learning_rate", "averaged"), [(0.001, False), (0.2, True)], ids=["descending", "restless"])
def test_a_run_that_is_cut_short_ends_with_the_better_of_best_iterate_and_average(
    pair: tuple[Path, Path], learning_rate: float, averaged: bool
) -> None:
    config = TINY.replace(init="noise", optimizer="adam", average_decay=0.8, learning_rate=learning_rate)
    pastiche = api.stylize(*pair, config, listeners=api.Listeners(stop=StopAt(11)))
    assert pastiche.record.status == "stopped"
    best = min(pastiche.record.history["total"])
    if averaged:  # between the corners that large steps jump to
        assert pastiche.record.losses["total"] < best
    else:  # an average lags behind
        assert pastiche.record.losses["total"] == best
