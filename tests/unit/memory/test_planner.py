from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_fast.errors import OutOfMemoryError, UsageError
from nst_fast.memory import planner
from nst_fast.memory.footprint import MIB, kept_bytes, step_bytes, weight_bytes
from nst_fast.memory.grids import tiling_like
from nst_fast.memory.planner import MemoryTask, budget_of, largest_size, make_plan, predict
from nst_fast.network.tiles import make_tiling
from nst_fast.options.config import StylizeConfig
from nst_fast.options.values import Bytes

GIB = 2**30
DEFAULT = StylizeConfig()
MAX, AVERAGE = DEFAULT.replace(pooling="max"), DEFAULT.replace(pooling="average")


def task_of(
    height: int, width: int, config: StylizeConfig = DEFAULT, engine: str = "fast", precision: str = "fp32"
) -> MemoryTask:
    return MemoryTask(config, engine, precision, height, width, ((512, 512),))


@pytest.mark.parametrize(
    ("text", "expected"), [("4GiB", 4 * GIB), ("1500MB", 1_500_000_000), ("0.5 gib", GIB // 2), ("4096", 4096)]
)
def test_amounts_of_memory_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert Bytes.of(text) == expected


@pytest.mark.parametrize("text", ["4 GiBi", "many", "-1GiB", "", "0"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="`max_memory`"):
        StylizeConfig(max_memory=text)


def test_bytes_kept_between_the_passes_are_those_counted_in_pytorch() -> None:
    """1,532 bytes per pixel were counted in autograd's graph of VGG-19 to relu5_1, see docs/large-pictures.md."""
    assert kept_bytes(MAX, "eager", 4) == 1532
    assert kept_bytes(AVERAGE, "eager", 4) == 1532 - 240
    assert kept_bytes(MAX, "fast", 4) == 12 + 4 * 290
    assert kept_bytes(MAX, "fast", 2) == 12 + 2 * 290


def test_weights_are_counted_down_to_the_deepest_tap() -> None:
    assert weight_bytes("vgg19", ["conv1_1"]) == 4 * (27 * 64 + 64)
    assert weight_bytes("vgg19", ["relu5_1"]) == 4 * 12_944_960


@pytest.mark.parametrize("engine", ["eager", "fast"])
def test_a_step_takes_more_than_it_keeps_and_less_with_average_pooling_and_fewer_taps(engine: str) -> None:
    config = MAX.replace(content_taps="relu4_2", style_taps="relu1_1,relu2_1,relu5_1")
    step = step_bytes(config, engine, 4, tiled=True)
    assert step > kept_bytes(config, engine, 4)
    assert step > step_bytes(config, engine, 2, tiled=True)
    average = step_bytes(config.replace(pooling="average"), engine, 4, tiled=True)
    assert step > average if engine == "eager" else step == average  # the fast engine keeps no indices
    fewer = config.replace(content_weight=0.0, style_taps="relu2_1")
    assert step > step_bytes(fewer, engine, 4, tiled=True)


def test_a_picture_that_fits_is_computed_whole() -> None:
    plan = make_plan(task_of(512, 512), 8 * GIB)
    assert not plan.tiled
    assert plan.fits
    assert plan.lbfgs_history == DEFAULT.lbfgs_history
    assert not plan.halve_content


@settings(max_examples=40)
@given(st.integers(64, 6000), st.integers(64, 6000), st.floats(0.8, 30), st.sampled_from(["fast", "eager"]))
def test_a_plan_keeps_its_budget_or_says_what_would(height: int, width: int, gibibytes: float, engine: str) -> None:
    task, budget = task_of(height, width, engine=engine), round(gibibytes * GIB)
    try:
        plan = make_plan(task, budget)
    except OutOfMemoryError as error:
        assert "The largest that fits is `image_size`" in error.remedy
        size = largest_size(task, budget)
        assert size is not None
        scale = max(size) / max(height, width)  # the style images shrink alike
        styles = tuple((max(16, round(h * scale)), max(16, round(w * scale))) for h, w in task.styles)
        assert make_plan(replace(task_of(*size, engine=engine), styles=styles), budget).fits
        return
    assert plan.peak < plan.budget == budget
    whole = predict(task, make_tiling("vgg19", DEFAULT.taps, height, width, (1, 1)), budget, history=5, halve=False)
    assert plan.tiled == (not whole.fits or 64 * height * width >= 2**31)
    assert not plan.tiled or plan.parts["step"] < whole.parts["step"]


def test_what_fits_nowhere_is_refused_with_exit_code_7() -> None:
    with pytest.raises(OutOfMemoryError, match="16384x16384 needs at least") as caught:
        make_plan(task_of(16384, 16384), 2 * GIB)
    assert caught.value.exit_code == 7
    with pytest.raises(OutOfMemoryError, match="give `max_memory` more") as caught:
        make_plan(task_of(64, 64), 64 * MIB)
    assert "largest" not in caught.value.remedy


def test_content_targets_and_pairs_of_lbfgs_are_reduced_only_where_nothing_else_fits() -> None:
    lbfgs = StylizeConfig(optimizer="lbfgs", lbfgs_history=40)
    roomy = make_plan(task_of(4096, 4096, lbfgs), 100 * GIB)
    tight = make_plan(task_of(4096, 4096, lbfgs), 8 * GIB)
    assert (roomy.lbfgs_history, roomy.halve_content) == (40, False)
    assert 3 <= tight.lbfgs_history < 40
    adam = [make_plan(task_of(4096, 4096, StylizeConfig(optimizer="adam")), gib * GIB) for gib in (4, 20)]
    assert [plan.lbfgs_history for plan in adam] == [20, 20]


def test_lbfgs_keeps_fewer_pairs_before_a_picture_is_cut_into_tiles() -> None:
    whole = make_tiling("vgg19", DEFAULT.taps, 1024, 1024, (1, 1))
    budget = round(1.06 * predict(task_of(1024, 1024), whole, 0, history=5, halve=False).peak)
    assert not (plan := make_plan(task_of(1024, 1024), budget)).tiled
    assert plan.lbfgs_history == 5
    assert make_plan(task_of(1024, 1024), budget // 2).tiled


def test_the_remedy_for_lbfgs_names_adam_where_it_fits() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        make_plan(task_of(8192, 8192), 8 * GIB)
    assert "use `optimizer` adam, which fits" in caught.value.remedy


def test_no_tensor_of_a_plan_needs_64_bit_indices() -> None:
    plan = make_plan(task_of(8192, 8192), 1000 * GIB)
    assert plan.tiled
    assert 64 * plan.tiling.largest_crop[0] * plan.tiling.largest_crop[1] < 2**31


def test_the_tile_size_of_the_config_is_used() -> None:
    plan = make_plan(task_of(700, 900, StylizeConfig(tile_size=256)), 8 * GIB)
    assert plan.tiling.grid == (3, 4)


def test_other_pictures_are_cut_into_crops_about_as_large() -> None:
    tiling = make_tiling("vgg19", DEFAULT.taps, 2048, 1536, (3, 2))
    other = tiling_like(DEFAULT, tiling, 3000, 1000)
    ratio = (other.largest_crop[0] * other.largest_crop[1]) / (tiling.largest_crop[0] * tiling.largest_crop[1])
    assert 0.5 < ratio <= 1.05
    whole = make_tiling("vgg19", DEFAULT.taps, 640, 480, (1, 1))
    assert tiling_like(DEFAULT, whole, 3000, 1000).whole


def test_a_budget_is_never_more_than_the_device_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nst_fast.memory.planner.free_memory", lambda device: 10 * GIB)
    assert budget_of(StylizeConfig(max_memory="1GiB"), "cpu") == GIB
    assert budget_of(StylizeConfig(max_memory="100GiB"), "cpu") == budget_of(DEFAULT, "cpu") == 9 * GIB


def test_the_plan_is_one_line_and_plain_data() -> None:
    plan = make_plan(task_of(1536, 2048), 2 * GIB)
    assert str(plan).startswith(f"plan: 2048x1536 {plan.tiling.grid[0]}x{plan.tiling.grid[1]} tiles, crops up to")
    assert "\n" not in str(plan)
    facts = plan.as_dict()
    assert facts["grid"] == list(plan.tiling.grid)
    assert facts["peak_mib"] == round(plan.peak / MIB)


def test_winograd_costs_its_weights_and_is_left_where_they_would_be_much_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = StylizeConfig()
    tiling = make_tiling(config.network, config.taps, 192, 256, (1, 1))
    direct, winograd = (
        predict(MemoryTask(config, "fast", "fp32", 192, 256, winograd=used), tiling, 2**40, history=5, halve=False).peak
        for used in (False, True)
    )
    assert winograd - direct > 8 * weight_bytes(config.network, config.taps)
    monkeypatch.setattr(planner, "free_memory", lambda device: 2**40)
    assert planner.may_use_winograd(config, "cpu")
    assert not planner.may_use_winograd(config, "cuda")
    assert not planner.may_use_winograd(config.replace(convolution="direct"), "cpu")
    assert not planner.may_use_winograd(config.replace(precision="bf16"), "cpu")
    assert not planner.may_use_winograd(config.replace(max_memory="2GiB"), "cpu")


def test_a_session_on_a_cpu_has_the_weights_several_times_and_transformed_for_larger_pictures() -> None:
    config = StylizeConfig()
    weights = weight_bytes(config.network, config.taps)

    def network_bytes(engine: str, height: int, width: int, device: str) -> int:
        task = MemoryTask(config, engine, "fp32", height, width, device=device)
        tiling = make_tiling(config.network, config.taps, height, width, (1, 1))
        return predict(task, tiling, 2**40, history=5, halve=False).parts["network"]

    for height, width, copies in ((48, 64, 6), (384, 512, 6 + 8)):
        more = network_bytes("ort", height, width, "cpu") - network_bytes("eager", height, width, "cpu")
        assert more == copies * weights
        assert network_bytes("ort", height, width, "cuda:0") == network_bytes("eager", height, width, "cuda:0")
