"""The ort engine is the twin of eager: same terms, same gradient, same pictures, within what rounding allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ort_problems import BLOCKS, SHALLOW, check_same_end, distance, problem, real_pictures, steps
from torch import Tensor

from nst_fast.api import stylize
from nst_fast.engines import ort
from nst_fast.engines.ort import OrtEvaluator
from nst_fast.errors import DeviceError, UsageError
from nst_fast.objective.evaluation import EagerEvaluator, Evaluator
from nst_fast.objective.objective import Objective
from nst_fast.onnx.graph.step import build_step_graph
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import Session, make_session
from nst_fast.optimizers import make_optimizer
from nst_fast.optimizers.base import TorchStepper
from nst_fast.options.config import StylizeConfig


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_terms_and_gradient_are_those_of_eager(pooling: str, padding: str) -> None:
    _, encoder, objective, pastiche = problem(pooling=pooling, padding=padding, tv_weight=0.3, chroma_tv_weight=2.0)
    expected = EagerEvaluator(encoder, objective)(pastiche)
    actual = OrtEvaluator(encoder, objective)(pastiche)
    assert list(actual.terms) == list(expected.terms)
    torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-4, atol=0)
    torch.testing.assert_close(actual.total, expected.total, rtol=1e-4, atol=0)
    assert distance(actual.gradient, expected.gradient) < 1e-3


def test_rounding_differs_no_more_than_between_pytorchs_own_two_layouts() -> None:
    _, encoder, objective, pastiche = problem(64, 80, content_taps="relu4_2", style_taps="relu1_1,relu3_1,relu5_1")
    eager = EagerEvaluator(encoder, objective)
    expected = eager(pastiche)
    actual = OrtEvaluator(encoder, objective)(pastiche)
    encoder.to(memory_format=torch.channels_last)
    twin = eager(pastiche.contiguous(memory_format=torch.channels_last))
    # Single flips of ReLU and max-pool decisions make up the difference, so the two distances are alike, not equal.
    allowed = 10 * distance(twin.gradient, expected.gradient) + 1e-5
    assert distance(actual.gradient, expected.gradient) < max(allowed, 2e-2)
    torch.testing.assert_close(actual.total, expected.total, rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_the_precision_reaches_graph_and_session(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is opened with the precision, on the CPU here; TF32 has the graph of fp32."""
    made: list[tuple[bytes, str, SessionConfig]] = []

    def record(model: bytes, provider: str, config: SessionConfig, *, allow_fallback: bool) -> Session:
        made.append((model, provider, config))
        return make_session(model, "cpu", config, allow_fallback=allow_fallback)

    monkeypatch.setattr(ort, "make_session", record)
    _, encoder, objective, pastiche = problem()
    plain, chosen = OrtEvaluator(encoder, objective), OrtEvaluator(encoder, objective, precision=precision)
    losses = [evaluate(pastiche).total for evaluate in (plain, chosen)]
    (_, _, exact), (_, provider, config) = made
    assert (provider, exact.precision, config.precision) == ("cpu", "fp32", precision)
    assert (made[0][0] == made[1][0]) == (losses[0] == losses[1]) == (precision != "fp16")


def test_a_run_in_fp16_ends_in_a_picture(pair: tuple[Path, Path]) -> None:
    options = {**SHALLOW, "image_size": 32, "steps": 2, "monitor_every": 0, "engine": "ort", "precision": "fp16"}
    assert stylize(*pair, **options).record.precision == "fp16"


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 2e-3), ("fp16", 0.05)])
def test_the_engine_is_eagers_twin_on_the_whole_original_network(precision: str, allowed: float) -> None:
    """The default taps; features reach 12 000, a fifth of what fp16 holds."""
    taps = {name: getattr(StylizeConfig(), name) for name in ("content_taps", "style_taps", "style_weight")}
    _, encoder, objective, pastiche = problem(64, 80, weights="original", **taps)
    expected = EagerEvaluator(encoder, objective)(pastiche)
    actual = OrtEvaluator(encoder, objective, precision=precision)(pastiche)
    assert distance(actual.gradient, expected.gradient) < allowed
    torch.testing.assert_close(actual.terms, expected.terms, rtol=allowed / 20, atol=0)


def test_the_form_for_the_cpu_rounds_as_another_library_does_on_the_original_network() -> None:
    """At a size at which the convolutions of four blocks are Winograd's; features reach 12 000."""
    taps = {name: getattr(StylizeConfig(), name) for name in ("content_taps", "style_taps", "style_weight")}
    _, encoder, objective, pastiche = problem(128, 112, weights="original", **taps)
    expected = EagerEvaluator(encoder, objective)(pastiche)
    engine = OrtEvaluator(encoder, objective)
    actual = engine(pastiche)
    assert engine.prepared is not None
    assert engine.prepared.spec.for_cpu
    transposed = [node for node in build_step_graph(engine.prepared.spec).graph.node if node.op_type == "ConvTranspose"]
    assert len(transposed) == 2 * 9  # forwards and back: of conv2_2, and of four in blocks 3 and 4 each
    assert distance(actual.gradient, expected.gradient) < 2e-3
    torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-4, atol=0)


def test_a_pastiche_of_another_size_or_layout_is_taken() -> None:
    for height, width in ((32, 48), (17, 20)):
        _, encoder, objective, pastiche = problem(height, width)
        evaluate = OrtEvaluator(encoder, objective)
        plain = evaluate(pastiche)
        other = evaluate(pastiche.contiguous(memory_format=torch.channels_last))
        assert torch.equal(plain.gradient, other.gradient)


def test_results_are_not_overwritten_by_the_next_evaluation() -> None:
    _, encoder, objective, pastiche = problem()
    evaluate = OrtEvaluator(encoder, objective)
    first = evaluate(pastiche)
    kept = first.gradient.clone(), first.total.clone()
    evaluate(1 - pastiche)
    assert torch.equal(first.gradient, kept[0])
    assert torch.equal(first.total, kept[1])


def test_convolutions_in_fp16_stay_near_fp32() -> None:
    _, encoder, objective, pastiche = problem(pooling="average")
    expected = EagerEvaluator(encoder, objective)(pastiche)
    actual = OrtEvaluator(encoder, objective, precision="fp16")(pastiche)
    torch.testing.assert_close(actual.total, expected.total, rtol=5e-3, atol=0)
    similarity = torch.nn.functional.cosine_similarity(actual.gradient.flatten(), expected.gradient.flatten(), 0)
    assert similarity > 0.99
    assert distance(actual.gradient, expected.gradient) < 0.15  # its scale was undone


def optimized(evaluator: Evaluator, options: StylizeConfig, start: Tensor) -> Tensor:
    stepper = TorchStepper(evaluator, make_optimizer(start.clone(), options))
    return steps(stepper, options, options.steps).clamp(0, 1)


def test_fifty_steps_of_adam_end_where_eager_ends() -> None:
    options, encoder, objective, start = problem(48, 64, steps=50, optimizer="adam", learning_rate=0.01)
    eager = EagerEvaluator(encoder, objective)
    actual = optimized(OrtEvaluator(encoder, objective), options, start)
    check_same_end(actual, optimized(eager, options, start), eager)


def test_lbfgs_runs_on_the_engine() -> None:
    options, encoder, objective, start = problem(32, 40, steps=8, optimizer="lbfgs", learning_rate=0.5)
    engine = OrtEvaluator(encoder, objective)
    assert engine(optimized(engine, options, start)).total < 0.5 * engine(start).total


def test_fifty_steps_of_lbfgs_on_real_pictures_and_weights_end_with_the_loss_of_eager(assets: Path) -> None:
    images = real_pictures(assets)
    options, encoder, objective, _ = problem(images=images, weights="original", **BLOCKS, steps=50)
    assert options.optimizer == "lbfgs"
    # Not the picture: a start moved by 1e-7 moves eager's own further than this engine does.
    eager, engine = EagerEvaluator(encoder, objective), OrtEvaluator(encoder, objective)
    expected, actual = (eager(optimized(evaluator, options, images[0])).total for evaluator in (eager, engine))
    assert abs(float(actual) / float(expected) - 1) < 0.005


def test_a_batch_is_refused() -> None:
    _, encoder, objective, pastiche = problem()
    with pytest.raises(UsageError, match="one picture at a time"):
        OrtEvaluator(encoder, objective)(pastiche.repeat(2, 1, 1, 1))


def test_a_provider_that_does_not_work_is_an_error_and_not_a_slow_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA works here")
    _, encoder, objective, pastiche = problem()
    with pytest.raises(DeviceError):
        OrtEvaluator(encoder, objective, provider="cuda")(pastiche)


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_the_engine_agrees_with_eager_on_a_gpu(
    cuda: torch.device, provider: str, precision: str, cuda_graph: str
) -> None:
    from nst_fast.onnx.session import probe_provider

    if not (status := probe_provider(provider)).works:
        pytest.skip(f"{provider}: {status.detail}")
    _, encoder, objective, pastiche = problem(64, 96)
    expected = EagerEvaluator(encoder, objective)(pastiche)
    targets = objective.targets.to(cuda, torch.float32)
    evaluate = OrtEvaluator(
        encoder.to(cuda), Objective(objective.options, targets), provider=provider, precision=precision,
        cuda_graph=cuda_graph,
    )  # fmt: skip
    exact = precision == "fp32" and provider == "cuda"
    loss_tolerance, gradient_tolerance = (1e-4, 1e-2) if exact else (1e-2, 0.3)
    for _ in range(3):  # a captured graph is replayed from the second call on
        actual = evaluate(pastiche.to(cuda))
        torch.testing.assert_close(actual.total.cpu(), expected.total, rtol=loss_tolerance, atol=0)
        assert distance(actual.gradient.cpu(), expected.gradient) < gradient_tolerance
    shifted = evaluate((1 - pastiche).to(cuda))
    again = EagerEvaluator(encoder.cpu(), objective)(1 - pastiche)
    torch.testing.assert_close(shifted.total.cpu(), again.total, rtol=loss_tolerance, atol=0)
