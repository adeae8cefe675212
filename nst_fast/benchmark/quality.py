"""Time to quality: seconds until a run has the loss that plain eager optimisation has after so many steps.

Steps per second do not show a better optimiser or start, and losses do not show time. This measures both together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from nst_fast.benchmark.loops import start_loop
from nst_fast.benchmark.rows import OK, QualityRow
from nst_fast.benchmark.turns import Contender, compete, recorded, take_turns
from nst_fast.benchmark.workbench import Scene, Workbench
from nst_fast.engines import choose, confirm_precision
from nst_fast.engines.precision import float32_arithmetic
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jury.judge import Panel
from nst_fast.optimizers import make_stepper
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import Problem, load_problem
from nst_fast.system.clock import make_clock

TURN_STEPS = 5  # between two points of a curve
WARM_UP = 2  # evaluations before the first that is timed
# What programs of the field do at their best: from the content image, at a constant rate, PyTorch's own optimisers.
PLAIN: dict[str, str | float] = {
    "init": "content",
    "schedule": "constant",
    "adam_beta2": 0.999,
    "average_decay": 0.0,
    "line_search": "strong_wolfe",
}


class QualityContender(Contender):
    """One timed run, a few steps at a time; its picture is evaluated in between, untimed, by eager in IEEE fp32.

    Everything that a run does from its first evaluation on counts. Building the engine and its warm-up stand apart, as
    ``setup_seconds``.
    """

    row: QualityRow

    def __init__(self, row: QualityRow, run: StylizeConfig, problem: Problem, workbench: Workbench) -> None:
        super().__init__(row)
        self.run, self.problem, self.workbench = run, problem, workbench
        self.clock = make_clock(workbench.device)
        self._target = 0

    @property
    def plain(self) -> bool:
        """Eager is measured with the plain optimisers only."""
        return self.run.engine == "eager"

    def prepare(self) -> None:
        scale, encoder = self.problem.scales[0], self.problem.encoder
        start = self.problem.start_at(scale)
        scene = Scene(start, start, self.problem.objective_at(scale))
        self.objective = scene.objective
        started = self.clock()
        choice = choose(self.run, encoder, self.workbench.device)
        if self.run.precision == "auto":
            choice = confirm_precision(choice, encoder, scene.objective, scene.start)
        self.row.engine, self.row.precision = choice.engine, choice.precision
        run = self.run.replace(engine=choice.engine, precision=choice.precision)
        with float32_arithmetic(self.row.precision):
            self.stepper = make_stepper(self.workbench.evaluator(run, scene), scene.start.clone(), run)
            for _ in range(WARM_UP):
                self.stepper.evaluate(0.0)
        self.row.setup_seconds = self.clock() - started
        self._events = start_loop(self.stepper, scene, 2 * run.steps, run, due=lambda step: step >= self._target)
        self._add_point(0.0)

    def take_turn(self) -> list[float]:
        """Some timed steps, and a point of the curve."""
        self._target += TURN_STEPS
        with float32_arithmetic(self.row.precision):
            started = self.clock()
            while next(self._events).step < self._target:
                continue  # an event in between is the guard's
            seconds = self.clock() - started
        self._add_point(self.row.seconds[-1] + seconds)
        return [1e3 * seconds]

    def _add_point(self, seconds: float) -> None:
        with float32_arithmetic("fp32"), torch.no_grad():
            image = self.stepper.pastiche.clamp(0, 1)
            terms = self.objective.terms(self.objective.measure(self.problem.encoder(image)), image)
        self.row.losses.append(torch.stack([*terms.values()]).sum(0).mean().item())
        self.row.steps.append(self._target)
        self.row.seconds.append(seconds)


def quality_rows(workbench: Workbench, height: int, width: int) -> list[QualityRow]:
    """For every pair of pictures: eager with each plain optimiser, then every engine as ``stylize`` runs it.

    The longest side of the pastiche is the larger of height and width; its shape is the content picture's.
    """
    side, config = max(height, width), workbench.config
    panel = Panel(config.jury, str(workbench.device)) if config.jury else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in config.picture_pairs:
            rows += _pair_rows(workbench, *_files(pair, Path(folder), side), side, panel)
    return rows


def _files(pair: tuple[str, str] | None, folder: Path, side: int) -> tuple[str, Path, Path]:
    """The name and the two files of a pair; those of ``sample`` are drawn."""
    if pair is not None:
        content, style = map(Path, pair)
        return f"{content.stem}+{style.stem}", content, style
    content, style = folder / "content.png", folder / "style.png"
    save_image(from_uint8(draw_content(side)), content)
    save_image(from_uint8(draw_style(side)), style)
    return "sample", content, style


def _pair_rows(
    workbench: Workbench, pair: str, content: Path, style: Path, side: int, panel: Panel | None
) -> list[QualityRow]:
    contenders = []
    for run in runs(workbench, side):
        problem = load_problem(run, content, [style], workbench.networks)
        recipe = f"{run.optimizer} {run.initial_learning_rate:g} from {run.init}"
        row = QualityRow(
            width=problem.width,
            height=problem.height,
            pair=pair,
            engine=run.engine,
            recipe=recipe,
            device=str(workbench.device),
        )
        contenders.append(QualityContender(row, run, problem, workbench))
    _paint(contenders, workbench)
    _compare_with_plain(contenders, workbench.config.steps)
    for contender in contenders:
        if panel is not None and contender.row.status == OK:
            with recorded(contender.row):
                picture = contender.stepper.pastiche.detach().clamp(0, 1).cpu()
                contender.row.scores = panel.jury(content, style, contender.run).score(picture)
    return [contender.row for contender in contenders]


def runs(workbench: Workbench, side: int) -> list[StylizeConfig]:
    """Eager with every plain optimiser from the content image, then the engines with the options as they are."""
    config = workbench.config
    found = []
    for optimizer, rate in config.plain_optimizers:
        run = workbench.run_options("eager", "fp32").replace(image_size=side, scales=1, **PLAIN)
        found.append(run.replace(optimizer=optimizer, learning_rate=rate))
    for engine, precision in config.engine_precisions:
        if engine != "eager":
            run = workbench.run_options(engine, precision)
            found.append(run.replace(image_size=side, scales=1, init=StylizeConfig.init))
    return found


def _paint(contenders: Sequence[QualityContender], workbench: Workbench) -> None:
    """Let all take turns; then those continue for as many again that are not as far as the best plain run."""
    rounds = workbench.config.steps // TURN_STEPS
    compete(contenders, rounds, workbench.stop)
    done = [contender for contender in contenders if contender.row.losses]
    goal = min((each.row.losses[-1] for each in done if each.plain), default=0.0)
    for _ in range(rounds):
        if not workbench.stop():
            take_turns([each for each in done if not each.plain and each.row.losses[-1] > goal])


def _compare_with_plain(contenders: Sequence[QualityContender], steps: int) -> None:
    """The goals are the lowest losses that a plain run has after a third of the steps and after all."""
    plain = [contender.row for contender in contenders if contender.plain and contender.row.status == OK]
    for goal, at in (("early", steps // 3), ("late", steps)):
        reached = [row for row in plain if row.steps[-1] >= at]
        if not reached:
            continue
        index = reached[0].steps.index(at - at % TURN_STEPS)
        best = min(reached, key=lambda row: row.losses[index])
        for row in (contender.row for contender in contenders if contender.row.losses):
            seconds = time_to(row.losses, row.seconds, best.losses[index])
            share = seconds / best.seconds[index] if seconds is not None and index else None
            for name, value in (("loss", best.losses[index]), ("seconds", seconds), ("share", share)):
                setattr(row, f"{goal}_{name}", value)


def time_to(losses: Sequence[float], values: Sequence[float], goal: float) -> float | None:
    """The value (seconds, steps) at which a falling curve first reaches a goal, interpolated between its points."""
    for index, loss in enumerate(losses):
        if loss <= goal:
            if not index:
                return values[0]
            before = losses[index - 1]
            share = (before - goal) / (before - loss)
            return values[index - 1] + share * (values[index] - values[index - 1])
    return None
