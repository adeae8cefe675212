from __future__ import annotations

import pytest
import torch
from loops import Loop, run_loop, stepper_on
from torch import Tensor

from nst_fast.engines import Evaluation
from nst_fast.options.config import OptimizerOptions
from nst_fast.run.guard import Guard
from nst_fast.run.loop import LossHistory, Span, optimize


def squares(pastiche: Tensor) -> Evaluation:
    total = pastiche.square().sum((1, 2, 3))
    return Evaluation(total, {"bowl": total}, 2 * pastiche)


def events(steps: int, every: int, stop_at: int | None = None, optimizer: str = "adam") -> Loop:
    options = OptimizerOptions(optimizer=optimizer, steps=steps, learning_rate=0.05)
    stepper = stepper_on(torch.full((1, 3, 4, 4), 0.9), options, squares)
    return run_loop(stepper, options, every=every, factor=0, stop_at=stop_at)


def test_an_event_reports_the_loss_of_the_very_picture_it_carries() -> None:
    loop = events(steps=10, every=3)
    assert [event.step for event in loop.events] == [0, 3, 6, 9, 10]
    for event, energy in zip(loop.events, loop.energies, strict=True):
        assert event.terms["total"] == pytest.approx(energy, rel=1e-6)


def test_the_history_has_a_row_before_the_first_and_after_every_update() -> None:
    loop = events(steps=10, every=100)
    rows = loop.history.rows()
    assert len(rows["total"]) == 11
    assert rows["total"][0] == pytest.approx(48 * 0.81, rel=1e-6)
    assert rows["total"][-1] == pytest.approx(loop.energies[-1], rel=1e-6)
    assert rows["total"] == sorted(rows["total"], reverse=True)


def test_a_stopped_run_ends_with_an_event_for_what_it_has() -> None:
    loop = events(steps=100, every=1000, stop_at=4)
    assert loop.events[-1].step == 4
    assert len(loop.history.rows()["total"]) == 5


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
    options = OptimizerOptions(optimizer=optimizer, steps=20, learning_rate=0.05)
    stepper = stepper_on(torch.full((1, 3, 4, 4), 0.9), options, squares)
    guard, span = Guard(stepper.pastiche, factor=0), Span(0, 0, 20, 20, last=True)
    history = LossHistory(["bowl"], 20, torch.device("cpu"))
    loop = optimize(stepper, guard, history, span, options, due=lambda step: step % 20 == 0, elapsed=lambda: 1.0)
    assert [event.step for event in loop] == [0, 20]
    assert reads == ["tolist", "tolist"] * 2  # the losses, and the guard's best


def test_a_smoothing_shows_in_the_history_at_the_step_after_which_it_came() -> None:
    pastiche = (torch.arange(16).view(1, 1, 4, 4) % 2).float().repeat(1, 3, 1, 1)  # stripes of 0 and 1
    options = OptimizerOptions(optimizer="adam", steps=4, learning_rate=1e-4, smooth_every=2)
    total = run_loop(stepper_on(pastiche, options, squares), options, every=100, factor=0).history.rows()["total"]
    assert total[1] > 0.99 * total[0]
    assert total[2] < 0.6 * total[1]  # the mean of 0 and 1 has a quarter of the square, over twice the pixels
    assert total[3] > 0.99 * total[2]
