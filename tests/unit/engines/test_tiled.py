"""Tiled evaluation against whole evaluation, in float64, on networks of the real depth and of few channels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow_networks import crop_network, few_channels, narrow, pictures

from nst_fast.distributed.group import SingleRank
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluation
from nst_fast.engines.crop_network import EagerNetwork
from nst_fast.engines.tiled import TiledEvaluator, halved, shared_grams, tiled_targets
from nst_fast.network.tiles import halo_of
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets, measure
from nst_fast.options.config import ObjectiveOptions

DEEP = ObjectiveOptions(tv_weight=0.5, chroma_tv_weight=2.0)


@pytest.fixture(scope="module", autouse=True)
def narrow_everywhere() -> Iterator[None]:
    with few_channels():
        yield


def both(
    options: ObjectiveOptions,
    size: tuple[int, int],
    grid: tuple[int, int],
    *,
    halo: int | None = None,
    batch: int = 1,
    engine: str = "eager",
) -> tuple[Evaluation, Evaluation]:
    """The same objective at the same picture: whole, and in tiles."""
    encoder = narrow(options)
    content, style, pastiche = pictures(*size, 3, batch)
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    strip = make_strip(SingleRank(), options.network, options.taps, *size, grid, halo=halo)
    tiled = TiledEvaluator(crop_network(engine, encoder), objective, strip)
    return EagerEvaluator(encoder, objective)(pastiche), tiled(pastiche)


def gap(whole: Evaluation, tiled: Evaluation) -> float:
    """The largest difference of gradients, relative to the largest gradient."""
    return ((whole.gradient - tiled.gradient).abs().max() / whole.gradient.abs().max()).item()


def check(whole: Evaluation, tiled: Evaluation) -> None:
    assert gap(whole, tiled) < 1e-10
    assert list(tiled.terms) == list(whole.terms)
    for name, term in whole.terms.items():
        torch.testing.assert_close(tiled.terms[name], term, rtol=1e-10, atol=1e-300)
    torch.testing.assert_close(tiled.total, whole.total, rtol=1e-10, atol=0)


@st.composite
def objectives(draw: st.DrawFn) -> ObjectiveOptions:
    network = draw(st.sampled_from(["vgg16", "vgg19"]))
    taps = ["conv1_1", "relu1_2", "pool1", "relu2_1", "conv3_2", "relu3_1", "relu4_2", "pool3", "conv4_1", "relu5_1"]
    chosen = st.lists(st.sampled_from(taps), min_size=1, max_size=3, unique=True)
    kinds = draw(st.sampled_from([(1.0, 100.0), (0.0, 100.0), (1.0, 0.0)]))
    return ObjectiveOptions(
        network=network,
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
        style_normalization=draw(st.sampled_from(["relative", "mean", "sum", "gatys"])),
    )


@settings(max_examples=60)
@given(
    st.sampled_from(["eager", "fast"]),
    objectives(),
    st.integers(40, 330),
    st.integers(40, 330),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_tiles_give_terms_and_gradient_of_the_whole(
    engine: str, options: ObjectiveOptions, height: int, width: int, rows: int, columns: int
) -> None:
    check(*both(options, (height, width), (rows, columns), engine=engine))


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_a_halo_one_cell_too_small_gives_another_gradient(network: str, pooling: str) -> None:
    options = DEEP.replace(network=network, pooling=pooling)
    halo = halo_of(network, options.taps)
    assert gap(*both(options, (331, 289), (2, 2))) < 1e-10
    assert gap(*both(options, (331, 289), (2, 2), halo=halo - 16)) > 1e-8


def test_there_is_no_seam() -> None:
    """The gradient next to the borders of tiles differs from the true one no more than anywhere else."""
    whole, tiled = both(DEEP, (320, 320), (2, 2))
    error = (whole.gradient - tiled.gradient).abs()[0].sum(0)
    at_seam = torch.cat([error[152:168].flatten(), error[:, 152:168].flatten()])
    assert at_seam.max() <= 1e-12 * whole.gradient.abs().max()


def test_a_batch_is_tiled_as_independent_problems() -> None:
    check(*both(DEEP, (97, 210), (1, 2), batch=2))


def test_targets_computed_in_tiles_are_the_targets() -> None:
    encoder = narrow(DEEP)
    content, _ = pictures(203, 171, 2)
    styles = [*pictures(333, 190, 1), *pictures(64, 90, 1)]
    whole = build_targets(encoder, DEEP, content, styles, [1.0, 3.0])

    def tiled(halve: bool) -> dict[str, torch.Tensor]:
        found = tiled_targets(
            EagerNetwork(encoder),
            DEEP,
            make_strip(SingleRank(), "vgg19", DEEP.taps, 203, 171, (2, 2)),
            content,
            styles,
            [1.0, 3.0],
            halve_content=halve,
        )
        for tap, gram in whole.grams.items():
            torch.testing.assert_close(found.grams[tap], gram, rtol=1e-10, atol=0)
        return dict(found.content)

    torch.testing.assert_close(tiled(False)["relu4_2"], whole.content["relu4_2"], rtol=1e-10, atol=0)
    assert tiled(True)["relu4_2"].dtype == torch.float16
    torch.testing.assert_close(tiled(True)["relu4_2"].double(), whole.content["relu4_2"], rtol=2**-11, atol=1e-6)


def test_halved_content_targets_move_the_content_term_by_less_than_a_millionth_of_the_target_energy() -> None:
    encoder = narrow(DEEP)
    content, style, pastiche = pictures(203, 171, 3)
    targets = build_targets(encoder, DEEP, content, [style])
    rounded = type(targets)({tap: halved(kept) for tap, kept in targets.content.items()}, targets.grams, {})
    strip = make_strip(SingleRank(), "vgg19", DEEP.taps, 203, 171, (2, 1))
    exact, near = (
        TiledEvaluator(EagerNetwork(encoder), Objective(DEEP, kept), strip)(image)
        for kept, image in ((targets, content), (rounded, content))
    )
    assert exact.terms["content/relu4_2"].item() < 1e-25
    assert 0 < near.terms["content/relu4_2"].item() < 1e-6
    exact, near = (
        TiledEvaluator(EagerNetwork(encoder), Objective(DEEP, kept), strip)(pastiche) for kept in (targets, rounded)
    )
    assert gap(exact, near) < 1e-3


def test_halving_saturates_instead_of_overflowing() -> None:
    assert halved(torch.tensor([1e9, -1e9, 0.5])).tolist() == [65504, -65504, 0.5]


def test_grams_of_low_precision_features_are_added_up_in_single_precision() -> None:
    class Half(EagerNetwork):
        def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {tap: found.bfloat16() for tap, found in super().features(image).items()}

    encoder = narrow(DEEP)
    (style,) = pictures(200, 180, 1)
    strip = make_strip(SingleRank(), "vgg19", DEEP.taps, 200, 180, (2, 2))
    found = shared_grams(Half(encoder), DEEP, strip, style)["relu1_1"]
    assert found.dtype == torch.float32
    expected = measure(encoder(style), (), ["relu1_1"]).grams["relu1_1"]
    torch.testing.assert_close(found.double(), expected, rtol=5e-3, atol=1e-6)


def test_the_engine_sees_no_more_than_one_crop_at_a_time() -> None:
    sizes: list[tuple[int, int]] = []

    class Watched(EagerNetwork):
        def features(self, image: torch.Tensor) -> object:  # type: ignore[override]
            sizes.append((image.shape[2], image.shape[3]))
            return super().features(image)

        def vjp(self, image: torch.Tensor) -> object:  # type: ignore[override]
            sizes.append((image.shape[2], image.shape[3]))
            return super().vjp(image)

    encoder = narrow(DEEP)
    content, style = pictures(500, 330, 2)
    objective = Objective(DEEP, build_targets(encoder, DEEP, content, [style]))
    strip = make_strip(SingleRank(), "vgg19", DEEP.taps, 500, 330, (3, 1))
    TiledEvaluator(Watched(encoder), objective, strip)(content)
    assert len(sizes) == 6
    assert max(height * width for height, width in sizes) == math.prod(strip.tiling.largest_crop) < 500 * 330


def test_nothing_of_a_step_stays_in_memory_but_its_answer() -> None:
    """A hook that held its own tensor would keep every activation until the garbage collector runs."""
    import gc

    encoder = narrow(DEEP)
    content, style = pictures(120, 120, 2)
    objective = Objective(DEEP, build_targets(encoder, DEEP, content, [style]))
    evaluate = TiledEvaluator(
        EagerNetwork(encoder), objective, make_strip(SingleRank(), "vgg19", DEEP.taps, 120, 120, (2, 1))
    )
    gc.collect()
    gc.disable()
    try:
        before = sum(type(item) is torch.Tensor for item in gc.get_objects())
        kept = evaluate(content)
        after = sum(type(item) is torch.Tensor for item in gc.get_objects())
    finally:
        gc.enable()
    assert after - before == 2 + 1 + len(kept.terms)  # total, gradient, and the terms, which are views of one tensor


def test_a_tile_of_fewer_rows_than_a_cell_of_the_deepest_tap_owns_none_and_is_exact_all_the_same() -> None:
    check(*both(DEEP, (95, 60), (6, 1)))
