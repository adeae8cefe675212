"""Adam within the step graph: the twin of PyTorch's Adam, whatever a run asks of an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import run_loop
from ort_problems import BLOCKS, check_same_end, distance, problem, real_pictures, steps
from torch import Tensor

from nst_fast import api
from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluator
from nst_fast.engines import ort as engine_module
from nst_fast.engines.ort import OrtEvaluator
from nst_fast.engines.ort_step import WholeStep
from nst_fast.errors import DeviceError, UsageError
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import Binding, ProviderStatus, Session
from nst_fast.optimizers import learning_rate_at, make_stepper, resized_moments
from nst_fast.optimizers.adam import Adam
from nst_fast.optimizers.base import TorchStepper
from nst_fast.optimizers.ort_adam import OrtAdam
from nst_fast.options.config import StylizeConfig
from nst_fast.run.observer import Listeners
from nst_fast.run.problem import Batch, Networks, load_problem
from nst_fast.run.reporting import Report

ADAM = {"optimizer": "adam", "learning_rate": 0.01}


class Bench:
    """An objective and its engine, to run short loops on."""

    def __init__(self, height: int = 33, width: int = 46, **options: Any) -> None:
        self.options, self.encoder, self.objective, self.start = problem(height, width, **{**ADAM, **options})

    def ort(self, **options: Any) -> OrtEvaluator:
        return OrtEvaluator(self.encoder, self.objective, **options)

    def whole(self, options: StylizeConfig | None = None, engine: OrtEvaluator | None = None) -> OrtAdam:
        stepper = make_stepper(engine or self.ort(), self.start.clone(), options or self.options)
        assert isinstance(stepper, OrtAdam)
        return stepper

    def twin(self, evaluator: Evaluator | None = None) -> TorchStepper:
        """PyTorch's Adam, by default with ONNX Runtime's gradient."""
        return TorchStepper(evaluator or self.ort(), Adam(self.start.clone(), self.options))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[WholeStep]:
    """Grows by one with every run of a step graph."""
    seen: list[WholeStep] = []
    original = WholeStep.__call__

    def counted(self: WholeStep, *arguments: Any) -> Any:
        seen.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(WholeStep, "__call__", counted)
    return seen


def agree(bench: Bench, start: Tensor) -> None:
    bench.start = start
    eager = EagerEvaluator(bench.encoder, bench.objective)
    actual, expected = (steps(stepper, bench.options, 50) for stepper in (bench.whole(), bench.twin(eager)))
    check_same_end(actual, expected, eager)
    assert not torch.equal(actual, start)


def test_fifty_steps_end_where_eager_and_pytorchs_adam_end() -> None:
    bench = Bench(48, 64)
    agree(bench, bench.start)


def test_fifty_steps_on_real_pictures_and_weights_end_where_eager_ends(assets: Path) -> None:
    images = real_pictures(assets)
    agree(Bench(images=images, weights="original", **BLOCKS, learning_rate=None), images[0])


def test_two_runs_give_the_same_bits(bench: Bench) -> None:
    assert torch.equal(steps(bench.whole(), bench.options, 12), steps(bench.whole(), bench.options, 12))


def test_pictures_live_in_two_places_and_a_step_is_one_run(bench: Bench, runs: list[WholeStep]) -> None:
    stepper = bench.whole()
    places = []
    for step in range(6):
        steps(stepper, bench.options, 1, step)
        places.append(stepper.pastiche.data_ptr())
    assert places == places[:2] * 3
    assert len(set(places)) == 2
    assert len(runs) == 6


@pytest.mark.parametrize("schedule", ["constant", "exponential", "cosine"])
def test_every_schedule_is_followed(schedule: str, runs: list[WholeStep]) -> None:
    bench = Bench(32, 32, schedule=schedule, steps=8, decay_steps=3)
    actual = steps(bench.whole(), bench.options, 8)
    assert len(runs) == 8
    expected = steps(bench.twin(), bench.options, 8)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_another_rate_than_the_prepared_one_costs_one_more_run(bench: Bench, runs: list[WholeStep]) -> None:
    pictures = []
    for stepper in (bench.whole(), bench.twin()):
        for prepared, rate in ((0.01, 0.01), (0.01, 0.005), (0.02, 0.02)):
            stepper.evaluate(prepared)
            stepper.update(rate)
        pictures.append(stepper.pastiche)
    assert len(runs) == 3 + 1
    torch.testing.assert_close(*pictures, rtol=0, atol=2e-5)


@pytest.mark.parametrize("what", ["smooth", "restart"])
def test_smoothing_and_going_back_are_those_of_adam(bench: Bench, what: str) -> None:
    pictures = []
    for stepper in (bench.whole(), bench.twin()):
        steps(stepper, bench.options, 3)
        stepper.evaluate(0.01)
        if what == "smooth":
            stepper.smooth()
        else:
            stepper.restart_from(bench.start)
        pictures.append(steps(stepper, bench.options, 3, first=3))
    torch.testing.assert_close(*pictures, rtol=0, atol=2e-5)


def test_moments_of_a_coarser_scale_are_taken_over_as_by_adam(bench: Bench) -> None:
    fine = Bench(40, 56)
    strip = make_strip(Ranks(), "vgg19", ["relu1_1"], 40, 56)
    pictures = []
    eager = EagerEvaluator(fine.encoder, fine.objective)
    for coarse, evaluator in ((bench.whole(), fine.ort()), (bench.twin(), eager)):
        steps(coarse, bench.options, 4)
        moments = resized_moments(coarse.state(), strip)
        pictures.append(steps(make_stepper(evaluator, fine.start.clone(), fine.options, moments), fine.options, 3, 4))
    torch.testing.assert_close(*pictures, rtol=0, atol=5e-5)


def test_a_restored_state_continues_bit_by_bit(bench: Bench, runs: list[WholeStep]) -> None:
    options = bench.options.replace(schedule="cosine", steps=20)
    undisturbed = bench.whole(options)
    steps(undisturbed, options, 5)
    picture, state = undisturbed.pastiche.clone(), undisturbed.state()
    state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    expected = steps(undisturbed, options, 4, first=5)
    again = OrtAdam(bench.ort(), picture, options)
    again.restore(state)
    del runs[:]
    assert torch.equal(steps(again, options, 4, first=5), expected)
    assert len(runs) == 4


def test_states_of_adam_and_of_its_twin_can_be_exchanged(bench: Bench) -> None:
    whole = bench.whole()
    steps(whole, bench.options, 3)
    twin = Adam(whole.pastiche.clone(), bench.options)
    twin.restore(whole.state())
    assert {"step", "exp_avg", "exp_avg_sq"} == twin.state().keys()
    back = OrtAdam(bench.ort(), whole.pastiche.clone(), bench.options)
    back.restore({**twin.state(), "updates": 3})  # which checkpoints of earlier versions have
    for name, value in back.state().items():
        torch.testing.assert_close(value, whole.state()[name], rtol=0, atol=0)


def test_there_is_no_state_before_the_first_update_and_after_going_back(bench: Bench) -> None:
    stepper = bench.whole()
    assert stepper.state() == {}
    steps(stepper, bench.options, 2)
    stepper.restart_from(bench.start)
    assert stepper.state() == {}


def test_another_picture_can_be_evaluated_in_between(bench: Bench) -> None:
    stepper = bench.whole()
    expected = steps(bench.whole(), bench.options, 4)
    steps(stepper, bench.options, 2)
    other = stepper.evaluate_image(1 - bench.start)
    torch.testing.assert_close(other.total, bench.ort()(1 - bench.start).total, rtol=1e-5, atol=0)
    rate = learning_rate_at(bench.options, 2)
    stepper.evaluate(rate)
    stepper.evaluate_image(1 - bench.start)
    stepper.update(rate)
    assert torch.equal(steps(stepper, bench.options, 1, first=3), expected)


def test_a_capture_that_runs_the_model_several_times_advances_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps(bench.whole(), bench.options, 5)
    original, seen = Binding.run, []

    def capturing(self: Binding) -> None:
        for _ in range(1 if self in seen else 4):  # two ordinary runs, the capture, and the first replay
            original(self)
        seen.append(self)

    monkeypatch.setattr(Binding, "run", capturing)
    assert torch.equal(steps(bench.whole(), bench.options, 5), expected)
    assert len(set(map(id, seen))) == 2


def sessions(monkeypatch: pytest.MonkeyPatch, change: Callable[[Session, bool], Session]) -> list[bool]:
    """Let sessions of any provider run on the CPU as ``change`` has them; whether each was to be captured."""
    asked: list[bool] = []
    original = engine_module.make_session

    def make_session(model: bytes, provider: str, config: SessionConfig, **options: Any) -> Session:
        asked.append(config.cuda_graph)
        return change(original(model, "cpu", SessionConfig(deterministic=True)), asked[-1])

    monkeypatch.setattr(engine_module, "make_session", make_session)
    return asked


def test_capture_is_tried_and_a_failure_of_it_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(session: Session, capture: bool) -> Session:
        if capture:
            raise DeviceError("operation not permitted when stream is capturing")
        return session

    asked, opened = sessions(monkeypatch, change), []
    optimizer = bench.whole(engine=bench.ort(provider="cuda", opened=opened.append))
    steps(optimizer, bench.options, 2)
    assert asked == [True, False]
    (session,) = opened
    assert session.warnings == (
        "cpu: no CUDA graph, every step launches anew (operation not permitted when stream is capturing)",
    )
    for mode, attempts in (("on", [True]), ("off", [False])):
        asked.clear()
        evaluate = bench.ort(provider="cuda", cuda_graph=mode)
        if mode == "on":
            with pytest.raises(DeviceError, match="capturing"):
                evaluate(bench.start)
        else:
            evaluate(bench.start)
        assert asked == attempts


@pytest.mark.parametrize(("engine", "shared"), [("", True), ("kept", False)])
def test_each_direction_has_a_cuda_graph_of_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engine: str, shared: bool
) -> None:
    """By its number in CUDA's session; TensorRT's provider knows one graph, so that two sessions are needed there."""
    bound: list[tuple[Session, int]] = []
    original = Binding.__init__

    def noted(self: Binding, session: Session, *, shared: bool, graph: int) -> None:
        bound.append((session, graph))
        original(self, session, shared=shared, graph=graph)

    expected = steps(bench.whole(), bench.options, 3)
    monkeypatch.setattr(Binding, "__init__", noted)
    asked = sessions(monkeypatch, lambda session, capture: replace(session, cuda_graph=capture, engine=engine))
    optimizer = bench.whole(engine=bench.ort(provider="cuda"))
    assert torch.equal(steps(optimizer, bench.options, 3), expected)
    (first, one), (second, two) = bound
    assert (one, two) == (1, 2)
    assert (first is second) == shared
    assert asked == [True] * (1 if shared else 2)


def test_a_cuda_graph_on_the_cpu_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="`cuda_graph` on"):
        bench.ort(cuda_graph="on")(bench.start)


def test_a_provider_elsewhere_than_the_picture_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions(monkeypatch, lambda session, capture: replace(session, actual="cuda"))
    with pytest.raises(DeviceError, match="provider cuda does not compute on cpu"):
        bench.ort()(bench.start)


def test_fp16_has_its_scale_before_the_first_step(bench: Bench) -> None:
    optimizer = bench.whole(engine=bench.ort(precision="fp16"))
    wide = bench.whole()
    actual, expected = (steps(o, bench.options, 3) for o in (optimizer, wide))
    assert distance(actual - bench.start, expected - bench.start) < 0.5
    assert float((actual - expected).abs().mean()) < 2 / 255


def test_a_batch_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="one picture at a time"):
        OrtAdam(bench.ort(), bench.start.repeat(2, 1, 1, 1), bench.options)


def test_other_evaluators_and_optimizers_have_separate_updates(bench: Bench) -> None:
    eager = EagerEvaluator(bench.encoder, bench.objective)
    for evaluator, optimizer in ((bench.ort(), "lbfgs"), (eager, "adam")):
        options = bench.options.replace(optimizer=optimizer)
        assert isinstance(make_stepper(evaluator, bench.start.clone(), options), TorchStepper)


def test_the_loop_goes_back_from_a_jump_as_with_adam(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A divergence by a huge rate: the guard steps in, and both end with the same losses."""
    monkeypatch.setattr("nst_fast.run.loop.learning_rate_at", lambda options, step: 5.0 if step == 3 else 0.01)
    options, rows = bench.options.replace(steps=15, smooth_every=12), []
    for stepper in (bench.whole(), bench.twin()):
        loop = run_loop(stepper, options, every=1, factor=2.0, names=bench.objective.term_names)
        assert len(loop.observer.recoveries) == 1
        rows.append(loop.history.first_rows(16))
    torch.testing.assert_close(*rows, rtol=1e-3, atol=0)


# A whole run

RUN = {
    **ADAM, "engine": "ort", "device": "cpu", "weights": "random:0", "content_taps": "relu2_1",
    "style_taps": "relu1_1,relu2_1", "monitor_every": 0, "image_size": 48, "steps": 12, "init": "content",
}  # fmt: skip


def test_a_run_over_scales_with_schedule_smoothing_and_average_is_adams(
    pair: tuple[Path, Path], runs: list[WholeStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"scales": 2, "min_size": 16, "schedule": "cosine", "smooth_every": 5, "average_decay": 0.5}
    config = StylizeConfig(**{**RUN, **options})
    whole = api.stylize(*pair, config)
    assert len({id(step) for step in runs}) == 2  # one graph for each size
    assert len(runs) == 12 + 1 + 1  # the steps, the picture after the last one, and the average

    def separate(evaluator: Evaluator, image: Tensor, options: StylizeConfig) -> TorchStepper:
        return TorchStepper(evaluator, Adam(image, options))

    monkeypatch.setattr("nst_fast.optimizers.ort_adam.OrtAdam", separate)
    by_gradient = api.stylize(*pair, config)
    assert whole.record.losses["total"] == pytest.approx(by_gradient.record.losses["total"], rel=1e-3)
    assert float((whole.image - by_gradient.image).abs().mean()) < 0.5 / 255


def test_an_interrupted_run_goes_on_to_the_very_picture(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = StylizeConfig(**RUN, schedule="exponential", decay_steps=2)
    expected = api.stylize(*pair, config)
    stops = iter([False] * 7)
    listeners = api.Listeners(stop=lambda: not next(stops, False) and next(stops, True))
    output = tmp_path / "out.png"
    first = api.stylize(*pair, config, output=output, listeners=listeners)
    assert first.record.status == "stopped"
    assert 0 < first.record.steps < 12
    again = api.resume(output, overwrite=True)
    assert torch.equal(again.image, expected.image)
    assert again.record.history["total"] == expected.record.history["total"]


def test_the_record_says_which_provider_computed(pair: tuple[Path, Path]) -> None:
    record = api.stylize(*pair, StylizeConfig(**{**RUN, "steps": 1})).record
    assert 0 < record.engine_provider.pop("seconds") < 60
    assert record.engine_provider == {
        "requested": "cpu", "actual": "cpu", "cuda_graph": False, "tensorrt_engine": "",
    }  # fmt: skip
    assert record.warnings == []


def test_a_fallback_of_the_engine_is_said_and_recorded(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {
        name: ProviderStatus(name, "works" if name == "cpu" else "refused", "no libcudart")
        for name in ("cpu", "cuda", "tensorrt")
    }
    monkeypatch.setattr("nst_fast.onnx.session.probe_provider", status.__getitem__)
    notes: list[str] = []
    config = StylizeConfig(**{**RUN, "steps": 1}, engine_provider="tensorrt", allow_fallback=True)
    record = api.stylize(*pair, config, listeners=api.Listeners(note=notes.append, detail=notes.append)).record
    sentence = "engine ort: provider tensorrt does not work, cpu is used instead: no libcudart"
    announced = "TensorRT builds an engine for {}x{}, in minutes, if it is not in the cache".format(*record.size)
    assert notes.index(announced) < notes.index(sentence)
    assert sentence in record.warnings
    assert (record.engine_provider["requested"], record.engine_provider["actual"]) == ("tensorrt", "cpu")


@pytest.mark.parametrize(
    ("engine", "seconds", "sentence"),
    [
        ("built", 83.4, "TensorRT engine built in 83 s, kept for the next run"),
        ("kept", 1.24, "TensorRT engine from the cache, loaded in 1.2 s"),
    ],
)
def test_the_time_that_tensorrt_takes_to_build_is_said_apart(
    pair: tuple[Path, Path], engine: str, seconds: float, sentence: str
) -> None:
    problem = load_problem(StylizeConfig(**RUN), pair[0], [pair[1]], Networks())
    notes: list[str] = []
    report = Report(Batch([problem]), Listeners(note=notes.append))
    session = Session("tensorrt", "tensorrt", None, ("2 of 300 nodes",), 0, seconds, engine, True)
    for _ in range(2):  # two scales
        report.opened(session)
    assert notes == ["engine ort: 2 of 300 nodes", sentence] * 2
    (record,) = report.records
    assert record.warnings == ["engine ort: 2 of 300 nodes"]
    assert record.engine_provider == {
        "requested": "tensorrt", "actual": "tensorrt", "seconds": seconds, "cuda_graph": True,
        "tensorrt_engine": engine,
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_the_whole_step_agrees_with_eager_on_a_gpu(cuda: torch.device, provider: str, cuda_graph: str) -> None:
    from nst_fast.onnx.session import probe_provider

    if not (status := probe_provider(provider)).works:
        pytest.skip(f"{provider}: {status.detail}")
    bench = Bench(64, 96)
    expected = steps(bench.twin(EagerEvaluator(bench.encoder, bench.objective)), bench.options, 10)
    targets = bench.objective.targets.to(cuda, torch.float32)
    engine = OrtEvaluator(
        bench.encoder.to(cuda), Objective(bench.options, targets), provider=provider, cuda_graph=cuda_graph
    )
    actual = steps(OrtAdam(engine, bench.start.to(cuda), bench.options), bench.options, 10)
    assert float((actual.cpu() - expected).abs().mean()) < 2 / 255
