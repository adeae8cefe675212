"""The hand-written gradient against autograd in float64, and Adam's update against PyTorch's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.coefficients import coefficients, tv_weights
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, Statistics, build_targets
from nst_fast.onnx.step.backward_rules import transposed_weight
from nst_fast.onnx.step.export import graph_for, network_weights, objective_feeds
from nst_fast.onnx.step.graph import build_step_graph
from nst_fast.onnx.step.spec import OPERATORS, AdamConstants
from nst_fast.options.config import ObjectiveOptions

SHALLOW = {"content_taps": "relu2_1", "style_taps": "relu1_1,conv2_1,pool2,relu2_1"}
TINY = {"content_taps": "relu1_2", "style_taps": "conv1_1,relu1_1"}
TOLERANCE = 1e-9

Size = tuple[int, int]


def problem(size: Size, seed: int = 0, **changes: Any) -> tuple[Encoder, ObjectiveOptions, Statistics, torch.Tensor]:
    """Encoder, options, targets and pastiche, all in float64."""
    options = ObjectiveOptions(**{"weights": "random:1", **SHALLOW, **changes})
    encoder, _ = make_encoder(
        options.weights,
        options.network,
        options.taps,
        pooling=options.pooling,
        padding=options.padding,
        normalize_input=options.input_normalization == "imagenet",
    )
    encoder.double()
    generator = torch.Generator().manual_seed(seed)
    content, style, pastiche = (torch.rand(1, 3, *size, dtype=torch.float64, generator=generator) for _ in range(3))
    return encoder, options, build_targets(encoder, options, content, [style]), pastiche


def evaluate(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, feeds), strict=True))


def compare(size: Size, *, static: bool = False, pastiche: torch.Tensor | None = None, **changes: Any) -> None:
    """Losses and gradient of the graph are those of the eager engine."""
    encoder, options, targets, random_pastiche = problem(size, **changes)
    pastiche = random_pastiche if pastiche is None else pastiche
    spec = graph_for(encoder, options, precision="fp64", size=size if static else None)
    model = build_step_graph(spec, network_weights(encoder), 18)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    actual = evaluate(model, {"pastiche": pastiche.numpy(), **objective_feeds(spec, options, targets, size)})
    expected = EagerEvaluator(encoder, Objective(options, targets))(pastiche)
    gradient = expected.gradient.numpy()
    np.testing.assert_allclose(actual["gradient"], gradient, rtol=0, atol=TOLERANCE * np.abs(gradient).max())
    assert spec.term_names == list(expected.terms)
    np.testing.assert_allclose(actual["losses"], torch.cat(list(expected.terms.values())).numpy(), rtol=TOLERANCE)
    np.testing.assert_allclose(actual["total"], expected.total.numpy(), rtol=TOLERANCE)


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_gradient_through_the_whole_network_is_autograds(network: str, pooling: str) -> None:
    deep = {"content_taps": "relu4_2", "style_taps": "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1"}
    compare((33, 38), network=network, pooling=pooling, tv_weight=0.5, chroma_tv_weight=2.0, **deep)


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (11, 13), (10, 14)])
@pytest.mark.parametrize("static", [True, False])
def test_the_gradient_is_autograds_at_odd_sizes(pooling: str, size: Size, static: bool) -> None:
    compare(size, static=static, pooling=pooling)


@pytest.mark.parametrize("padding", ["replicate", "reflect"])
@pytest.mark.parametrize("size", [(8, 11), (5, 4)])
def test_the_gradient_is_autograds_for_every_padding(padding: str, size: Size) -> None:
    compare(size, padding=padding, **TINY)


@pytest.mark.parametrize("normalization", ["relative", "mean", "half_sum", "size"])
def test_every_content_loss_is_exported(normalization: str) -> None:
    compare((6, 7), content_normalization=normalization, **TINY)


@pytest.mark.parametrize("gram", ["hw", "chw", "none"])
@pytest.mark.parametrize("style", ["relative", "mean", "sum", "gatys"])
def test_every_style_loss_is_exported(gram: str, style: str) -> None:
    compare((6, 7), gram_normalization=gram, style_normalization=style, **TINY)


@pytest.mark.parametrize("variation", [{"tv_weight": 2.0}, {"chroma_tv_weight": 3.0}])
def test_total_variation_pixels_as_they_are_and_weighted_taps_are_exported(variation: dict[str, float]) -> None:
    taps = {"content_taps": "relu1_1:0.3", "style_taps": "relu1_2:2,pool1"}
    compare((6, 7), input_normalization="none", **taps, **variation)


@pytest.mark.parametrize("side", ["content", "style"])
def test_a_loss_may_be_absent(side: str) -> None:
    compare((6, 7), **{**TINY, f"{side}_weight": 0.0})


def test_ties_of_the_maximum_go_to_the_first_cell_as_pytorch_has_it() -> None:
    flat = torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64)
    flat[:, :, 3:7, 2:9] = 0.9  # every window of a flat field is a tie, above 0 and at 0
    compare((12, 12), pastiche=flat, content_taps="relu2_1", style_taps="pool1", seed=5)


def test_an_all_dark_target_gives_no_division_by_zero() -> None:
    options = ObjectiveOptions(**TINY)
    for coefficient in coefficients(options).values():
        assert np.isfinite(np.float32(coefficient.value(4, np.zeros((1, 64, 2, 2)))))


def test_a_transposed_weight_is_the_adjoint_of_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x, dy = (torch.randn(s, dtype=torch.float64, generator=generator) for s in
                     ((4, 3, 3, 3), (1, 3, 5, 6), (1, 4, 5, 6)))  # fmt: skip
    back = torch.from_numpy(transposed_weight(weight.numpy()))
    forward = torch.nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close((forward * dy).sum(), (torch.nn.functional.conv2d(dy, back, padding=1) * x).sum())


def step_model(adam: AdamConstants | None = None, precision: str = "fp64") -> tuple[Any, dict[str, Any], Any, Any]:
    """A step graph, its constant feeds, an evaluator of the same objective, and the pastiche."""
    encoder, options, targets, pastiche = problem((6, 7), **TINY)
    spec = graph_for(encoder, options, precision=precision, adam=adam or AdamConstants())
    feeds = objective_feeds(spec, options, targets, (6, 7))
    model = build_step_graph(spec, network_weights(encoder), 18)
    return model, feeds, EagerEvaluator(encoder, Objective(options, targets)), pastiche


def scalars(step: int, rate: float, adam: AdamConstants) -> dict[str, Any]:
    values = {"learning_rate": rate, "correction1": 1 - adam.beta1**step, "correction2": 1 - adam.beta2**step}
    return {name: np.array([value]) for name, value in values.items()}


def test_a_trajectory_of_twenty_steps_is_that_of_torch_optim_adam() -> None:
    adam = AdamConstants()
    model, fixed, eager, start = step_model(adam)
    session = ReferenceEvaluator(model)
    names = ["new_pastiche", "new_m", "new_v", "total"]
    state = {"pastiche": start.numpy(), "m": np.zeros(start.shape), "v": np.zeros(start.shape)}
    expected = start.clone()
    optimizer = torch.optim.Adam([expected], lr=0.05, betas=(adam.beta1, adam.beta2), eps=adam.epsilon)
    for step in range(1, 21):
        evaluation = eager(expected)
        *new, total = session.run(names, {**fixed, **state, **scalars(step, 0.05, adam)})
        np.testing.assert_allclose(total, evaluation.total.numpy(), rtol=1e-7)
        state = dict(zip(state, new, strict=True))
        expected.grad = evaluation.gradient
        optimizer.step()
        expected.clamp_(0, 1)
    np.testing.assert_allclose(state["pastiche"], expected.numpy(), rtol=0, atol=1e-7)
    assert 0 == state["pastiche"].min() < state["pastiche"].max() == 1, "the clamp was not met"


def test_epsilon_is_still_in_the_graph_after_onnxruntimes_own_optimiser(tmp_path: Any) -> None:
    import onnxruntime

    model, *_ = step_model(precision="fp32")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for graph in (model.graph, onnx.load(tmp_path / "optimised.onnx").graph):
        (epsilon,) = [tensor for tensor in graph.initializer if tensor.name == "epsilon"]
        np.testing.assert_allclose(onnx.numpy_helper.to_array(epsilon), [1e-8], rtol=1e-6)
        assert [node.op_type for node in graph.node if "epsilon" in node.input] == ["Add"]


def test_epsilon_is_felt_where_the_gradient_is_as_small() -> None:
    model, fixed, _, start = step_model(AdamConstants(epsilon=1e-3), precision="fp64")
    zero = {name: np.zeros_like(value) if name.startswith("weight/") else value for name, value in fixed.items()}
    m, v = np.full(start.shape, 1e-3), np.zeros(start.shape)
    feeds = {**zero, "pastiche": np.full(start.shape, 0.5), "m": m, "v": v, **scalars(1, 0.01, AdamConstants())}
    moved = 0.5 - evaluate(model, feeds)["new_pastiche"]
    np.testing.assert_allclose(moved, 0.01 * 9e-4 / 0.1 / 1e-3, rtol=1e-6)


def test_pixels_of_zero_gradient_stay_where_they_are() -> None:
    model, fixed, _, start = step_model()
    zero = {name: np.zeros_like(value) if name.startswith("weight/") else value for name, value in fixed.items()}
    state = {"pastiche": start.numpy(), "m": np.zeros(start.shape), "v": np.zeros(start.shape)}
    result = evaluate(model, {**zero, **state, **scalars(1, 0.1, AdamConstants())})
    assert np.array_equal(result["new_pastiche"], start.numpy())
    assert not np.any(result["new_v"])


def test_both_moments_are_inputs_of_their_own() -> None:
    model, fixed, _, start = step_model()
    feeds = {**fixed, "pastiche": start.numpy(), **scalars(2, 0.1, AdamConstants())}
    zeros, ones = np.zeros(start.shape), np.ones(start.shape)
    base = evaluate(model, {**feeds, "m": zeros, "v": zeros})
    for name, beta in (("m", AdamConstants().beta1), ("v", AdamConstants().beta2)):
        moved = evaluate(model, {**feeds, "m": zeros, "v": zeros, name: ones})
        other = "v" if name == "m" else "m"
        np.testing.assert_allclose(moved[f"new_{name}"] - base[f"new_{name}"], beta)
        assert np.array_equal(moved[f"new_{other}"], base[f"new_{other}"])


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_every_opset_on_offer_passes_the_checker(opset: int) -> None:
    encoder, options, _, _ = problem((6, 7), **TINY)
    for precision in ("fp32", "fp16"):
        spec = graph_for(encoder, options, precision=precision, adam=AdamConstants())
        model = build_step_graph(spec, network_weights(encoder), opset)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset


def test_fp16_convolutions_have_statistics_losses_and_pixels_in_fp32() -> None:
    encoder, options, _, _ = problem((8, 8))
    spec = graph_for(encoder, options, precision="fp16", adam=AdamConstants(), size=(8, 8))
    model = onnx.shape_inference.infer_shapes(build_step_graph(spec, network_weights(encoder), 18))
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    of = {kind: {n.op_type for n in model.graph.node if kinds[n.output[0]] == number} for kind, number in
          (("fp16", onnx.TensorProto.FLOAT16), ("fp32", onnx.TensorProto.FLOAT))}  # fmt: skip
    assert {"Conv", "MaxPool", "Relu"} <= of["fp16"]
    assert {"MatMul", "ReduceSumSquare", "Sqrt", "Clip"} <= of["fp32"]
    assert not {"MatMul", "ReduceSumSquare", "Sqrt", "Clip"} & of["fp16"]


def test_a_file_does_not_depend_on_style_weights_or_normalisations() -> None:
    encoder, options, _, _ = problem((6, 7), **TINY)
    other = options.replace(style_weight=7.0, content_normalization="mean", style_normalization="gatys")
    first, second = (build_step_graph(graph_for(encoder, o), network_weights(encoder), 18) for o in (options, other))
    assert first.SerializeToString() == second.SerializeToString()


def test_no_operator_of_a_graph_needs_the_size_on_the_host() -> None:
    encoder, options, _, _ = problem((6, 7), padding="reflect", tv_weight=1.0)
    spec = dataclasses.replace(graph_for(encoder, options), adam=AdamConstants())
    operators = {node.op_type for node in build_step_graph(spec, network_weights(encoder), 18).graph.node}
    assert not operators & {"Shape", "Size", "Gather", "MaxUnpool", "ConstantOfShape", "Expand"}


def test_tv_weights_make_means_of_sums() -> None:
    assert tv_weights(5, 7) == (1 / (3 * 4 * 7), 1 / (3 * 5 * 6))
