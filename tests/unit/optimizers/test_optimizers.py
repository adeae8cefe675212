from __future__ import annotations

import copy

import pytest
import torch

from nst_fast.engines import Evaluation
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.optimizers import learning_rate_at, make_optimizer, smooths_at
from nst_fast.optimizers.base import smoothed
from nst_fast.optimizers.lbfgs import LBFGS
from nst_fast.options.config import ObjectiveOptions, OptimizerOptions


class Bowl:
    """A quadratic with its minimum at ``target``, badly scaled between pixels; counts its evaluations."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target = target
        self.scale = torch.linspace(0.5, 4, target.numel()).view_as(target)
        self.calls = 0

    def __call__(self, pastiche: torch.Tensor) -> Evaluation:
        self.calls += 1
        difference = pastiche - self.target
        total = (self.scale * difference.square()).sum((1, 2, 3))
        return Evaluation(total, {"bowl": total}, 2 * self.scale * difference)


def run(options: OptimizerOptions, bowl: Bowl, start: torch.Tensor) -> torch.Tensor:
    pastiche = start.clone()
    optimizer = make_optimizer(pastiche, options)
    for step in range(options.steps):
        optimizer.update(bowl(pastiche), bowl, learning_rate_at(options, step))
    return pastiche


@pytest.mark.parametrize(
    "options",
    [
        OptimizerOptions(optimizer="adam", steps=300),
        OptimizerOptions(optimizer="adam", steps=300, learning_rate=0.05, schedule="cosine"),
        OptimizerOptions(optimizer="lbfgs", steps=40, learning_rate=0.5),
        OptimizerOptions(optimizer="lbfgs", steps=15, line_search="strong_wolfe"),
    ],
    ids=["adam", "adam-cosine", "lbfgs", "lbfgs-wolfe"],
)
def test_optimizers_reach_the_minimum(options: OptimizerOptions) -> None:
    target = torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4)
    torch.testing.assert_close(run(options, Bowl(target), torch.zeros_like(target)), target, atol=5e-3, rtol=0)


def test_adam_follows_torch_adam_step_by_step() -> None:
    target = torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4)
    reference = torch.full_like(target, 0.5).requires_grad_(True)
    theirs = torch.optim.Adam([reference], lr=0.01, betas=(0.8, 0.9), eps=1e-6)
    bowl = Bowl(target)
    for _ in range(20):
        theirs.zero_grad()
        (bowl.scale * (reference - target).square()).sum().backward()
        theirs.step()
    options = OptimizerOptions(
        optimizer="adam", steps=20, learning_rate=0.01, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-6
    )
    torch.testing.assert_close(run(options, bowl, torch.full_like(target, 0.5)), reference.detach())


def test_adam_keeps_pixels_within_the_unit_range() -> None:
    outside = torch.full((1, 3, 4, 4), 1.7)
    pastiche = run(
        OptimizerOptions(optimizer="adam", steps=100, learning_rate=0.1), Bowl(outside), torch.full_like(outside, 0.5)
    )
    assert pastiche.max().item() == 1.0


def test_lbfgs_without_line_search_spends_one_evaluation_a_step() -> None:
    bowl = Bowl(torch.full((1, 3, 4, 4), 0.5))
    run(OptimizerOptions(optimizer="lbfgs", steps=7, learning_rate=0.3), bowl, torch.zeros(1, 3, 4, 4))
    assert bowl.calls == 7


class Valley:
    """A quadratic whose values depend on each other and whose minimum lies partly outside [0, 1]."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        root = torch.randn(48, 48, generator=chance)
        self.hessian = root @ root.T / 48 + 0.2 * torch.eye(48)
        self.target = torch.rand(48, generator=chance) * 2 - 0.5

    def __call__(self, pastiche: torch.Tensor) -> Evaluation:
        away = pastiche.flatten(1) - self.target
        gradient = away @ self.hessian
        total = (away * gradient).sum(1) / 2
        return Evaluation(total, {"valley": total}, gradient.view_as(pastiche))


def test_lbfgs_finds_the_best_picture_within_the_unit_range() -> None:
    valley = Valley()
    pastiche = run(OptimizerOptions(optimizer="lbfgs", steps=150), valley, torch.full((1, 3, 4, 4), 0.5))
    gradient = valley(pastiche).gradient
    low, high = pastiche == 0, pastiche == 1
    assert 5 < (low | high).sum() < 40
    assert (gradient[low] > 0).all() and (gradient[high] < 0).all()  # Karush, Kuhn, Tucker
    assert gradient[~(low | high)].abs().max().item() < 1e-3


def test_lbfgs_treats_the_pictures_of_a_batch_each_for_itself() -> None:
    valley, starts = Valley(), torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    options = OptimizerOptions(optimizer="lbfgs", steps=12, lbfgs_history=4)
    alone = torch.cat([run(options, valley, start[None]) for start in starts])
    torch.testing.assert_close(run(options, valley, starts), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("history", [3, 12])
def test_lbfgs_goes_on_from_its_state_as_if_it_had_never_stopped(history: int) -> None:
    valley, options = Valley(), OptimizerOptions(optimizer="lbfgs", steps=9, lbfgs_history=history)
    pastiche = torch.full((1, 3, 4, 4), 0.5)
    optimizer = make_optimizer(pastiche, options)
    for step in range(18):
        if step == 9:
            again = make_optimizer(pastiche.clone(), options)
            again.restore(copy.deepcopy(dict(optimizer.state())))
        if step >= 9:
            again.update(valley(again.pastiche), valley, 1.0)
        optimizer.update(valley(pastiche), valley, 1.0)
    assert torch.equal(again.pastiche, pastiche)


def test_a_shorter_history_takes_over_the_newest_pairs() -> None:
    valley, pastiche = Valley(), torch.full((1, 3, 4, 4), 0.5)
    long, short = (OptimizerOptions(optimizer="lbfgs", lbfgs_history=size) for size in (12, 4))
    optimizer = make_optimizer(pastiche, long)
    for _ in range(8):
        optimizer.update(valley(pastiche), valley, 1.0)
    before = valley(pastiche).total.item()
    again = make_optimizer(pastiche.clone(), short)
    again.restore(copy.deepcopy(dict(optimizer.state())))
    for _ in range(4):
        again.update(valley(again.pastiche), valley, 1.0)
    assert valley(again.pastiche).total.item() < before


def test_schedules_start_and_end_where_they_should() -> None:
    cosine = OptimizerOptions(schedule="cosine", steps=11, learning_rate=0.4, final_learning_rate=0.25)
    assert learning_rate_at(cosine, 0) == pytest.approx(0.4)
    assert learning_rate_at(cosine, 5) == pytest.approx((0.4 + 0.1) / 2)
    assert learning_rate_at(cosine, 10) == pytest.approx(0.1)
    keras = OptimizerOptions(schedule="exponential", learning_rate=100.0, decay_steps=100, decay_rate=0.96)
    assert learning_rate_at(keras, 250) == pytest.approx(100 * 0.96**2.5)
    assert learning_rate_at(OptimizerOptions(), 250) == OptimizerOptions().initial_learning_rate


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_smoothing_takes_out_a_checkerboard_and_moves_nothing(size: tuple[int, int]) -> None:
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    ramp = (rows + 2.0 * columns).expand(1, 3, *size)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(smoothed(ramp + (-1.0) ** (rows + columns))[inner], ramp[inner])


def test_smoothing_is_due_every_so_many_steps_but_not_at_the_end() -> None:
    options = OptimizerOptions(steps=1004, smooth_every=251)
    assert [step for step in range(1005) if smooths_at(options, step) and step] == [251, 502, 753]
    assert not any(smooths_at(OptimizerOptions(steps=20), step) for step in range(21))


def test_lbfgs_begins_anew_from_the_smoothed_picture() -> None:
    bowl = Bowl(torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4))
    options = OptimizerOptions(optimizer="lbfgs", steps=3, learning_rate=0.5)
    pastiche = torch.zeros(1, 3, 4, 4)
    optimizer = make_optimizer(pastiche, options)
    for _ in range(3):
        optimizer.update(bowl(pastiche), bowl, 0.5)
    expected = smoothed(pastiche).clone()
    optimizer.smooth()
    torch.testing.assert_close(pastiche, expected)
    for _ in range(2):
        optimizer.update(bowl(pastiche), bowl, 0.5)
    fresh = make_optimizer(expected, options)
    for _ in range(2):
        fresh.update(bowl(expected), bowl, 0.5)
    torch.testing.assert_close(pastiche, expected)


def test_adam_keeps_its_moments_through_a_smoothing() -> None:
    target = torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4)
    bowl = Bowl(target)
    pastiche = torch.zeros_like(target)
    optimizer = make_optimizer(pastiche, OptimizerOptions(optimizer="adam", learning_rate=0.01))
    for _ in range(10):
        optimizer.update(bowl(pastiche), bowl, 0.01)
    optimizer.smooth()
    before = pastiche.clone()
    gradient = torch.zeros_like(target)
    optimizer.update(Evaluation(gradient.sum((1, 2, 3)), {}, gradient), bowl, 0.01)
    assert (pastiche - before).min().item() > 1e-3  # it still moves the way it was moving


@pytest.mark.parametrize("factor", [1e-12, 1e22])
def test_lbfgs_goes_the_same_way_whatever_the_scale_of_the_loss(factor: float) -> None:
    target = torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4)
    bowl, scaled = Bowl(target), Bowl(target)
    scaled.scale = bowl.scale * factor
    options = OptimizerOptions(optimizer="lbfgs", steps=40)
    ends = [run(options, each, torch.zeros_like(target)) for each in (bowl, scaled)]
    torch.testing.assert_close(ends[1], ends[0], atol=1e-4, rtol=0)
    assert (ends[0] - target).abs().max().item() < 0.05  # and it has gone somewhere


def test_lbfgs_without_line_search_descends_from_the_first_step(
    shallow_encoder: Encoder, picture: torch.Tensor
) -> None:
    """PyTorch's own jumps from 400 to two million here, and needs ten steps to come back."""
    style = torch.rand(1, 3, 12, 15, generator=torch.Generator().manual_seed(1))
    options = ObjectiveOptions(
        content_taps="relu2_1",
        style_taps="relu1_1,relu2_1",
        content_normalization="mean",
        gram_normalization="none",
        style_normalization="gatys",
        style_weight=1e3,
    )
    objective = Objective(options, build_targets(shallow_encoder, options, picture, [style]))
    evaluate = EagerEvaluator(shallow_encoder, objective)
    optimizer = make_optimizer(picture, OptimizerOptions(optimizer="lbfgs"))
    totals = []
    for _ in range(12):
        evaluation, before = evaluate(picture), picture.clone()
        totals.append(evaluation.total.item())
        optimizer.update(evaluation, evaluate, 1.0)
        assert (picture - before).abs().mean().item() < 0.0301
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.2 * totals[0]


def test_from_the_third_update_of_lbfgs_on_nothing_kept_changes_its_address() -> None:
    """A captured update (nst_fast/optimizers/captured.py) reads and writes where the first ones did."""
    generator = torch.Generator().manual_seed(0)
    optimizer = LBFGS(torch.rand((1, 3, 8, 8), generator=generator), OptimizerOptions(lbfgs_history=3))

    def addresses() -> dict[str, int]:
        state = optimizer.state()
        tensors = {**state, **state["pairs"]}
        return {name: value.data_ptr() for name, value in tensors.items() if isinstance(value, torch.Tensor)}

    def evaluate(picture: torch.Tensor) -> Evaluation:
        gradient = torch.rand((1, 3, 8, 8), generator=generator) - 0.5
        return Evaluation(gradient.sum((1, 2, 3)), {}, gradient)

    seen = []
    for _ in range(8):
        optimizer.update(evaluate(optimizer.pastiche), evaluate, 1.0)
        seen.append(addresses())
    assert seen[1].keys() >= {"unit", "step", "gradient", "pairs", "inverse", "sy", "yy", "scale", "added"}
    assert all(later == seen[1] for later in seen[2:])
