"""Winograd's algorithm against direct convolutions: by itself, in the fast engine, in tiles; and when it is chosen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import choice, pooling_kernels, trial
from nst_fast.engines.checked_kernels import compare_pooling
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.tiled import TiledEvaluator
from nst_fast.engines.winograd import LEAST_TILES, Winograd, convolve, transformed_weight
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import DeviceOptions, ObjectiveOptions
from nst_fast.run.scales import Scale, is_long

CPU = torch.device("cpu")
OPTIONS = ObjectiveOptions(content_taps="relu3_1", style_taps="conv1_2,relu1_1,relu2_2,relu3_2", tv_weight=1.0)
LAYERS = ("conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2")


def features(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return numbers.contiguous(memory_format=torch.channels_last)


@given(
    size=st.tuples(st.integers(1, 2), st.sampled_from([3, 64, 256]), st.integers(3, 21), st.integers(3, 21)),
    outputs=st.sampled_from([5, 64, 128]),
    margin=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_a_convolution_is_pytorchs(size: tuple[int, int, int, int], outputs: int, margin: int, seed: int) -> None:
    x, weight, bias = features(*size, seed=seed), features(outputs, size[1], 3, 3, seed=1), features(outputs, 1, 1, 1)
    bias = bias.flatten()
    expected = functional.conv2d(x, weight, bias, padding=margin)
    scale = float(expected.abs().max())
    plain = convolve(x, transformed_weight(weight), margin=margin, bias=bias)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-13 * scale)
    rectified = convolve(x, transformed_weight(weight), margin=margin, bias=bias, rectify=True)
    torch.testing.assert_close(rectified, expected.relu(), rtol=0, atol=1e-13 * scale)
    mask = features(*expected.shape, seed=seed + 1).relu()
    masked = convolve(x, transformed_weight(weight), margin=margin, where=mask)
    expected = functional.conv2d(x, weight, padding=margin) * (mask > 0)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("channels", [64, 128, 512])
def test_the_error_in_float32_is_within_the_written_tolerance(channels: int) -> None:
    x, weight = features(1, channels, 30, 23), features(64, channels, 3, 3, seed=1)
    expected = functional.conv2d(x, weight, padding=1)
    found = convolve(x.float(), transformed_weight(weight.float()))
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_the_number_of_threads_changes_no_bit() -> None:
    """Nor what PyTorch uses itself."""
    x, weight = features(1, 64, 50, 41, dtype=torch.float32), transformed_weight(features(64, 64, 3, 3).float())
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(convolve(x, weight))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("size", [(1, 64, 7, 10), (2, 128, 8, 9), (1, 64, 2, 2), (1, 64, 33, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_goes_back_as_pytorchs(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """With equal maxima too: half of the numbers are 0."""
    compare_pooling(pooling_kernels, features(*size, dtype=dtype).relu())


def problem(size: tuple[int, int], dtype: torch.dtype) -> tuple[Encoder, Objective, Tensor]:
    encoder, _ = make_encoder(
        "random:0", "vgg19", OPTIONS.taps, pooling="max", padding="replicate", normalize_input=True
    )
    generator = torch.Generator().manual_seed(5)
    content, style, image = torch.rand((3, 2, 3, *size), dtype=torch.float64, generator=generator).to(dtype)
    encoder = encoder.to(dtype)
    return encoder, Objective(OPTIONS, build_targets(encoder, OPTIONS, content, [style])), image


@pytest.mark.parametrize("size", [(37, 50), (16, 21)])
def test_the_fast_engine_with_winograd_is_the_eager_one(size: tuple[int, int]) -> None:
    """On odd sizes, where the deeper layers have too few tiles and are convolved directly."""
    encoder, objective, image = problem(size, torch.float64)
    expected = EagerEvaluator(encoder, objective)(image)
    evaluate = FastEvaluator(encoder, objective, torch.float64, winograd=LAYERS)
    assert evaluate.network.masked == {"relu1_2", "relu2_1"}
    actual = evaluate(image)
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(actual.total, expected.total, rtol=1e-10, atol=0)


def test_tiles_with_winograd_are_the_whole_picture() -> None:
    encoder, objective, image = problem((66, 75), torch.float64)
    strip = make_strip(Ranks(), "vgg19", OPTIONS.taps, 66, 75, (2, 2))
    expected = EagerEvaluator(encoder, objective)(image)
    actual = TiledEvaluator(FastNetwork(encoder, torch.float64, winograd=LAYERS), objective, strip)(image)
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=1e-8, atol=1e-13)


def test_small_features_are_convolved_directly() -> None:
    weight, bias = features(8, 3, 3, 3), features(8, 1, 1, 1).flatten()
    winograd = Winograd(weight, weight.transpose(0, 1), bias)
    assert winograd.serves(features(1, 3, 4, 4 * LEAST_TILES))
    assert not winograd.serves(features(1, 3, 4, 4 * LEAST_TILES - 4))


def times(**milliseconds: tuple[float, float]) -> Any:
    return lambda encoder, note: milliseconds


@pytest.mark.parametrize(
    ("convolution", "long", "expected"),
    [
        ("auto", True, ("conv2_1",)),
        ("auto", False, ()),
        ("winograd", False, ("conv2_1",)),
        ("direct", True, ()),
    ],
)
def test_layers_are_chosen_by_a_trial_in_runs_that_are_long(
    convolution: str, long: bool, expected: tuple[str, ...], shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "winograd_trial", times(conv1_2=(1.0, 0.95), conv2_1=(2.0, 1.0)))
    options = DeviceOptions(convolution=convolution, precision="fp32")
    found = choice.choose(options, shallow_encoder, CPU, long=long)
    assert found.winograd == expected
    assert found.convolution == ("winograd" if expected else "direct")
    assert ("Winograd" in str(found)) == bool(expected)


def test_a_narrower_precision_that_is_faster_still_is_convolved_directly(
    shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "winograd_trial", times(conv2_1=(2.0, 1.0)))
    monkeypatch.setattr(choice, "usable_precisions", lambda device: ["fp32", "bf16"])
    for bf16, layers in ((3.0, ()), (9.0, ("conv2_1",))):
        monkeypatch.setattr(choice, "precision_trial", lambda *facts, bf16=bf16: {"fp32": 8.0, "bf16": bf16})
        assert choice.choose(DeviceOptions(), shallow_encoder, CPU).winograd == layers


def test_a_real_trial_times_every_kind_of_layer_once_per_machine(
    shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(trial, "WINOGRAD_SIDE", 16)
    said: list[str] = []
    first = trial.winograd_trial(shallow_encoder, said.append)
    assert list(first) == ["conv1_2", "conv2_1"]
    assert all(time > 0 for pair in first.values() for time in pair)
    assert trial.winograd_trial(shallow_encoder, said.append) == first
    assert said == [trial.NOTE]
    (note,) = (tmp_path / "trials").iterdir()
    note.write_text("{}")
    assert trial.winograd_trial(shallow_encoder, said.append) != first


def test_without_numba_there_is_no_trial(shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert trial.winograd_trial(shallow_encoder, choice.silent) == {}


def test_a_run_is_long_by_its_pixels_times_steps() -> None:
    scale = Scale(0, 100, 100, 1.0, 0, 49)
    assert not is_long([scale], 1, CPU, 0)
    assert is_long([scale], 2, CPU, 0)
    assert is_long([scale], 2, CPU, 60)
    assert not is_long([scale], 2, CPU, 3)
    assert not is_long([scale], 2, torch.device("cuda"), 0)
