from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nst_fast.engines import choice, make_evaluator, trial
from nst_fast.engines.choice import fastest
from nst_fast.engines.cuda_graph import GraphedEvaluator
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import PAD_BACKWARD, folded
from nst_fast.engines.precision import DTYPES, usable_precisions
from nst_fast.errors import DeviceError, UsageError
from nst_fast.images import from_uint8
from nst_fast.images.matching import matched_colors
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import DeviceOptions, ObjectiveOptions, StylizeConfig
from nst_fast.options.style import STYLE_LOSSES

OPTIONS = ObjectiveOptions(
    content_taps="relu2_1", style_taps="conv1_2,relu1_1,relu2_1,pool1", tv_weight=1.0, chroma_tv_weight=3.0
)


SHALLOW = ObjectiveOptions(content_taps="relu2_1", style_taps="relu1_1,relu2_1")
CPU = torch.device("cpu")


def objective_of(encoder: Encoder, options: ObjectiveOptions, content: Tensor, style: Tensor) -> Objective:
    return Objective(options, build_targets(encoder, options, content, [style]))


@pytest.fixture
def shallow(shallow_encoder: Encoder, picture: Tensor) -> tuple[Encoder, Objective, Tensor]:
    """A quick problem: encoder, objective and a start."""
    return shallow_encoder, objective_of(shallow_encoder, SHALLOW, picture, picture.flip(3) ** 2), picture**2


@pytest.fixture(scope="module")
def double_encoder() -> Encoder:
    encoder, _ = make_encoder(
        "random:1", "vgg16", OPTIONS.taps, pooling="max", padding="replicate", normalize_input=True
    )
    return encoder.double()


def test_the_gradient_is_that_of_finite_differences(double_encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(3)
    content, style, image = (torch.rand(1, 3, 9, 11, dtype=torch.float64, generator=generator) for _ in range(3))
    objective = objective_of(double_encoder, OPTIONS, content, style)
    evaluate = EagerEvaluator(double_encoder, objective)
    evaluation = evaluate(image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=generator)
    step = 1e-6
    difference = (evaluate(image + step * direction).total - evaluate(image - step * direction).total) / (2 * step)
    expected = (evaluation.gradient * direction).sum()
    torch.testing.assert_close(difference.sum(), expected, rtol=1e-5, atol=0)


def test_terms_add_up_and_nothing_carries_a_graph(shallow: tuple[Encoder, Objective, Tensor]) -> None:
    encoder, objective, start = shallow
    evaluation = EagerEvaluator(encoder, objective)(start)
    torch.testing.assert_close(evaluation.total, torch.stack(list(evaluation.terms.values())).sum(0))
    assert list(evaluation.terms) == objective.term_names
    assert not evaluation.total.requires_grad
    assert evaluation.gradient.shape == start.shape


def test_no_gradient_is_computed_for_the_network(shallow_encoder: Encoder) -> None:
    assert not any(parameter.requires_grad for parameter in shallow_encoder.parameters())


TAPS = {"content_taps": "relu3_2,conv2_1", "style_taps": "conv1_2,relu1_2,pool1,relu3_1"}


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize(("padding", "size"), [("zeros", (37, 50)), ("replicate", (32, 33)), ("reflect", (21, 16))])
def test_the_fast_engine_is_the_eager_one_written_out(
    network: str, pooling: str, padding: str, size: tuple[int, int]
) -> None:
    """In float64, where rounding flips no ReLU or maximum, on odd sizes, with conv, relu and pool taps."""
    options = ObjectiveOptions(
        network=network, pooling=pooling, padding=padding, tv_weight=2.0, chroma_tv_weight=5.0, **TAPS
    )
    encoder, _ = make_encoder(
        "random:0", network, options.taps, pooling=pooling, padding=padding, normalize_input=padding != "reflect"
    )
    generator = torch.Generator().manual_seed(5)
    content, style, image = (torch.rand(2, 3, *size, dtype=torch.float64, generator=generator) for _ in range(3))
    objective = objective_of(encoder.double(), options, content, style)
    expected = EagerEvaluator(encoder, objective)(image)
    actual = FastEvaluator(encoder, objective, torch.float64)(image)
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=1e-9, atol=1e-13)
    assert list(actual.terms) == list(expected.terms)
    torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-11, atol=0)


LOSSES: list[dict[str, Any]] = [
    *({"style_loss": loss} for loss in STYLE_LOSSES if loss != "gram"),
    {"style_taps": "relu1_2:1:sliced,conv1_2:0.5,pool1:2:moments,relu3_1:1:remd,relu1_1:3:nearest"},
    {"style_loss": "wasserstein", "histogram_weight": 0.3, "content_loss": "self-similarity", "edge_weight": 2.0},
    {"content_taps": "relu3_2:2:self-similarity,conv2_1", "style_weight": 0.0},
]


@pytest.mark.parametrize("changes", LOSSES)
def test_every_loss_of_the_fast_engine_is_eagers(changes: dict[str, Any]) -> None:
    options = ObjectiveOptions(**{**TAPS, **changes})
    encoder, _ = make_encoder("random:0", "vgg19", options.taps, pooling="max", padding="reflect", normalize_input=True)
    generator = torch.Generator().manual_seed(5)
    content, style, image = (torch.rand(2, 3, 41, 38, dtype=torch.float64, generator=generator) for _ in range(3))
    other = torch.rand(1, 3, 60, 33, dtype=torch.float64, generator=generator).expand(2, -1, -1, -1)
    targets = build_targets(encoder.double(), options, content, [style, other], [1.0, 2.0])
    objective = Objective(options, targets)
    expected = EagerEvaluator(encoder, objective)(image)
    actual = FastEvaluator(encoder, objective, torch.float64)(image)
    assert list(actual.terms) == list(expected.terms)
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=1e-9, atol=1e-9 * expected.gradient.abs().max())
    torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-9, atol=0)


class StaysOnDevice(TorchDispatchMode):
    """Fails at an operator that copies between host and device, which ends the capture of a CUDA graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor) and each.dim()]
        assert len({each.device for each in tensors}) <= 1, func
        return found


@pytest.mark.parametrize("changes", LOSSES)
def test_no_evaluation_after_the_first_copies_between_host_and_device(changes: dict[str, Any]) -> None:
    """Meta tensors stand for a GPU's: they have shapes and a device, and no numbers."""
    options = ObjectiveOptions(**{**TAPS, **changes}, tv_weight=1.0)
    encoder, _ = make_encoder("random:0", "vgg19", options.taps)
    content, style, image = (torch.empty(1, 3, 48, 40, device="meta") for _ in range(3))
    evaluate = FastEvaluator(encoder, objective_of(encoder.to("meta"), options, content, style))
    evaluate(image)
    with StaysOnDevice():
        assert evaluate(image).gradient.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [*LOSSES, {"style_loss": "sliced", "sliced_directions": "new"}])
def test_every_loss_captured_on_a_gpu_is_eagers(cuda: torch.device, changes: dict[str, Any]) -> None:
    options = ObjectiveOptions(**{**TAPS, **changes}, tv_weight=1.0)
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand(3, 1, 3, 41, 38, dtype=torch.float64, generator=generator)

    def problem(device: torch.device) -> tuple[Encoder, Objective, Tensor]:
        encoder, _ = make_encoder("random:0", "vgg19", options.taps)
        content, style, image = pictures.to(device)
        encoder.to(device, torch.float64)
        return encoder, objective_of(encoder, options, content, style), image

    encoder, objective, image = problem(CPU)
    eager = EagerEvaluator(encoder, objective)
    encoder, on_gpu, image_on_gpu = problem(cuda)
    captured = GraphedEvaluator(FastEvaluator(encoder, on_gpu, torch.float64, kernels=False))  # they have 32 bits
    for step in range(2):
        for each in (objective, on_gpu):
            each.begin_step(3, step)
        expected, actual = eager(image), captured(image_on_gpu)
        slope = expected.gradient
        torch.testing.assert_close(actual.gradient.cpu(), slope, rtol=1e-8, atol=1e-8 * slope.abs().max())
        for name, term in expected.terms.items():
            torch.testing.assert_close(actual.terms[name].cpu(), term, rtol=1e-8, atol=0)


@pytest.mark.parametrize("changes", LOSSES)
def test_the_gradient_of_every_loss_is_that_of_finite_differences(
    changes: dict[str, Any], double_encoder: Encoder
) -> None:
    taps = {"content_taps": "relu2_1", "style_taps": "relu1_1,pool1"}
    if "style_taps" in changes:
        taps["style_taps"] = "conv1_2:1:sliced,relu1_1:2:remd,pool1:1:nearest"
    losses = {name: value for name, value in changes.items() if not name.endswith("_taps")}
    options = ObjectiveOptions(network="vgg16", padding="replicate", **taps, **losses)
    generator = torch.Generator().manual_seed(3)
    content, style, image = (torch.rand(1, 3, 19, 21, dtype=torch.float64, generator=generator) for _ in range(3))
    encoder, _ = make_encoder(
        "random:1", "vgg16", options.taps, pooling="max", padding="replicate", normalize_input=True
    )
    evaluate = EagerEvaluator(encoder.double(), objective_of(encoder, options, content, style))
    evaluation = evaluate(image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=generator)
    step = 1e-8 if options.whole_losses else 1e-6  # so small that no order and no assignment changes on the way
    difference = (evaluate(image + step * direction).total - evaluate(image - step * direction).total) / (2 * step)
    torch.testing.assert_close(difference.sum(), (evaluation.gradient * direction).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("precision", "cosine", "error"), [("fp32", 0.9999, 1e-4), ("bf16", 0.98, 0.02)])
def test_lower_precision_stays_near_eager(
    shallow: tuple[Encoder, Objective, Tensor], precision: str, cosine: float, error: float
) -> None:
    encoder, objective, start = shallow
    expected = EagerEvaluator(encoder, objective)(start)
    actual = FastEvaluator(encoder, objective, DTYPES[precision])(start)
    assert actual.gradient.dtype == torch.float32
    similarity = torch.cosine_similarity(actual.gradient.flatten(), expected.gradient.flatten(), 0)
    assert similarity.item() > cosine
    torch.testing.assert_close(actual.total, expected.total, rtol=error, atol=0)


@pytest.fixture(scope="module")
def whole() -> tuple[Encoder, Objective, Tensor]:
    """The default objective on the original network at full depth: encoder, objective and a start."""
    options = StylizeConfig()
    encoder, _ = make_encoder("original", "vgg19", options.taps)
    content, style = (from_uint8(draw(64)) for draw in (draw_content, draw_style))
    objective = objective_of(encoder, options, content, style)
    return encoder, objective, matched_colors(content, style)


def test_the_fast_engine_is_eagers_twin_on_the_whole_original_network(
    whole: tuple[Encoder, Objective, Tensor],
) -> None:
    encoder, objective, start = whole
    expected, actual = EagerEvaluator(encoder, objective)(start), FastEvaluator(encoder, objective)(start)
    # fp32: where rounding turns a maximum or a ReLU the other way, a gradient differs by that one path.
    assert float((actual.gradient - expected.gradient).norm() / expected.gradient.norm()) < 2e-3
    assert list(actual.terms) == list(expected.terms)
    torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-5, atol=0)


def test_bf16_does_not_bend_the_gradient_of_the_whole_original_network(
    whole: tuple[Encoder, Objective, Tensor],
) -> None:
    """Random weights through five blocks bend it to a cosine of 0.85; with these a run may go on in bf16."""
    if "bf16" not in usable_precisions(CPU):
        pytest.skip("this CPU does not compute bf16")
    encoder, objective, start = whole
    wide, narrow = (FastEvaluator(encoder, objective, DTYPES[name])(start) for name in ("fp32", "bf16"))
    assert float(torch.cosine_similarity(wide.gradient.flatten(), narrow.gradient.flatten(), 0)) >= 0.99
    torch.testing.assert_close(narrow.total, wide.total, rtol=0.005, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_fast_engine_gives_the_same_bits_twice(shallow: tuple[Encoder, Objective, Tensor], precision: str) -> None:
    encoder, objective, start = shallow
    evaluate = FastEvaluator(encoder, objective, DTYPES[precision])
    first, second = evaluate(start), evaluate(start)
    assert torch.equal(first.gradient, second.gradient)
    assert torch.equal(first.total, second.total)


def test_auto_takes_a_narrower_precision_only_where_it_is_clearly_faster() -> None:
    assert fastest(choice.Choice("fast", "fp32", "", {}), {"fp32": 100.0, "bf16": 45.0}).precision == "bf16"
    assert fastest(choice.Choice("fast", "fp32", "", {}), {"fp32": 100.0, "bf16": 95.0}).precision == "fp32"
    assert fastest(choice.Choice("fast", "fp32", "", {}), {"fp32": 100.0, "bf16": 700.0}).precision == "fp32"
    assert "bf16 45 ms" in str(fastest(choice.Choice("fast", "fp32", "", {}), {"fp32": 100.0, "bf16": 45.0}))


def test_a_trial_is_made_once_per_machine_and_again_when_its_file_is_damaged(
    shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path))
    trials: list[int] = []

    def counted(*arguments: object) -> dict[str, float]:
        trials.append(1)
        return {"fp32": 9.0, "bf16": 3.0}

    monkeypatch.setattr(trial, "time_precisions", counted)
    for _ in range(2):
        assert trial.precision_trial(shallow_encoder, CPU, ["fp32", "bf16"], (), choice.silent) == {
            "fp32": 9.0,
            "bf16": 3.0,
        }
    assert len(trials) == 1
    (note,) = (tmp_path / "trials").iterdir()
    note.write_text("{")
    trial.precision_trial(shallow_encoder, CPU, ["fp32", "bf16"], (), choice.silent)
    assert len(trials) == 2


def test_bf16_is_given_up_where_it_bends_the_gradient(
    shallow: tuple[Encoder, Objective, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = choice.Choice("fast", "bf16", "fastest", {})
    monkeypatch.setattr(choice, "LEAST_COSINE", 0.9)
    assert choice.confirm_precision(fast, *shallow).precision == "bf16"
    monkeypatch.setattr(choice, "LEAST_COSINE", 0.999999)
    bent = choice.confirm_precision(fast, *shallow)
    assert bent.precision == "fp32"
    assert "cosine 0.9" in bent.reason


@pytest.mark.parametrize(
    ("cosines", "chosen", "expected"),
    [
        ({"bf16": 0.995}, "bf16", "bf16"),
        ({"bf16": 0.8, "tf32": 0.999}, "bf16", "tf32"),
        ({"bf16": 0.8, "tf32": 0.98}, "bf16", "fp32"),
        ({"tf32": 0.98}, "tf32", "fp32"),
        ({"tf32": float("nan")}, "tf32", "fp32"),
        ({}, "fp32", "fp32"),
    ],
)
def test_the_narrowest_precision_that_bends_nothing_is_taken(
    cosines: dict[str, float], chosen: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where TF32 is six times as fast as fp32; what is not in ``cosines`` must not be asked for."""
    monkeypatch.setattr(choice, "usable_precisions", lambda device: ["fp32", "tf32", "bf16"])
    asked = choice.Choice("fast", chosen, "fastest", {})
    found = choice.narrowest_accurate(asked, torch.device("cuda"), cosines.__getitem__)
    assert found.precision == expected
    assert (found.reason == "fastest") == (chosen == expected)


def test_a_real_trial_times_every_precision(shallow_encoder: Encoder) -> None:
    assert all(value > 0 for value in trial.time_precisions(shallow_encoder, CPU, usable_precisions(CPU), ()).values())


def test_a_precision_that_the_device_or_engine_lacks_is_refused(shallow_encoder: Encoder) -> None:
    with pytest.raises(DeviceError, match="tf32"):
        choice.choose(DeviceOptions(precision="tf32"), shallow_encoder, CPU)
    with pytest.raises(DeviceError, match="eager"):
        choice.choose(DeviceOptions(engine="eager", precision="bf16"), shallow_encoder, CPU)


@pytest.mark.parametrize(("usable", "offered"), [(["fp32"], False), (["fp32", "tf32", "bf16"], True)])
def test_onnx_runtime_offers_tf32_where_the_device_has_it(
    usable: list[str], offered: bool, shallow_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "usable_precisions", lambda device: usable)
    asked = DeviceOptions(engine="ort", precision="tf32")
    if offered:
        assert choice.choose(asked, shallow_encoder, torch.device("cuda")).precision == "tf32"
    else:
        with pytest.raises(DeviceError, match="engine ort computes in fp32 or fp16 on cuda, not in tf32"):
            choice.choose(asked, shallow_encoder, torch.device("cuda"))


def test_launches_are_not_captured_where_there_is_no_gpu(shallow: tuple[Encoder, Objective, Tensor]) -> None:
    with pytest.raises(UsageError, match="no GPU to capture for"):
        make_evaluator(StylizeConfig(cuda_graph="on"), choice.Choice("fast", "fp32", "as asked", {}), *shallow[:2])


@pytest.mark.parametrize("padding", PAD_BACKWARD)
def test_the_gradient_of_a_padding_that_is_compiled_is_pytorchs(padding: str) -> None:
    """``--engine compiled`` cannot use PyTorch's operator: Inductor is wrong about its memory format."""
    x, gradient = (torch.rand(2, 3, *size, dtype=torch.float64) for size in ((4, 5), (6, 7)))
    expected = PAD_BACKWARD[padding](gradient, x, [1, 1, 1, 1])
    torch.testing.assert_close(folded(folded(gradient, 2, padding), 3, padding), expected, rtol=1e-14, atol=0)
