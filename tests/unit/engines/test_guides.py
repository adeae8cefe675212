"""Masks and regions in every engine, in tiles and over ranks, against autograd, on networks of few channels."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from narrow_networks import crop_network, few_channels, narrow, pictures
from soft_masks import pastiche_guides, style_guides
from thread_ranks import run_ranks
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluation
from nst_fast.engines.cuda_graph import GraphedEvaluator
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.objective import losses
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.guides import Guides
from nst_fast.objective.objective import Objective, Temporal, build_targets
from nst_fast.options.config import ObjectiveOptions

SIZE = (67, 92)
STYLE_SIZE = (50, 70)
OPTIONS = ObjectiveOptions(tv_weight=0.5, chroma_tv_weight=2.0)


@pytest.fixture(scope="module", autouse=True)
def narrow_everywhere() -> Iterator[None]:
    with few_channels():
        yield


def objective(options: ObjectiveOptions) -> tuple[Objective, Tensor]:
    content, pastiche = pictures(*SIZE, 2)
    styles = pictures(*STYLE_SIZE, 2)
    targets = build_targets(narrow(options), options, content, styles, [1.0, 2.0], style_guides(STYLE_SIZE))
    return Objective(options, targets, pastiche_guides(SIZE)), pastiche


def check(found: Evaluation, expected: Evaluation) -> None:
    assert list(found.terms) == list(expected.terms)
    torch.testing.assert_close(found.terms, expected.terms, rtol=1e-10, atol=1e-300)
    assert (found.gradient - expected.gradient).abs().max() < 1e-10 * expected.gradient.abs().max()


def variants() -> list[ObjectiveOptions]:
    """Every normalisation, and the other losses that are functions of sums."""
    return [
        OPTIONS.replace(content_normalization=content, gram_normalization=gram, style_normalization=style)
        for content, gram, style in [
            ("relative", "hw", "relative"),
            ("mean", "chw", "mean"),
            ("half_sum", "none", "sum"),
            ("size", "none", "gatys"),
        ]
    ] + [OPTIONS.replace(style_loss=loss, edge_weight=1.0) for loss in ("moments", "wasserstein")]


@pytest.mark.parametrize("options", variants())
def test_the_fast_engine_gives_the_gradient_of_autograd(options: ObjectiveOptions) -> None:
    made, pastiche = objective(options)
    assert "style/relu3_1/left" in made.style_terms
    check(
        FastEvaluator(narrow(options), made, torch.float64)(pastiche), EagerEvaluator(narrow(options), made)(pastiche)
    )


@pytest.mark.gpu
def test_masks_regions_edges_and_the_frame_before_are_captured_on_a_gpu(cuda: torch.device) -> None:
    made, pastiche = objective(OPTIONS.replace(edge_weight=1.0))
    (before,) = pictures(*SIZE, 1)
    targets = replace(made.targets, temporal=Temporal(before, (before[:, :1] > 0.3).double()))
    expected = EagerEvaluator(narrow(OPTIONS), Objective(made.options, targets, made.guides))(pastiche)
    masks = {name: mask.to(cuda) for name, mask in made.guides.regions.items() if mask is not None}
    assert made.guides.content is not None
    guides = Guides(made.guides.content.to(cuda), masks, made.guides.factors, made.guides.content_factor)
    on_gpu = Objective(made.options, targets.to(cuda, torch.float64), guides)
    encoder = deepcopy(narrow(OPTIONS)).to(cuda)
    evaluate = GraphedEvaluator(FastEvaluator(encoder, on_gpu, torch.float64, kernels=False))  # they have 32 bits
    found = evaluate(pastiche.to(cuda))
    terms = {name: term.cpu() for name, term in found.terms.items()}
    check(Evaluation(found.total.cpu(), terms, found.gradient.cpu()), expected)


@pytest.mark.parametrize("engine", ["eager", "fast"])
@pytest.mark.parametrize(("grid", "ranks"), [((1, 1), 1), ((2, 2), 1), ((1, 3), 1), ((2, 1), 2), ((1, 1), 3)])
def test_tiles_and_ranks_give_the_gradient_of_the_whole(grid: tuple[int, int], ranks: int, engine: str) -> None:
    changes = {1: {}, 2: {"style_loss": "moments", "edge_weight": 1.0}, 3: {"content_normalization": "mean"}}
    options = OPTIONS.replace(**changes[ranks])
    made, pastiche = objective(options)
    content, _ = pictures(*SIZE, 2)
    styles = pictures(*STYLE_SIZE, 2)
    network = crop_network(engine, narrow(options))

    def work(me: Ranks) -> Evaluation:
        strip = make_strip(me, options.network, options.taps, *SIZE, grid)
        targets = tiled_targets(network, options, strip, content, styles, [1.0, 2.0], style_guides(STYLE_SIZE))
        found = TiledEvaluator(network, Objective(options, targets, pastiche_guides(SIZE)), strip)(strip.own(pastiche))
        return Evaluation(found.total, found.terms, strip.whole(found.gradient))

    for found in run_ranks(ranks, work):
        check(found, EagerEvaluator(narrow(options), made)(pastiche))


def test_a_region_is_compared_by_its_own_pixels_alone() -> None:
    """A mask of ones is no mask; and what is outside a region's mask changes nothing of it beyond the reach."""
    made, pastiche = objective(OPTIONS.replace(style_taps="relu1_1", content_taps="relu1_1"))
    half = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    half[..., :46] = 1
    guides = Guides(None, {"half": half}, {"half": 1.0})
    (term,) = guides.terms(made.options).values()
    features = narrow(made.options)(pastiche)["relu1_1"]
    found = losses.gram_matrix(features, guides.at(term))
    torch.testing.assert_close(found, losses.gram_matrix(features[..., :46]), rtol=1e-12, atol=0)
    assert guides.positions(term, SIZE) == 67 * 46


def test_a_mask_is_carried_down_by_the_mean_of_each_cells_pixels() -> None:
    mask = torch.zeros(1, 1, 35, 33, dtype=torch.float64)
    mask[..., :16, 8:16] = 1
    guides = Guides(None, {"": mask}, {"": 1.0})
    term = guides.terms(ObjectiveOptions(style_taps="relu5_1"))["style/relu5_1"]
    assert guides.at(term).tolist() == [[[[0.5, 0.0], [0.0, 0.0]]]]  # type: ignore[union-attr]  # there is a mask
    assert guides.positions(term, (35, 33)) == 0.5


def test_a_region_that_has_no_cell_of_a_tap_has_no_term_there() -> None:
    mask = torch.zeros(1, 1, 35, 33, dtype=torch.float64)
    mask[..., 32:, 32:] = 1  # in the margin that pooling leaves out
    guides = Guides(None, {"corner": mask}, {"corner": 1.0})
    assert list(guides.terms(ObjectiveOptions(style_taps="relu1_1,relu5_1"))) == ["style/relu1_1/corner"]
