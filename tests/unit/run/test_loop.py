from __future__ import annotations

import pytest
import torch

from nst_fast.engines import Evaluation
from nst_fast.optimizers import make_optimizer
from nst_fast.options.config import OptimizerOptions
from nst_fast.run.guard import Guard
from nst_fast.run.loop import Course, LossHistory, Span, optimize
from nst_fast.run.observer import StepEvent


def bowl(pastiche: torch.Tensor) -> Evaluation:
    total = pastiche.square().sum((1, 2, 3))
    return Evaluation(total, {"bowl": total}, 2 * pastiche)


def events(
    steps: int, every: int, stop_at: int | None = None, optimizer: str = "adam"
) -> tuple[list[tuple[StepEvent, float]], LossHistory]:
    pastiche = torch.full((1, 3, 4, 4), 0.9)
    options = OptimizerOptions(optimizer=optimizer, steps=steps, learning_rate=0.05)
    history = LossHistory(["bowl"], steps, pastiche.device)
    seen: list[tuple[StepEvent, float]] = []
    stops = iter(range(10_000))
    course = Course(
        learning_rate=lambda step: 0.05,
        due=lambda step: step % every == 0,
        elapsed=lambda: 1.0,
        stop=lambda: stop_at is not None and next(stops) >= stop_at,
    )
    span = Span(scale=0, first=0, steps=steps, total=steps, last=True)
    guard = Guard(pastiche, factor=0)
    for event in optimize(bowl, make_optimizer(pastiche, options), guard, history, span, course):
        seen.append((event, event.pastiche.square().sum().item()))
    return seen, history


def test_an_event_reports_the_loss_of_the_very_picture_it_carries() -> None:
    seen, _ = events(steps=10, every=3)
    assert [event.step for event, _ in seen] == [0, 3, 6, 9, 10]
    for event, energy in seen:
        assert event.terms["total"] == pytest.approx(energy, rel=1e-6)


def test_the_history_has_a_row_before_the_first_and_after_every_update() -> None:
    seen, history = events(steps=10, every=100)
    rows = history.rows()
    assert len(rows["total"]) == 11
    assert rows["total"][0] == pytest.approx(48 * 0.81, rel=1e-6)
    assert rows["total"][-1] == pytest.approx(seen[-1][1], rel=1e-6)
    assert rows["total"] == sorted(rows["total"], reverse=True)


def test_a_stopped_run_ends_with_an_event_for_what_it_has() -> None:
    seen, history = events(steps=100, every=1000, stop_at=4)
    assert seen[-1][0].step == 4
    assert len(history.rows()["total"]) == 5


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_nothing_is_read_from_the_device_between_events(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tensor goes through item, tolist, numpy, bool or float; losses and pictures have at least one axis.

    Adam's step counter has none and lives on the host, where PyTorch reads it without waiting for a device.
    """
    reads: list[str] = []
    for name in ("item", "tolist", "numpy", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: object, _name: str = name, _original: object = original) -> object:
            if self.ndim:
                reads.append(_name)
            return _original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(torch.Tensor, name, counted)
    seen, _ = events(steps=20, every=20, optimizer=optimizer)
    assert reads == ["tolist", "tolist"] * len(seen)  # the losses, and the guard's best
    assert len(seen) == 2


def test_a_smoothing_shows_in_the_history_at_the_step_after_which_it_came() -> None:
    pastiche = (torch.arange(16).view(1, 1, 4, 4) % 2).float().repeat(1, 3, 1, 1)  # stripes of 0 and 1
    history = LossHistory(["bowl"], 4, pastiche.device)
    course = Course(
        learning_rate=lambda step: 1e-4,
        due=lambda step: False,
        elapsed=lambda: 1.0,
        smooths=lambda step: step == 2,
    )
    span = Span(scale=0, first=0, steps=4, total=4, last=True)
    guard = Guard(pastiche, factor=0)
    for _ in optimize(bowl, make_optimizer(pastiche, OptimizerOptions(steps=4)), guard, history, span, course):
        pass
    total = history.rows()["total"]
    assert total[1] > 0.99 * total[0]
    assert total[2] < 0.6 * total[1]  # the mean of 0 and 1 has a quarter of the square, over twice the pixels
    assert total[3] > 0.99 * total[2]
