"""The temporal term of a film's frame, in every engine and in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from narrow_networks import crop_network, few_channels, narrow, pictures
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.objective.evaluation import EagerEvaluator, Evaluation
from nst_fast.objective.objective import Objective, Temporal, build_targets
from nst_fast.options.config import ObjectiveOptions

OPTIONS = ObjectiveOptions(content_taps="relu2_1", style_taps="relu1_1,relu2_1")
SIZE = (48, 70)
CONTENT, STYLE, BEFORE, PASTICHE = pictures(*SIZE, 4)
WEIGHTS = (BEFORE[:, :1] > 0.3).double() / 100
TEMPORAL = Temporal(BEFORE, WEIGHTS)


@pytest.fixture(autouse=True)
def narrow_taps() -> Iterator[None]:
    with few_channels():
        yield


def objective(temporal: Temporal | None = TEMPORAL) -> Objective:
    targets = build_targets(narrow(OPTIONS), OPTIONS, CONTENT, [STYLE])
    return Objective(OPTIONS, replace(targets, temporal=temporal))


def eager(temporal: Temporal | None = TEMPORAL, pastiche: Tensor = PASTICHE) -> Evaluation:
    return EagerEvaluator(narrow(OPTIONS), objective(temporal))(pastiche)


def check(found: Evaluation, wanted: Evaluation) -> None:
    assert list(found.terms) == list(wanted.terms)
    torch.testing.assert_close(found.gradient, wanted.gradient, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(list(found.terms.values()), list(wanted.terms.values()), rtol=1e-11, atol=0)


def test_the_term_is_the_weighted_distance_and_pulls_towards_the_frame_before() -> None:
    with_term, without = eager(), eager(None)
    squares = (WEIGHTS * (PASTICHE - BEFORE).square()).sum()
    torch.testing.assert_close(with_term.terms["temporal"][0], squares)
    torch.testing.assert_close(with_term.total - without.total, with_term.terms["temporal"])
    torch.testing.assert_close(with_term.gradient - without.gradient, 2 * WEIGHTS * (PASTICHE - BEFORE))
    assert "temporal" not in without.terms


def test_it_is_nothing_where_the_picture_is_as_before_or_the_flow_is_not_trusted() -> None:
    elsewhere = torch.where(WEIGHTS > 0, BEFORE, PASTICHE)
    assert eager(pastiche=elsewhere).terms["temporal"].item() == 0


def test_the_fast_engine_has_it() -> None:
    check(FastEvaluator(narrow(OPTIONS), objective(), torch.float64)(PASTICHE), eager())


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_tiles_have_it(grid: tuple[int, int]) -> None:
    strip = make_strip(Ranks(), OPTIONS.network, OPTIONS.taps, *SIZE, grid)
    network = crop_network("fast", narrow(OPTIONS))
    targets = replace(tiled_targets(network, OPTIONS, strip, CONTENT, [STYLE]), temporal=TEMPORAL)
    check(TiledEvaluator(network, Objective(OPTIONS, targets), strip)(PASTICHE), eager())
