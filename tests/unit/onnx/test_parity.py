"""Exported graphs give PyTorch's numbers; what does not is caught, whatever kind of wrong it is."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nst_fast.errors import DeviceError, VerificationError
from nst_fast.network.taps import cut
from nst_fast.network.vgg import Encoder
from nst_fast.onnx.checked_export import encoder_for
from nst_fast.onnx.export import build_graph
from nst_fast.onnx.parity import SIZES, TOLERANCE, ParityRow, check_parity, parity_row, probe_picture
from nst_fast.onnx.session import probe_provider
from nst_fast.options.config import ExportConfig

CONV, RELU, POOL = ("conv3_1", "relu3_1", "pool3")  # a tap of each kind, behind two pools
SMALL = {"content_taps": "relu2_1", "style_taps": "relu1_1"}

Export = tuple[Encoder, ExportConfig, bytes]  # the first arguments of check_parity


def build(**options: object) -> Export:
    config = ExportConfig(**{"weights": "random", **options})
    encoder, weights_sha256 = encoder_for(config)
    return encoder, config, build_graph(encoder, config, weights_sha256).model


@pytest.fixture(scope="module")
def small() -> Export:
    return build(**SMALL)


@pytest.mark.parametrize(("network", "pooling"), [("vgg16", "average"), ("vgg19", "max")])
def test_every_tap_down_to_relu5_1_agrees_at_three_sizes(network: str, pooling: str) -> None:
    taps = cut(network, ["relu5_1"])
    rows = check_parity(*build(network=network, pooling=pooling, graph="encoder", style_taps=",".join(taps)), "cpu")
    assert {(row.tap, row.size) for row in rows} == {(tap, size) for tap in taps for size in SIZES}
    assert any(height % 2 and width % 2 for height, width in SIZES)
    assert max(row.relative_err for row in rows) < TOLERANCE


def test_every_tap_of_the_original_network_agrees_at_full_depth() -> None:
    """Real weights, whose activations reach ten thousand and half of which are zero."""
    taps = cut("vgg19", ["pool5"])
    export = build(weights="original", graph="encoder", style_taps=",".join(taps))
    rows = check_parity(*export, "cpu", sizes=[(33, 47), (64, 80)])
    assert {row.tap for row in rows} == set(taps)
    assert max(row.rms_relative_err for row in rows) < TOLERANCE


@pytest.mark.parametrize(("padding", "normalization"), [("replicate", "imagenet"), ("reflect", "none")])
def test_objective_graph_agrees_with_every_padding(padding: str, normalization: str) -> None:
    options = {"content_taps": CONV, "style_taps": f"{RELU},{POOL}", "input_normalization": normalization}
    rows = check_parity(*build(**options, padding=padding), "cpu", sizes=[(21, 34)])
    assert [row.tap for row in rows] == [f"content/{CONV}", f"gram/{RELU}", f"gram/{POOL}"]


def test_smallest_picture_that_a_tap_has_a_cell_for_agrees() -> None:
    assert len(check_parity(*build(content_taps="pool3", style_taps="pool3"), "cpu", sizes=[(8, 8), (9, 15)])) == 4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_step_graph_agrees_in_losses_gradient_and_update(precision: str) -> None:
    rows = check_parity(*build(graph="step", precision=precision, **SMALL), "cpu", sizes=[(21, 34)])
    assert [row.tap for row in rows] == ["losses", "total", "gradient", "new_pastiche", "new_m", "new_v"]
    assert max(row.rms_relative_err for row in rows if row.tap.startswith("new_")) < 1e-5


def perturbed(model: bytes, *, factor: float) -> bytes:
    """The model with one filter of conv1_1 changed."""
    broken = onnx.load_from_string(model)
    (weight,) = (item for item in broken.graph.initializer if item.name.endswith(("conv1_1.weight", "conv1_1/weight")))
    values = numpy_helper.to_array(weight).copy()
    values[0] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return bytes(broken.SerializeToString())


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_changed_weight_is_caught_and_the_worst_tap_named(small: Export, factor: float) -> None:
    encoder, options, model = small
    with pytest.raises(VerificationError, match=r"worst are .* at 48x64") as caught:
        check_parity(encoder, options, perturbed(model, factor=factor), "cpu", sizes=[(64, 48)])
    assert caught.value.exit_code == 9
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("graph", ["gradient", "step"])
@pytest.mark.parametrize("factor", [5.0, math.nan])
def test_a_changed_weight_is_caught_in_the_gradient(graph: str, factor: float) -> None:
    encoder, options, model = build(graph=graph, **SMALL)
    with pytest.raises(VerificationError, match="gradient at 48x64"):
        check_parity(encoder, options, perturbed(model, factor=factor), "cpu", sizes=[(64, 48)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": "average"}, r"1 of 2 outputs .* content/relu2_1"),
        ({"style_weight": 0}, "gram/relu1_1 is missing"),
    ],
)
def test_another_graph_is_caught(small: Export, change: dict[str, object], words: str) -> None:
    encoder, options, _ = small
    with pytest.raises(VerificationError, match=words):
        check_parity(encoder, options, build(**SMALL, **change)[2], "cpu", sizes=[(16, 16)])


def test_a_provider_that_does_not_work_is_no_parity(small: Export) -> None:
    if probe_provider("cuda").works:
        pytest.skip("CUDA works here")
    with pytest.raises(DeviceError, match="cuda"):
        check_parity(*small, "cuda", sizes=[(16, 16)])


@pytest.mark.gpu
def test_cuda_agrees_in_full_fp32() -> None:
    if not probe_provider("cuda").works:
        pytest.skip("no CUDA provider")
    assert {row.provider for row in check_parity(*build(), "cuda")} == {"cuda"}


def row_of(actual: list[float], expected: list[float]) -> ParityRow:
    return parity_row("t", (1, 1), "cpu", np.float32(actual), np.float32(expected))


def test_relative_error_is_against_the_largest_value() -> None:
    row = row_of([1.0, 4.5], [1.0, 4.0])
    assert (row.max_abs_err, row.mean_abs_err, row.relative_err) == (0.5, 0.25, 0.125)
    assert row.rms_relative_err == pytest.approx(math.sqrt(0.25 / 17))


def test_a_wide_error_is_not_hidden_by_one_large_value() -> None:
    expected = [1000.0] + [1.0] * 10**6
    row = row_of([1000.0] + [1.05] * 10**6, expected)
    assert row.relative_err < 1e-4 < row.worst_err


def test_zeros_agree_with_zeros_and_with_nothing_else() -> None:
    assert row_of([0.0], [0.0]).worst_err == 0
    assert row_of([1e-9], [0.0]).worst_err == math.inf
    assert row_of([math.nan], [1.0]).worst_err == math.inf


def test_probe_picture_is_always_the_same_and_a_picture() -> None:
    picture = probe_picture((33, 47))
    assert picture.shape == (1, 3, 33, 47)
    assert picture.equal(probe_picture((33, 47)))
    assert picture.min() >= 0 and picture.max() <= 1
