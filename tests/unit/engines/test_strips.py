"""Strips of several ranks against the whole picture, in float64; the ranks are threads of this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow_networks import crop_network, few_channels, narrow, pictures
from thread_ranks import ThreadRanks, run_ranks

from nst_fast.distributed.strips import Halos, make_strip
from nst_fast.engines import Evaluation
from nst_fast.engines.crop_network import EagerNetwork
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.errors import UsageError
from nst_fast.network.tiles import halo_of, strip_rows
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import ObjectiveOptions
from nst_fast.run.layout import SharedPicture

DEEP = ObjectiveOptions(tv_weight=0.5, chroma_tv_weight=2.0)
SHALLOW = ObjectiveOptions(content_taps="relu2_2", style_taps="relu1_1,relu2_1", chroma_tv_weight=0.5)


@pytest.fixture(scope="module", autouse=True)
def narrow_everywhere() -> Iterator[None]:
    with few_channels():
        yield


def shared(
    options: ObjectiveOptions,
    size: tuple[int, int],
    ranks: int,
    *,
    style_size: tuple[int, int] = (50, 70),
    grid: tuple[int, int] = (1, 1),
    engine: str = "eager",
    halo: int | None = None,
) -> list[Evaluation]:
    """What every rank finds; the gradients are those of the whole picture, put together."""
    encoder = narrow(options)
    content, pastiche = pictures(*size, 2)
    (style,) = pictures(*style_size, 1)

    def work(me: ThreadRanks) -> Evaluation:
        strip = make_strip(me, options.network, options.taps, *size, grid, halo=halo)
        tiles = crop_network(engine, encoder)
        objective = Objective(options, tiled_targets(tiles, options, strip, content, [style]))
        found = TiledEvaluator(tiles, objective, strip)(strip.own(pastiche))
        return Evaluation(found.total, found.terms, strip.whole(found.gradient))

    return run_ranks(ranks, work)


def whole(options: ObjectiveOptions, size: tuple[int, int], style_size: tuple[int, int] = (50, 70)) -> Evaluation:
    encoder = narrow(options)
    content, pastiche = pictures(*size, 2)
    (style,) = pictures(*style_size, 1)
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    return EagerEvaluator(encoder, objective)(pastiche)


def gap(one: Evaluation, other: Evaluation) -> float:
    """The largest difference of gradients, relative to the largest gradient."""
    return ((one.gradient - other.gradient).abs().max() / one.gradient.abs().max()).item()


def check(one: Evaluation, ranks: list[Evaluation]) -> None:
    for found in ranks:
        assert gap(one, found) < 1e-10
        assert list(found.terms) == list(one.terms)
        for name, term in one.terms.items():
            torch.testing.assert_close(found.terms[name], term, rtol=1e-10, atol=1e-300)
        torch.testing.assert_close(found.total, one.total, rtol=1e-10, atol=0)
        assert torch.equal(found.total, ranks[0].total), "decisions need the same bits on every rank"


@st.composite
def objectives(draw: st.DrawFn) -> ObjectiveOptions:
    taps = ["conv1_1", "relu1_2", "pool1", "relu2_1", "conv3_2", "relu3_1", "relu4_2", "relu5_1"]
    chosen = st.lists(st.sampled_from(taps), min_size=1, max_size=3, unique=True)
    kinds = draw(st.sampled_from([(1.0, 100.0), (0.0, 100.0), (1.0, 0.0)]))
    return ObjectiveOptions(
        network=draw(st.sampled_from(["vgg16", "vgg19"])),
        pooling=draw(st.sampled_from(["max", "average"])),
        padding=draw(st.sampled_from(["zeros", "replicate", "reflect"])),
        content_taps=",".join(draw(chosen)),
        style_taps=",".join(draw(chosen)),
        content_weight=kinds[0],
        style_weight=kinds[1],
        tv_weight=draw(st.sampled_from([0.0, 0.5])),
        chroma_tv_weight=draw(st.sampled_from([0.0, 2.0])),
        content_normalization=draw(st.sampled_from(["relative", "mean", "half_sum", "size"])),
        gram_normalization=draw(st.sampled_from(["hw", "none"])),
        style_normalization=draw(st.sampled_from(["relative", "mean", "gatys"])),
    )


@settings(max_examples=30)
@given(
    st.sampled_from(["eager", "fast"]),
    objectives(),
    st.integers(48, 200),
    st.integers(40, 120),
    st.integers(1, 3),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(20, 90),
)
def test_strips_give_terms_and_gradient_of_the_whole(
    engine: str,
    options: ObjectiveOptions,
    height: int,
    width: int,
    ranks: int,
    grid: tuple[int, int],
    style_height: int,
) -> None:
    styles = (style_height, 64)
    found = shared(options, (height, width), ranks, grid=grid, engine=engine, style_size=styles)
    check(whole(options, (height, width), styles), found)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_a_halo_one_cell_too_small_gives_another_gradient(pooling: str) -> None:
    options = DEEP.replace(pooling=pooling)
    halo, size = halo_of("vgg19", options.taps), (331, 97)
    true = whole(options, size)
    assert max(gap(true, found) for found in shared(options, size, 2)) < 1e-10
    assert min(gap(true, found) for found in shared(options, size, 2, halo=halo - 16)) > 1e-8


def test_a_halo_may_reach_beyond_the_next_rank() -> None:
    size = (95, 60)  # six strips of 16 rows, and a halo of 80
    check(whole(DEEP, size), shared(DEEP, size, 6))


def test_more_ranks_than_strips_are_refused_with_the_largest_number() -> None:
    with pytest.raises(UsageError, match=r"95 rows cannot be shared among 7 ranks.*at most 6 can take part"):
        shared(DEEP, (95, 60), 7)


def test_a_style_image_too_small_to_be_shared_is_measured_by_those_who_have_a_part() -> None:
    check(whole(DEEP, (95, 60), (20, 30)), shared(DEEP, (95, 60), 4, style_size=(20, 30)))


def test_a_strip_in_one_piece_takes_one_forward_pass_and_in_tiles_two() -> None:
    calls: list[str] = []

    class Counted(EagerNetwork):
        def features(self, image: torch.Tensor) -> object:  # type: ignore[override]
            calls.append("features")
            return super().features(image)

        def vjp(self, image: torch.Tensor) -> object:  # type: ignore[override]
            calls.append("vjp")
            return super().vjp(image)

    encoder = narrow(SHALLOW)
    content, style, pastiche = pictures(64, 48, 3)

    def work(grid: tuple[int, int]) -> list[str]:
        def one(me: ThreadRanks) -> None:
            strip = make_strip(me, "vgg19", SHALLOW.taps, 64, 48, grid)
            tiles = Counted(encoder)
            objective = Objective(SHALLOW, tiled_targets(tiles, SHALLOW, strip, content, [style]))
            evaluate = TiledEvaluator(tiles, objective, strip)
            calls.clear()
            evaluate(strip.own(pastiche))

        run_ranks(1, one)
        return list(calls)

    assert work((1, 1)) == ["vjp"]
    assert work((2, 1)) == ["features", "features", "vjp", "vjp"]


@pytest.mark.parametrize(("height", "count"), [(50, 3), (64, 2), (97, 5)])
def test_what_is_given_back_to_every_row_is_what_its_viewers_saw_of_it(height: int, count: int) -> None:
    """The sum over ranks of <seen rows, contributions> is <own rows, what came back>: fetch and give_back are twins."""
    rows = strip_rows("vgg19", SHALLOW.taps, height, count)
    (picture,) = pictures(height, 7, 1)

    def work(me: ThreadRanks) -> tuple[float, float, bool]:
        halos, mine = Halos(me, rows), rows[me.rank]
        own = picture[:, :, mine.start : mine.stop]
        around = halos.fetch(own)
        said = torch.rand(around.shape, dtype=around.dtype, generator=torch.Generator().manual_seed(me.rank))
        exact = torch.equal(around, picture[:, :, mine.low : mine.high])
        return (around * said).sum().item(), (own * halos.give_back(said)).sum().item(), exact

    found = run_ranks(count, work)
    assert all(exact for _, _, exact in found)
    assert sum(seen for seen, _, _ in found) == pytest.approx(sum(back for _, back, _ in found), rel=1e-12)


def test_a_rank_that_is_asked_to_stop_stops_all_and_time_is_that_of_the_slowest() -> None:
    def work(me: ThreadRanks) -> tuple[bool, bool, float, float]:
        layout = SharedPicture(me)
        return layout.stop(False), layout.stop(me.rank == 1), layout.clock(), layout.clock()

    found = run_ranks(3, work)
    assert len(set(found)) == 1
    before, after, now, later = found[0]
    assert (before, after) == (False, True)
    assert now == later > 0
