"""Tiles and strips of several ranks against the whole picture, in float64, on networks of the real depth and of few
channels; the ranks are threads of this process.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow_networks import crop_network, few_channels, narrow, pictures
from thread_ranks import ThreadRanks, run_ranks
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluation
from nst_fast.engines.crop_network import EagerNetwork
from nst_fast.engines.tiled import TiledEvaluator, halved, shared_style, tiled_targets
from nst_fast.errors import UsageError
from nst_fast.network import tiles
from nst_fast.network.tiles import halo_of
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.guides import PLAIN, StylePart
from nst_fast.objective.objective import Objective, Statistics, build_targets
from nst_fast.options.config import ObjectiveOptions

DEEP = ObjectiveOptions(tv_weight=0.5, chroma_tv_weight=2.0)
SHALLOW = ObjectiveOptions(content_taps="relu2_2", style_taps="relu1_1,relu2_1", chroma_tv_weight=0.5)
Size = tuple[int, int]
STYLE_SIZE = (50, 70)


@pytest.fixture(scope="module", autouse=True)
def narrow_everywhere() -> Iterator[None]:
    with few_channels():
        yield


def whole(options: ObjectiveOptions, size: Size, style_size: Size = STYLE_SIZE, batch: int = 1) -> Evaluation:
    encoder = narrow(options)
    content, pastiche = pictures(*size, 2, batch)
    (style,) = pictures(*style_size, 1)
    return EagerEvaluator(encoder, Objective(options, build_targets(encoder, options, content, [style])))(pastiche)


def cut(
    options: ObjectiveOptions,
    size: Size,
    grid: Size = (1, 1),
    ranks: int = 1,
    *,
    style_size: Size = STYLE_SIZE,
    engine: str = "eager",
    batch: int = 1,
) -> list[Evaluation]:
    """What every rank computes in tiles; the gradients are those of the whole picture, put together."""
    content, pastiche = pictures(*size, 2, batch)
    (style,) = pictures(*style_size, 1)
    network = crop_network(engine, narrow(options))

    def work(me: ThreadRanks) -> Evaluation:
        strip = make_strip(me, options.network, options.taps, *size, grid)
        objective = Objective(options, tiled_targets(network, options, strip, content, [style]))
        found = TiledEvaluator(network, objective, strip)(strip.own(pastiche))
        return Evaluation(found.total, found.terms, strip.whole(found.gradient))

    return run_ranks(ranks, work)


def gap(one: Evaluation, other: Evaluation) -> float:
    """The largest difference of gradients, relative to the largest gradient."""
    return ((one.gradient - other.gradient).abs().max() / one.gradient.abs().max()).item()


def check(one: Evaluation, ranks: list[Evaluation]) -> None:
    for found in ranks:
        assert gap(one, found) < 1e-10
        assert list(found.terms) == list(one.terms)
        torch.testing.assert_close(found.terms, one.terms, rtol=1e-10, atol=1e-300)
        torch.testing.assert_close(found.total, one.total, rtol=1e-10, atol=0)
        assert torch.equal(found.total, ranks[0].total), "decisions need the same bits on every rank"


@st.composite
def objectives(draw: st.DrawFn) -> ObjectiveOptions:
    taps = ["conv1_1", "relu1_2", "pool1", "relu2_1", "conv3_2", "relu3_1", "relu4_2", "pool3", "conv4_1", "relu5_1"]
    chosen = st.lists(st.sampled_from(taps), min_size=1, max_size=3, unique=True)
    kinds = draw(st.sampled_from([(1.0, 100.0), (0.0, 100.0), (1.0, 0.0)]))
    loss = draw(st.sampled_from(["gram", "moments", "wasserstein"]))
    normalization = draw(st.sampled_from(["relative", "mean", "sum", "gatys"])) if loss == "gram" else "relative"
    return ObjectiveOptions(
        network=draw(st.sampled_from(["vgg16", "vgg19"])),
        pooling=draw(st.sampled_from(["max", "average"])),
        padding=draw(st.sampled_from(["zeros", "replicate", "reflect"])),
        content_taps=",".join(f"{tap}:{index + 0.5}" for index, tap in enumerate(draw(chosen))),
        style_taps=",".join(draw(chosen)),
        content_weight=kinds[0],
        style_weight=kinds[1],
        tv_weight=draw(st.sampled_from([0.0, 0.5])),
        chroma_tv_weight=draw(st.sampled_from([0.0, 2.0])),
        content_normalization=draw(st.sampled_from(["relative", "mean", "half_sum", "size"])),
        gram_normalization=draw(st.sampled_from(["hw", "chw", "none"])),
        style_normalization=normalization,
        style_loss=loss,
        edge_weight=draw(st.sampled_from([0.0, 3.0])),
    )


@settings(max_examples=80)
@given(
    st.sampled_from(["eager", "fast"]),
    objectives(),
    st.tuples(st.integers(48, 330), st.integers(40, 330)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.tuples(st.integers(20, 90), st.just(64)),
)
def test_tiles_of_all_ranks_give_terms_and_gradient_of_the_whole(
    engine: str, options: ObjectiveOptions, size: Size, grid: Size, ranks: int, style_size: Size
) -> None:
    found = cut(options, size, grid, ranks, engine=engine, style_size=style_size)
    check(whole(options, size, style_size), found)


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize(("grid", "ranks"), [((2, 2), 1), ((1, 1), 2)])
def test_a_halo_one_cell_too_small_gives_another_gradient(
    network: str, pooling: str, grid: Size, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DEEP.replace(network=network, pooling=pooling)
    size = (331, 289) if ranks == 1 else (331, 97)
    true = whole(options, size)
    narrower = halo_of(network, options.taps) - 16
    assert max(gap(true, found) for found in cut(options, size, grid, ranks)) < 1e-10
    monkeypatch.setattr(tiles, "halo_of", lambda network, taps: narrower)
    assert min(gap(true, found) for found in cut(options, size, grid, ranks)) > 1e-8


def test_there_is_no_seam() -> None:
    """The gradient next to the borders of tiles differs from the true one no more than anywhere else."""
    true, (tiled,) = whole(DEEP, (320, 320)), cut(DEEP, (320, 320), (2, 2))
    error = (true.gradient - tiled.gradient).abs()[0].sum(0)
    at_seam = torch.cat([error[152:168].flatten(), error[:, 152:168].flatten()])
    assert at_seam.max() <= 1e-12 * true.gradient.abs().max()


@pytest.mark.parametrize(
    ("size", "grid", "ranks", "options"),
    [
        pytest.param((97, 210), (1, 2), 1, {"batch": 2}, id="a batch of independent problems"),
        pytest.param((95, 60), (6, 1), 1, {}, id="a tile with fewer rows than a cell of the deepest tap"),
        pytest.param((95, 60), (1, 1), 6, {}, id="a halo beyond the next rank"),
        pytest.param((95, 60), (1, 1), 4, {"style_size": (20, 30)}, id="fewer strips of the style than ranks"),
    ],
)
def test_special_cuts_are_exact_too(size: Size, grid: Size, ranks: int, options: dict[str, object]) -> None:
    check(whole(DEEP, size, **options), cut(DEEP, size, grid, ranks, **options))  # type: ignore[arg-type]


def test_more_ranks_than_strips_are_refused_with_the_largest_number() -> None:
    with pytest.raises(UsageError, match=r"95 rows cannot be shared among 7 ranks.*at most 6 can take part"):
        cut(DEEP, (95, 60), ranks=7)


class WatchedNetwork(EagerNetwork):
    """Records its calls and the sizes of crops."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.calls: list[tuple[str, int]] = []

    def features(self, image: Tensor) -> object:  # type: ignore[override]
        self.calls.append(("features", image[0, 0].numel()))
        return super().features(image)

    def vjp(self, image: Tensor) -> object:  # type: ignore[override]
        self.calls.append(("vjp", image[0, 0].numel()))
        return super().vjp(image)


@pytest.mark.parametrize(("grid", "calls"), [((1, 1), ["vjp"]), ((3, 1), ["features"] * 3 + ["vjp"] * 3)])
def test_one_tile_takes_one_forward_pass_and_several_take_two_of_one_crop_each(grid: Size, calls: list[str]) -> None:
    network = WatchedNetwork(narrow(DEEP))
    content, style = pictures(500, 330, 2)
    strip = make_strip(Ranks(), "vgg19", DEEP.taps, 500, 330, grid)
    evaluate = TiledEvaluator(network, Objective(DEEP, tiled_targets(network, DEEP, strip, content, [style])), strip)
    network.calls.clear()
    evaluate(content)
    assert [name for name, _ in network.calls] == calls
    assert max(pixels for _, pixels in network.calls) == math.prod(strip.tiling.largest_crop)
    assert strip.tiling.whole or math.prod(strip.tiling.largest_crop) < 500 * 330


@pytest.mark.parametrize("grid", [(1, 1), (2, 1)])
def test_nothing_of_a_step_stays_in_memory_but_its_answer(grid: Size) -> None:
    """A hook that refers to its own tensor would keep every activation until the garbage collector runs."""
    encoder = narrow(DEEP)
    content, style = pictures(120, 120, 2)
    objective = Objective(DEEP, build_targets(encoder, DEEP, content, [style]))
    strip = make_strip(Ranks(), "vgg19", DEEP.taps, 120, 120, grid)
    evaluate = TiledEvaluator(EagerNetwork(encoder), objective, strip)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(item) is Tensor for item in gc.get_objects())
        kept = evaluate(content)
        after = sum(type(item) is Tensor for item in gc.get_objects())
    finally:
        gc.enable()
    assert after - before == 2 + 1 + len(kept.terms)  # total, gradient, and the terms, which are views of one tensor


def test_targets_computed_in_tiles_are_the_targets() -> None:
    encoder = narrow(DEEP)
    (content,) = pictures(203, 171, 1)
    styles = [*pictures(333, 190, 1), *pictures(64, 90, 1)]
    expected = build_targets(encoder, DEEP, content, styles, [1.0, 3.0])
    strip = make_strip(Ranks(), "vgg19", DEEP.taps, 203, 171, (2, 2))
    for halve, rtol, atol in ((False, 1e-10, 0.0), (True, 2**-11, 1e-6)):
        network = EagerNetwork(encoder)
        found = tiled_targets(network, DEEP, strip, content, styles, [1.0, 3.0], halve_content=halve)
        for name, statistic in expected.style.items():
            torch.testing.assert_close(found.style[name], statistic, rtol=1e-10, atol=0)
        features = found.content["relu4_2"]
        assert features.dtype == (torch.float16 if halve else torch.float64)
        torch.testing.assert_close(features.double(), expected.content["relu4_2"], rtol=rtol, atol=atol)


def test_halved_content_targets_move_the_content_term_by_less_than_a_millionth_of_the_target_energy() -> None:
    encoder = narrow(DEEP)
    content, style, pastiche = pictures(203, 171, 3)
    targets = build_targets(encoder, DEEP, content, [style])
    rounded = Statistics({tap: halved(kept) for tap, kept in targets.content.items()}, targets.style, {})
    strip = make_strip(Ranks(), "vgg19", DEEP.taps, 203, 171, (2, 1))
    exact, near = (TiledEvaluator(EagerNetwork(encoder), Objective(DEEP, kept), strip) for kept in (targets, rounded))
    assert exact(content).terms["content/relu4_2"].item() < 1e-25
    assert 0 < near(content).terms["content/relu4_2"].item() < 1e-6
    assert gap(exact(pastiche), near(pastiche)) < 1e-3


def test_halving_saturates_instead_of_overflowing() -> None:
    assert halved(torch.tensor([1e9, -1e9, 0.5])).tolist() == [65504, -65504, 0.5]


def test_grams_of_low_precision_features_are_added_up_in_single_precision() -> None:
    class Half(EagerNetwork):
        def features(self, image: Tensor) -> dict[str, Tensor]:
            return {tap: found.bfloat16() for tap, found in super().features(image).items()}

    encoder = narrow(DEEP)
    (style,) = pictures(200, 180, 1)
    strip = make_strip(Ranks(), "vgg19", DEEP.taps, 200, 180, (2, 2))
    found = shared_style(Half(encoder), DEEP, strip, StylePart(style, PLAIN, 1.0))["style/relu1_1"]
    assert found.dtype == torch.float32
    expected = build_targets(encoder, DEEP, None, [style]).style["style/relu1_1"]
    torch.testing.assert_close(found.double(), expected, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["moments", "wasserstein"])
@pytest.mark.parametrize(("engine", "grid", "ranks"), [("eager", (2, 3), 1), ("fast", (2, 1), 2), ("fast", (1, 1), 3)])
def test_losses_of_gaussians_are_exact_in_tiles_and_over_ranks(loss: str, engine: str, grid: Size, ranks: int) -> None:
    options = SHALLOW.replace(style_taps=f"relu1_1,relu2_1:0.5:{loss},conv3_1", style_loss=loss, edge_weight=2.0)
    check(whole(options, (131, 97), batch=2), cut(options, (131, 97), grid, ranks, engine=engine, batch=2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"style_loss": "sliced"}, "`style_loss` sliced: needs the whole picture in one piece"),
        ({"histogram_weight": 1.0}, "`histogram_weight`"),
        ({"content_loss": "self-similarity"}, "`content_loss` self-similarity"),
    ],
)
def test_losses_that_compare_positions_are_refused_in_tiles(changes: dict[str, object], words: str) -> None:
    options = SHALLOW.replace(**changes)
    with pytest.raises(UsageError, match=words) as caught:
        cut(options, (64, 64), (2, 1))
    assert "gram, moments and wasserstein" in caught.value.remedy
