from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loops import Loop, Spiking, bowl, ramp, run_loop
from tiny import DEEPER

from nst_fast import api
from nst_fast.engines import Choice, Evaluation, Evaluator, make_evaluator
from nst_fast.errors import NumericsError, UsageError
from nst_fast.optimizers import make_optimizer
from nst_fast.options.config import OptimizerOptions, StopOptions, StylizeConfig
from nst_fast.options.values import Seconds
from nst_fast.run import layout as planned
from nst_fast.run.guard import TRIES, Guard, Recovery, StopRules
from nst_fast.run.loop import LossHistory
from nst_fast.run.problem import Networks, load_problem

STEPS = 60


def run(
    optimizer: str,
    rate: float,
    evaluate: Evaluator = bowl,
    spike: tuple[int, float] = (0, 1.0),
    made: list[Loop] | None = None,
) -> tuple[torch.Tensor, list[Recovery], LossHistory]:
    """The pastiche, the recoveries and the history of a loop in which one update has ``spike`` times its rate."""
    options = OptimizerOptions(optimizer=optimizer, steps=STEPS, learning_rate=rate)
    stepper = Spiking(evaluate, make_optimizer(ramp(), options), *spike)
    loop = run_loop(stepper, options, loop=made)
    return stepper.pastiche, loop.observer.recoveries, loop.history


def nan_bowl(pastiche: torch.Tensor) -> Evaluation:
    nan = torch.full((len(pastiche),), math.nan)
    return Evaluation(nan, {"bowl": nan}, torch.full_like(pastiche, math.nan))


# L-BFGS stays within [0, 1], where an early spike cannot make a loss ten times as large.
@pytest.mark.parametrize(
    ("optimizer", "rate", "spike_at"),
    [*(("adam", 0.02, at) for at in (12, 33, STEPS - 1)), *(("lbfgs", 0.2, at) for at in (33, STEPS - 1))],
)
def test_a_spike_of_the_learning_rate_costs_nothing_but_time(optimizer: str, rate: float, spike_at: int) -> None:
    spike = (spike_at, 1000.0 if optimizer == "adam" else 1e6)
    pastiche, recoveries, history = run(optimizer, rate, spike=spike)
    before = history.rows()["total"][spike_at]
    assert bowl(pastiche).total.item() <= before * (1 + 1e-6)
    assert [recovery.reason for recovery in recoveries] == ["the loss jumped beyond 10 times the best"]
    assert spike_at < recoveries[0].step <= spike_at + 5


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_loss_that_is_not_finite_leads_back_to_the_best_picture(optimizer: str) -> None:
    calls = iter(range(10_000))

    def poisoned(pastiche: torch.Tensor) -> Evaluation:
        return nan_bowl(pastiche) if next(calls) == 17 else bowl(pastiche)

    pastiche, recoveries, _ = run(optimizer, 0.02, poisoned)
    assert torch.isfinite(pastiche).all()
    assert [recovery.reason for recovery in recoveries] == ["the loss is not finite"]
    assert recoveries[0].learning_rate_factor == 0.5
    assert recoveries[0].best_step <= 17


def test_a_run_that_keeps_diverging_gives_up_with_the_best_picture() -> None:
    def cursed(pastiche: torch.Tensor) -> Evaluation:
        return bowl(pastiche) if next(calls) < 7 else nan_bowl(pastiche)

    calls, made = iter(range(10_000)), list[Loop]()
    with pytest.raises(NumericsError, match=f"diverged {TRIES + 1} times"):
        run("adam", 0.02, cursed, made=made)
    assert torch.isfinite(made[0].stepper.pastiche).all()


def test_an_honest_rise_is_no_divergence() -> None:
    guard = Guard(torch.zeros(1, 3, 2, 2), factor=10)
    guard.observe(0, torch.zeros(1, 3, 2, 2), Evaluation(torch.ones(1), {}, torch.zeros(1)))
    assert guard.check(5, [9.9]) is None
    assert guard.check(5, [10.1]) is not None


def test_a_jump_is_measured_from_what_rounding_alone_makes() -> None:
    guard = Guard(torch.zeros(1, 3, 2, 2), factor=10, floor=[1e-9])
    guard.observe(0, torch.zeros(1, 3, 2, 2), Evaluation(torch.full((1,), 1e-12), {}, torch.zeros(1)))
    assert guard.check(5, [9e-9]) is None
    assert guard.check(5, [1.1e-8]) is not None
    assert [guard.nothing_left([total]) for total in (0.0, 1e-9, 1.1e-9, math.nan)] == [True, True, False, False]


def test_the_guard_that_is_turned_off_still_stops_at_nan() -> None:
    guard = Guard(torch.zeros(1, 3, 2, 2), factor=0)
    guard.observe(0, torch.zeros(1, 3, 2, 2), Evaluation(torch.ones(1), {}, torch.zeros(1)))
    assert guard.check(5, [1e9]) is None
    assert guard.check(5, [math.nan]) is not None


def test_patience_ends_a_run_that_stalls_and_begins_anew_at_every_scale() -> None:
    rules = StopRules(StopOptions(patience=20, min_improvement=0.1))
    assert [rules.verdict(step, [1.0], 0.0, 1.0) for step in (0, 10, 20)] == ["", "", "converged"]
    rules.next_scale(30)
    assert [rules.verdict(30 + step, [0.8**step], 0.0, 1.0) for step in range(0, 60, 10)] == [""] * 6


def test_a_scale_may_use_its_share_of_the_time_budget() -> None:
    rules = StopRules(StopOptions(time_budget="1m"))
    assert rules.verdict(1, [1.0], elapsed=29.0, share=0.5) == ""
    assert rules.verdict(1, [1.0], elapsed=31.0, share=0.5) == "out of time"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("60s", 60), ("1.5m", 90), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert Seconds.of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-3s", "0", "5d", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="`time_budget`"):
        StopOptions(time_budget=text)


TINY = StylizeConfig(**DEEPER | {"engine": "auto", "steps": 30}, chroma_tv_weight=0.0)


def test_a_diverging_run_still_saves_its_best_picture_and_says_so(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Callable[[torch.Tensor], Evaluation]:
        calls = iter(range(1000))

        def evaluate(pastiche: torch.Tensor) -> Evaluation:
            bad = math.nan if next(calls) > 3 else 1.0
            total = torch.full((1,), bad)
            names = ("content/relu2_1", "style/relu1_1", "style/relu2_1")
            return Evaluation(total, dict.fromkeys(names, total / 3), pastiche * bad)

        return evaluate

    monkeypatch.setattr(planned, "make_evaluator", broken)
    with pytest.raises(NumericsError) as caught:
        api.stylize(*pair, TINY, output=tmp_path / "out.png")
    assert caught.value.exit_code == 8
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["status"] == "diverged"
    assert len(record["recoveries"]) == TRIES + 1
    assert math.isfinite(record["losses"]["total"])
    assert (tmp_path / "out.png").exists()


def test_a_time_budget_ends_the_run_in_time_with_a_picture(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = TINY.replace(steps=1_000_000, time_budget="3s", scales=2, min_size=16)
    pastiche = api.stylize(*pair, config)
    assert pastiche.record.status == "out of time"
    assert 0 < pastiche.record.steps < 1_000_000
    assert pastiche.image.shape[3] == 32


def test_patience_ends_a_run_as_converged(pair: tuple[Path, Path]) -> None:
    pastiche = api.stylize(*pair, TINY, steps=10_000, patience=20, min_improvement=0.5)
    assert pastiche.record.status == "converged"
    assert pastiche.record.steps < 10_000


AT_THE_OPTIMUM = {
    "content is style": {},
    "content alone": {"style_weight": 0.0, "init": "content"},
    "style alone": {"content_weight": 0.0, "init": "content"},
    "other scales": {
        "content_normalization": "half_sum",
        "style_normalization": "gatys",
        "gram_normalization": "none",
    },
}


@pytest.mark.parametrize("options", AT_THE_OPTIMUM.values(), ids=AT_THE_OPTIMUM.keys())
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("engine", [{"engine": "eager"}, {"engine": "fast"}, {"engine": "ort"}, {"tile_size": 16}])
def test_a_run_that_starts_at_its_optimum_has_converged(
    engine: dict[str, object], optimizer: str, options: dict[str, object], pair: tuple[Path, Path]
) -> None:
    """Its gradient is rounding, along which a step of usual length raises the loss by a factor of 1e10."""
    pastiche = api.stylize(pair[0], pair[0], TINY, optimizer=optimizer, **engine, **options)
    assert (pastiche.record.status, pastiche.record.steps, pastiche.record.recoveries) == ("converged", 0, [])


@pytest.mark.parametrize("options", AT_THE_OPTIMUM.values(), ids=AT_THE_OPTIMUM.keys())
def test_the_rounding_of_an_objective_is_far_below_what_can_be_seen(
    options: dict[str, object], pair: tuple[Path, Path]
) -> None:
    problem = load_problem(TINY.replace(**options), pair[0], [pair[0]], Networks())
    (scale,) = problem.scales
    objective, picture = problem.objective_at(scale), problem.content_at(scale)
    assert picture is not None
    noise = torch.randint(0, 2, picture.shape, generator=torch.Generator().manual_seed(1)) / 255
    found = make_evaluator(problem.config, Choice("fast", "fp32", "", {}), problem.encoder, objective)
    floor = objective.rounding(scale.height, scale.width)
    assert found(picture).total < floor
    assert found(picture + noise).total > 1000 * floor  # one level of 8 bits
