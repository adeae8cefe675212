"""The hand-written gradient against autograd in float64, and Adam's update against PyTorch's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from soft_masks import pastiche_guides, style_guides

from nst_fast.network.weights import make_encoder
from nst_fast.objective.coefficients import coefficients
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.guides import EVERYWHERE, PLAIN, Guides
from nst_fast.objective.objective import Objective, Statistics, build_targets
from nst_fast.onnx.graph import winograd
from nst_fast.onnx.graph.rules import transposed_weight
from nst_fast.onnx.graph.step import (
    CPU_OPERATORS,
    OPERATORS,
    AdamConstants,
    StepGraph,
    build_step_graph,
    constant_feeds,
)
from nst_fast.options.config import ObjectiveOptions

SHALLOW = {"content_taps": "relu2_1", "style_taps": "relu1_1,conv2_1,pool2,relu2_1"}
TINY = {"content_taps": "relu1_2", "style_taps": "conv1_1,relu1_1"}
TOLERANCE = 1e-9

Size = tuple[int, int]
Arrays = dict[str, Any]


def problem(
    size: Size, guides: Guides = PLAIN, of_style: Guides = PLAIN, **changes: Any
) -> tuple[StepGraph, Statistics, torch.Tensor]:
    """The gradient graph for any size, targets and pastiche, all in float64."""
    options = ObjectiveOptions(**{"weights": "random:1", **SHALLOW, **changes})
    encoder, _ = make_encoder(options.weights, options.network, options.taps, **options.encoder_keywords)
    encoder.double()
    generator = torch.Generator().manual_seed(0)
    content, style, pastiche = (torch.rand(1, 3, *size, dtype=torch.float64, generator=generator) for _ in range(3))
    targets = build_targets(encoder, options, content, [style], None, [of_style])
    style_terms = Objective(options, targets, guides).style_terms
    return StepGraph(encoder, options, "fp64", guides=guides, style_terms=style_terms), targets, pastiche


class ConvTranspose(OpRun):  # type: ignore[misc]
    """In place of onnx's own, which takes the weights of the first channel for those of a whole group."""

    op_domain = ""

    def _run(self, x: Any, w: Any, bias: Any = None, **attributes: Any) -> tuple[Any]:
        groups, strides, pads = attributes["group"], attributes["strides"], attributes["pads"]
        assert pads[:2] == [0, 0]
        tensors = [None if array is None else torch.from_numpy(array.copy()) for array in (x, w, bias)]
        y = torch.nn.functional.conv_transpose2d(*tensors, stride=strides, groups=groups).numpy()
        return (y[:, :, : y.shape[2] - pads[2], : y.shape[3] - pads[3]],)


def evaluate(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model, new_ops=[ConvTranspose]).run(None, feeds), strict=True))


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


FORMS = ["any size", "one size", "for the CPU"]


def compare(size: Size, *, form: str = "any size", pastiche: torch.Tensor | None = None, **changes: Any) -> set[str]:
    """Losses and gradient of the graph are those of the eager engine; the graph's operators.

    ``changes``: the further arguments of :func:`problem`.
    """
    spec, targets, random_pastiche = problem(size, **changes)
    spec = dataclasses.replace(spec, size=None if form == "any size" else size, for_cpu=form == "for the CPU")
    pastiche = random_pastiche if pastiche is None else pastiche
    model = build_step_graph(spec)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) <= (OPERATORS | CPU_OPERATORS if spec.for_cpu else OPERATORS)
    actual = evaluate(model, {"pastiche": pastiche.numpy(), **constant_feeds(spec, targets, size)})
    objective = Objective(spec.options, targets, spec.guides)
    expected = EagerEvaluator(spec.encoder, objective)(pastiche)
    gradient = expected.gradient.numpy()
    np.testing.assert_allclose(actual["gradient"], gradient, rtol=0, atol=TOLERANCE * np.abs(gradient).max())
    assert list(expected.terms) == objective.term_names
    np.testing.assert_allclose(actual["losses"], torch.cat(list(expected.terms.values())).numpy(), rtol=TOLERANCE)
    np.testing.assert_allclose(actual["total"], expected.total.numpy(), rtol=TOLERANCE)
    return operators(model)


@pytest.mark.parametrize(("network", "pooling"), [("vgg16", "average"), ("vgg19", "max")])
@pytest.mark.parametrize("form", ["any size", "for the CPU"])
def test_the_gradient_through_the_whole_network_is_autograds(
    network: str, pooling: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "FEWEST_TILES", 1)
    deep = {"content_taps": "relu4_2", "style_taps": "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1"}
    found = compare((33, 38), form=form, network=network, pooling=pooling, tv_weight=0.5, chroma_tv_weight=2.0, **deep)
    assert ("ConvTranspose" in found) == (form == "for the CPU")


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (11, 13), (10, 14)])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_autograds_at_odd_sizes(pooling: str, size: Size, form: str) -> None:
    compare(size, form=form, pooling=pooling)


@pytest.mark.parametrize("padding", ["replicate", "reflect"])
@pytest.mark.parametrize("size", [(8, 11), (5, 4)])
def test_the_gradient_is_autograds_for_every_padding(padding: str, size: Size) -> None:
    compare(size, padding=padding, **TINY)


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("seamless", ["x", "y", "xy"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_autograds_where_sides_join(seamless: str, padding: str, form: str) -> None:
    compare((8, 12), form=form, seamless=seamless, padding=padding, tv_weight=0.5, chroma_tv_weight=2.0)


@pytest.mark.parametrize("normalization", ["relative", "mean", "half_sum", "size"])
def test_every_content_loss_is_exported(normalization: str) -> None:
    compare((6, 7), content_normalization=normalization, **TINY)


@pytest.mark.parametrize("gram", ["hw", "chw", "none"])
@pytest.mark.parametrize("style", ["relative", "mean", "sum", "gatys"])
def test_every_style_loss_is_exported(gram: str, style: str) -> None:
    compare((6, 7), gram_normalization=gram, style_normalization=style, **TINY)


@pytest.mark.parametrize("loss", ["moments", "wasserstein"])
@pytest.mark.parametrize("form", FORMS)
def test_losses_of_gaussians_are_exported(loss: str, form: str) -> None:
    taps = {"content_taps": "relu1_2", "style_taps": f"conv1_1,relu2_1:0.5,conv2_1:2:{loss}"}
    compare((20, 23), form=form, style_loss=loss, **taps)
    compare((12, 9), form=form, style_loss="gram", **taps)


@pytest.mark.parametrize("variation", [{"tv_weight": 2.0}, {"chroma_tv_weight": 3.0}])
def test_total_variation_pixels_as_they_are_and_weighted_taps_are_exported(variation: dict[str, float]) -> None:
    taps = {"content_taps": "relu1_1:0.3", "style_taps": "relu1_2:2,pool1"}
    compare((6, 7), input_normalization="none", **taps, **variation)


@pytest.mark.parametrize("seamless", ["none", "xy"])
@pytest.mark.parametrize("form", FORMS)
def test_edges_are_exported(seamless: str, form: str) -> None:
    compare((8, 12), form=form, edge_weight=3.0, chroma_tv_weight=0.0, seamless=seamless)
    compare((8, 12), form=form, edge_weight=3.0, tv_weight=2.0, seamless=seamless)


@pytest.mark.parametrize("loss", ["gram", "moments", "wasserstein"])
@pytest.mark.parametrize("form", FORMS)
def test_masks_and_regions_are_inputs_of_the_graph(loss: str, form: str) -> None:
    size = (19, 22)
    compare(size, form=form, guides=pastiche_guides(size), of_style=style_guides(size)[1], style_loss=loss)


@pytest.mark.parametrize(
    "normalizations", [("mean", "chw", "mean"), ("half_sum", "none", "sum"), ("size", "none", "gatys")]
)
def test_masks_weigh_every_normalisation(normalizations: tuple[str, str, str]) -> None:
    names = ("content_normalization", "gram_normalization", "style_normalization")
    guides = {"guides": pastiche_guides((6, 8)), "of_style": style_guides((6, 8))[1]}
    compare((6, 8), **guides, **dict(zip(names, normalizations, strict=True)), **TINY)


def test_a_region_without_a_cell_at_a_tap_and_one_that_is_everywhere_are_exported() -> None:
    """The corner lies in the margin that pooling leaves out; the alpha of a picture is a mask without a name."""
    corner = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    corner[..., 8:, 8:] = 1
    both = Guides(None, {"corner": corner, "whole": None}, {"corner": 2.0, "whole": 0.5})
    compare((9, 9), guides=both, of_style=Guides(None, {"corner": None, "whole": None}, {"corner": 1.0, "whole": 1.0}))
    compare((9, 9), guides=Guides(1 - corner, {EVERYWHERE: 1 - corner}))


@pytest.mark.parametrize("side", ["content", "style"])
def test_a_loss_may_be_absent(side: str) -> None:
    compare((6, 7), **{**TINY, f"{side}_weight": 0.0})


@pytest.mark.parametrize("form", FORMS)
def test_ties_of_the_maximum_go_to_the_first_cell_as_pytorch_has_it(form: str) -> None:
    flat = torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64)
    flat[:, :, 3:7, 2:9] = 0.9  # every window of a flat field is a tie, above 0 and at 0
    compare((12, 12), form=form, pastiche=flat, content_taps="relu2_1", style_taps="pool1")


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


@dataclasses.dataclass
class Step:
    """A step graph, its constant feeds, an evaluator of the same objective, and the pastiche."""

    adam: AdamConstants = dataclasses.field(default_factory=AdamConstants)
    precision: str = "fp64"

    def __post_init__(self) -> None:
        spec, targets, self.start = problem((6, 7), **TINY)
        self.model = build_step_graph(dataclasses.replace(spec, adam=self.adam, precision=self.precision))
        self.feeds = constant_feeds(spec, targets, (6, 7))
        self.eager = EagerEvaluator(spec.encoder, Objective(spec.options, targets))
        self.zero = np.zeros(self.start.shape)

    def scalars(self, step: int, rate: float) -> Arrays:
        corrections = (1 - self.adam.beta1**step, 1 - self.adam.beta2**step)
        names = ("learning_rate", "correction1", "correction2")
        return {name: np.array([value]) for name, value in zip(names, (rate, *corrections), strict=True)}

    def after(self, step: int, rate: float, *, flat: bool = False, **state: Any) -> Arrays:
        """The outputs for a state; ``flat``: all weights are 0, and so is the gradient."""
        zero = {name: np.zeros_like(array) for name, array in self.feeds.items() if flat and name.startswith("weight/")}
        defaults = {"pastiche": self.start.numpy(), "m": self.zero, "v": self.zero}
        return evaluate(self.model, {**self.feeds, **zero, **defaults, **state, **self.scalars(step, rate)})


def test_a_trajectory_of_twenty_steps_is_that_of_torch_optim_adam() -> None:
    step_graph = Step()
    adam, session = step_graph.adam, ReferenceEvaluator(step_graph.model)
    names = ["new_pastiche", "new_m", "new_v", "total"]
    state = {"pastiche": step_graph.start.numpy(), "m": step_graph.zero, "v": step_graph.zero}
    expected = step_graph.start.clone()
    optimizer = torch.optim.Adam([expected], lr=0.05, betas=(adam.beta1, adam.beta2), eps=adam.epsilon)
    for step in range(1, 21):
        evaluation = step_graph.eager(expected)
        *new, total = session.run(names, {**step_graph.feeds, **state, **step_graph.scalars(step, 0.05)})
        np.testing.assert_allclose(total, evaluation.total.numpy(), rtol=1e-7)
        state = dict(zip(state, new, strict=True))
        expected.grad = evaluation.gradient
        optimizer.step()
        expected.clamp_(0, 1)
    np.testing.assert_allclose(state["pastiche"], expected.numpy(), rtol=0, atol=1e-7)
    assert 0 == state["pastiche"].min() < state["pastiche"].max() == 1, "the clamp was not met"


def test_epsilon_is_still_in_the_graph_after_onnxruntimes_own_optimiser(tmp_path: Any) -> None:
    import onnxruntime

    model = Step(precision="fp32").model
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for graph in (model.graph, onnx.load(tmp_path / "optimised.onnx").graph):
        (epsilon,) = [tensor for tensor in graph.initializer if tensor.name == "epsilon"]
        np.testing.assert_allclose(onnx.numpy_helper.to_array(epsilon), [1e-8], rtol=1e-6)
        assert [node.op_type for node in graph.node if "epsilon" in node.input] == ["Add"]


def test_epsilon_counts_where_the_gradient_is_as_small() -> None:
    step = Step(AdamConstants(epsilon=1e-3))
    half, m = np.full(step.start.shape, 0.5), np.full(step.start.shape, 1e-3)
    moved = 0.5 - step.after(1, 0.01, flat=True, pastiche=half, m=m)["new_pastiche"]
    np.testing.assert_allclose(moved, 0.01 * 9e-4 / 0.1 / 1e-3, rtol=1e-6)


def test_pixels_of_zero_gradient_stay_where_they_are() -> None:
    step = Step()
    result = step.after(1, 0.1, flat=True)
    assert np.array_equal(result["new_pastiche"], step.start.numpy())
    assert not np.any(result["new_v"])


def test_both_moments_are_inputs_of_their_own() -> None:
    step = Step()
    base = step.after(2, 0.1)
    for name, other, beta in (("m", "v", step.adam.beta1), ("v", "m", step.adam.beta2)):
        moved = step.after(2, 0.1, **{name: np.ones(step.start.shape)})
        np.testing.assert_allclose(moved[f"new_{name}"] - base[f"new_{name}"], beta)
        assert np.array_equal(moved[f"new_{other}"], base[f"new_{other}"])


@pytest.mark.parametrize("opset", [18, 19, 20])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_opset_on_offer_passes_the_checker(opset: int, precision: str) -> None:
    spec, *_ = problem((6, 7), **TINY)
    model = build_step_graph(dataclasses.replace(spec, precision=precision, adam=AdamConstants()), opset)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset


def test_fp16_convolutions_have_statistics_losses_and_pixels_in_fp32() -> None:
    spec, *_ = problem((8, 8))
    spec = dataclasses.replace(spec, precision="fp16", adam=AdamConstants(), size=(8, 8))
    model = onnx.shape_inference.infer_shapes(build_step_graph(spec))
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    of = {kind: {node.op_type for node in model.graph.node if kinds[node.output[0]] == kind} for kind in kinds.values()}
    half, single = of[onnx.TensorProto.FLOAT16], of[onnx.TensorProto.FLOAT]
    assert {"Conv", "MaxPool", "Relu"} <= half
    assert {"MatMul", "ReduceSumSquare", "Sqrt", "Clip"} <= single - half


def test_a_file_does_not_depend_on_style_weights_or_normalisations() -> None:
    spec, *_ = problem((6, 7), **TINY)
    changed = spec.options.replace(style_weight=7.0, content_normalization="mean", style_normalization="gatys")
    other = dataclasses.replace(spec, options=changed)
    assert build_step_graph(spec).SerializeToString() == build_step_graph(other).SerializeToString()


def test_no_operator_of_a_graph_needs_the_size_on_the_host() -> None:
    spec, *_ = problem((6, 7), padding="reflect", tv_weight=1.0)
    found = operators(build_step_graph(dataclasses.replace(spec, adam=AdamConstants())))
    assert not found & {"Shape", "Size", "Gather", "MaxUnpool", "ConstantOfShape", "Expand"}
