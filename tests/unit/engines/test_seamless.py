"""Pictures whose sides join, on networks of the real depth and of few channels, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from narrow_networks import crop_network, few_channels, narrow, pictures
from thread_ranks import run_ranks
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluation
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import ObjectiveOptions

SIZE = (64, 96)
AXES = {"x": (3,), "y": (2,), "xy": (2, 3)}


@pytest.fixture(scope="module", autouse=True)
def narrow_everywhere() -> Iterator[None]:
    with few_channels():
        yield


def options_of(seamless: str, **changes: object) -> ObjectiveOptions:
    return ObjectiveOptions(seamless=seamless, tv_weight=0.5, chroma_tv_weight=2.0, edge_weight=0.3).replace(**changes)


def evaluators(options: ObjectiveOptions) -> tuple[EagerEvaluator, FastEvaluator, Tensor]:
    content, pastiche = pictures(*SIZE, 2)
    (style,) = pictures(50, 70, 1)
    encoder = narrow(options)
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    return EagerEvaluator(encoder, objective), FastEvaluator(encoder, objective, torch.float64), pastiche


def check(found: Evaluation, expected: Evaluation) -> None:
    torch.testing.assert_close(found.terms, expected.terms, rtol=1e-10, atol=1e-300)
    assert (found.gradient - expected.gradient).abs().max() < 1e-10 * expected.gradient.abs().max()


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("seamless", AXES)
def test_the_fast_engine_gives_the_gradient_of_autograd(seamless: str, pooling: str, padding: str) -> None:
    eager, fast, pastiche = evaluators(options_of(seamless, pooling=pooling, padding=padding))
    check(fast(pastiche), eager(pastiche))


@pytest.mark.parametrize("seamless", AXES)
def test_a_texture_rolled_by_half_its_size_has_the_same_loss_and_a_rolled_gradient(seamless: str) -> None:
    eager, _, pastiche = evaluators(options_of(seamless, content_weight=0, edge_weight=0))
    axes = AXES[seamless]
    shifts = [pastiche.shape[axis] // 2 for axis in axes]
    found, rolled = eager(pastiche), eager(pastiche.roll(shifts, axes))
    torch.testing.assert_close(rolled.total, found.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(rolled.gradient, found.gradient.roll(shifts, axes), rtol=1e-9, atol=1e-13)


def test_without_seamless_a_rolled_texture_has_another_loss() -> None:
    eager, _, pastiche = evaluators(options_of("none", content_weight=0, edge_weight=0))
    assert abs(eager(pastiche.roll(48, 3)).total / eager(pastiche).total - 1).item() > 1e-4


@pytest.mark.parametrize("engine", ["eager", "fast"])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("seamless", AXES)
def test_tiles_wrap_their_halos_and_give_the_gradient_of_the_whole(
    seamless: str, grid: tuple[int, int], engine: str
) -> None:
    options = options_of(seamless)
    eager, _, pastiche = evaluators(options)
    check(in_tiles(options, Ranks(), grid, engine)[0], eager(pastiche))


def test_ranks_share_a_picture_that_wraps_along_its_rows_only() -> None:
    options = options_of("x")
    eager, _, pastiche = evaluators(options)
    for found, _ in run_ranks(2, lambda me: in_tiles(options, me, (1, 2), "fast")):
        check(found, eager(pastiche))


def in_tiles(options: ObjectiveOptions, ranks: Ranks, grid: tuple[int, int], engine: str) -> tuple[Evaluation, Tensor]:
    content, pastiche = pictures(*SIZE, 2)
    (style,) = pictures(50, 70, 1)
    encoder = narrow(options)
    strip = make_strip(ranks, options.network, options.taps, *SIZE, grid, wraps=options.wraps)
    network, plain = crop_network(engine, encoder), crop_network(engine, encoder.unwrapped)
    targets = tiled_targets(network, options, strip, content, [style], style_network=plain)
    found = TiledEvaluator(network, Objective(options, targets), strip)(strip.own(pastiche))
    return Evaluation(found.total, found.terms, strip.whole(found.gradient)), pastiche
