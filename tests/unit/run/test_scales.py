"""Coarse to fine: which sizes, and how many steps at each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_fast.options.config import ScaleOptions, StylizeConfig
from nst_fast.run.scales import plan_scales, scale_fractions, seamless_size, share_of_work


def longest_sides(options: ScaleOptions, width: int, height: int) -> list[int]:
    return [max(scale.height, scale.width) for scale in plan_scales(options, 150, height, width)]


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (192, [192]),
        (256, [256]),
        (300, [300]),
        (384, [256, 384]),
        (512, [256, 512]),
        (724, [256, 431, 724]),
        (1024, [256, 512, 1024]),
    ],
)
def test_by_default_every_size_begins_at_256(side: int, sides: list[int]) -> None:
    assert longest_sides(StylizeConfig(), side, side * 3 // 4) == sides
    assert longest_sides(StylizeConfig(), side * 3 // 4, side) == sides


def test_a_number_of_scales_is_kept_to_down_to_the_smallest_size() -> None:
    assert longest_sides(ScaleOptions(scales=3), 512, 384) == [128, 256, 512]
    assert longest_sides(ScaleOptions(scales=5), 512, 384) == [128, 256, 512]
    assert longest_sides(ScaleOptions(scales=5, min_size=32), 512, 384) == [32, 64, 128, 256, 512]
    assert longest_sides(ScaleOptions(scales=1, min_size=32), 512, 384) == [512]


def test_twice_the_steps_at_every_coarser_scale() -> None:
    scales = plan_scales(ScaleOptions(scales=3, scale_steps_ratio=2), 70, 400, 300)
    assert [(scale.first, scale.steps) for scale in scales] == [(0, 40), (40, 20), (60, 10)]


@given(
    st.integers(1, 400),
    st.integers(16, 9000),
    st.integers(16, 9000),
    st.integers(0, 8),
    st.floats(1.1, 4),
    st.integers(16, 600),
    st.floats(0.05, 20),
)
def test_steps_add_up_sizes_grow_and_the_last_is_the_final_one(
    steps: int, height: int, width: int, count: int, factor: float, smallest: int, ratio: float
) -> None:
    options = ScaleOptions(scales=count, scale_factor=factor, min_size=smallest, scale_steps_ratio=ratio)
    scales = plan_scales(options, steps, height, width)
    assert sum(scale.steps for scale in scales) == steps
    assert all(scale.steps >= 1 for scale in scales)
    assert [scale.first for scale in scales] == [sum(s.steps for s in scales[:index]) for index in range(len(scales))]
    assert (scales[-1].height, scales[-1].width, scales[-1].fraction) == (height, width, 1)
    fractions = scale_fractions(options, max(height, width))
    assert fractions == sorted(fractions)
    assert share_of_work(scales, len(scales) - 1) == pytest.approx(1)


def test_sides_that_join_become_multiples_of_the_deepest_cell() -> None:
    assert seamless_size(StylizeConfig(), 341, 500) == (341, 500)
    assert seamless_size(StylizeConfig(seamless="x"), 341, 500) == (341, 496)
    assert seamless_size(StylizeConfig(seamless="xy"), 341, 16) == (336, 32)
    shallow = StylizeConfig(seamless="y", content_taps="relu1_1", style_taps="relu2_1")
    assert seamless_size(shallow, 341, 500) == (340, 500)
