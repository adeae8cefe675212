"""The monitor computes the loop's terms, never makes it wait, and reports its own failures."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from processes import wait_until

from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx.checked_export import encoder_for
from nst_fast.onnx.export import build_graph
from nst_fast.onnx.monitor import Monitor
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import Session, make_session
from nst_fast.optimizers import make_optimizer
from nst_fast.options.config import ExportConfig, StylizeConfig

SMALL = {"weights": "random", "content_taps": "relu2_1", "style_taps": "relu1_1:0.5,relu2_1"}
Problem = tuple[StylizeConfig, Encoder, Session]
WAIT = 30.0  # seconds until a test that hangs fails


def make_problem(**options: object) -> Problem:
    config = StylizeConfig(**{**SMALL, **options})
    export = ExportConfig.serving(config)
    encoder, weights_sha256 = encoder_for(export)
    graph = build_graph(encoder, export, weights_sha256)
    return config, encoder, make_session(graph.model, config=SessionConfig(threads=1))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem()


def make_objective(config: StylizeConfig, encoder: Encoder, size: tuple[int, int], batch: int = 1) -> Objective:
    generator = torch.Generator().manual_seed(1)
    content = torch.rand(batch, 3, *size, generator=generator)
    style = torch.rand(1, 3, 30, 26, generator=generator)
    return Objective(config, build_targets(encoder, config, content, [style]))


def run_both(problem: Problem, size: tuple[int, int], batch: int = 1) -> None:
    """Optimise for a few steps with a monitor beside; its readings must be the loop's own terms."""
    config, encoder, session = problem
    objective = make_objective(config, encoder, size, batch)
    pastiche = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(2))
    evaluate = EagerEvaluator(encoder, objective)
    optimizer = make_optimizer(pastiche, config)
    expected: list[dict[str, float]] = []
    with Monitor(session, objective, seed=5) as monitor:
        for step in range(4):
            objective.begin_step(5, step)
            evaluation = evaluate(pastiche)
            terms = {**evaluation.terms, "total": evaluation.total}
            expected.append({name: term.mean().item() for name, term in terms.items()})
            assert monitor.submit(step, pastiche.clone())
            wait_until(lambda done=step + 1: len(monitor.readings()) == done)  # none waits, so none is dropped
            optimizer.update(evaluation, evaluate, config.initial_learning_rate)
    assert (monitor.warnings, monitor.dropped) == ([], 0)
    readings = monitor.readings()
    assert [reading.step for reading in readings] == [0, 1, 2, 3]
    assert expected[0]["total"] != pytest.approx(expected[3]["total"], rel=1e-2)  # the steps lead somewhere
    for reading, terms in zip(readings, expected, strict=True):
        assert list(reading.terms) == list(terms)
        assert reading.terms == pytest.approx(terms, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"content_normalization": "mean", "style_normalization": "gatys", "gram_normalization": "none"},
        {"content_normalization": "half_sum", "style_normalization": "sum", "gram_normalization": "chw"},
        {"tv_weight": 3.0, "optimizer": "lbfgs"},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_monitor_terms_are_the_loops_terms(problem: Problem, options: dict[str, object]) -> None:
    config, encoder, session = problem
    run_both((config.replace(**options), encoder, session), (24, 33))


def test_each_picture_of_a_batch_counts(problem: Problem) -> None:
    run_both(problem, (24, 20), batch=2)


def test_smallest_picture_of_the_taps_is_monitored(problem: Problem) -> None:
    run_both(problem, (2, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "reflect", "pooling": "average"},
        {"padding": "replicate", "input_normalization": "none", "network": "vgg16"},
        {"content_weight": 0.0},
        {"style_weight": 0.0},
        {"style_loss": "sliced", "sliced_directions": "new", "optimizer": "adam"},
    ],
    ids="-".join,
)
def test_every_kind_of_objective_is_monitored(options: dict[str, object]) -> None:
    run_both(make_problem(**options), (17, 22))


def test_pastiche_outside_the_unit_range_is_evaluated_as_it_is(problem: Problem) -> None:
    config, encoder, session = problem
    objective = make_objective(config, encoder, (16, 16))
    pastiche = 3 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) - 1
    with Monitor(session, objective) as monitor:
        monitor.submit(0, pastiche)
    expected = EagerEvaluator(encoder, objective)(pastiche).total.item()
    assert monitor.readings()[0].terms["total"] == pytest.approx(expected, rel=1e-3)


BLACK = torch.zeros(1, 3, 16, 16)


def black_monitor(problem: Problem, session: Any = None) -> Monitor:
    """A monitor for pictures of the size of BLACK."""
    config, encoder, own = problem
    return Monitor(session or own, make_objective(config, encoder, (16, 16)))


class BlockedSession:
    """A session that computes nothing until it is released."""

    def __init__(self, problem: Problem) -> None:
        self._session = problem[2]
        self.entered = threading.Event()
        self.released = threading.Event()

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.released.wait(WAIT)
        return self._session.run(image)


def test_a_slow_provider_drops_readings_and_still_evaluates_the_last_picture(problem: Problem) -> None:
    blocked = BlockedSession(problem)
    monitor = black_monitor(problem, blocked)
    assert monitor.submit(0, BLACK)
    assert blocked.entered.wait(WAIT)
    assert monitor.submit(1, BLACK)  # waits
    assert not monitor.submit(2, BLACK)  # takes its place
    assert not monitor.submit(3, BLACK)
    assert monitor.dropped == 2
    blocked.released.set()
    monitor.close(WAIT)
    assert [reading.step for reading in monitor.readings()] == [0, 3]
    assert monitor.warnings == []


def test_a_reading_that_never_ends_is_a_warning(problem: Problem) -> None:
    blocked = BlockedSession(problem)
    monitor = black_monitor(problem, blocked)
    monitor.submit(0, BLACK)
    assert blocked.entered.wait(WAIT)
    monitor.close(0.01)
    assert "not finished within 0.01 s" in monitor.warnings[0]
    blocked.released.set()
    monitor.close(WAIT)


def test_an_exception_leaves_the_loop_without_waiting(problem: Problem) -> None:
    blocked = BlockedSession(problem)
    with pytest.raises(KeyboardInterrupt), black_monitor(problem, blocked) as monitor:
        monitor.submit(0, BLACK)
        raise KeyboardInterrupt
    assert (monitor.readings(), monitor.warnings) == ([], [])
    blocked.released.set()
    monitor.close(WAIT)


class BrokenSession:
    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        raise RuntimeError("device lost\nat line 1")


def test_a_failure_in_the_thread_becomes_a_warning_and_ends_the_monitoring(problem: Problem) -> None:
    with black_monitor(problem, BrokenSession()) as monitor:
        monitor.submit(7, BLACK)
        wait_until(lambda: bool(monitor.warnings))
        wait_until(lambda: not monitor.submit(8, BLACK))
    assert monitor.warnings == ["monitor: stopped at step 7, device lost"]
    assert monitor.readings() == []
    assert monitor.dropped >= 1


def test_a_picture_of_another_size_is_a_warning(problem: Problem) -> None:
    with black_monitor(problem) as monitor:
        monitor.submit(0, torch.zeros(1, 3, 24, 24))
    assert len(monitor.warnings) == 1


def test_closing_twice_is_harmless_and_nothing_is_taken_afterwards(problem: Problem) -> None:
    monitor = black_monitor(problem)
    monitor.close()
    monitor.close()
    assert not monitor.submit(0, BLACK)
    assert (monitor.readings(), monitor.dropped) == ([], 1)
