"""Time to quality: seconds until a run has the loss that plain eager optimisation has after so many steps.

Steps per second say nothing about a better optimiser or start, and losses say nothing about time. This says both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nst_fast.benchmark.loops import start_loop
from nst_fast.benchmark.rows import OK, QualityRow
from nst_fast.benchmark.turns import recorded
from nst_fast.benchmark.workbench import Scene, Workbench, arithmetic
from nst_fast.engines import choose, confirm_precision
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jury.judge import Jury, Panel
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


@dataclass(frozen=True)
class Recipe:
    """One way to the picture: what people call it, and every option of the run. Eager is measured at its best plain."""

    name: str
    run: StylizeConfig
    plain: bool = False


class QualityContender:
    """One run under the clock, a few steps at a time; its picture is judged in between, off the clock.

    All that a run does from its first evaluation on counts. Building the engine and its warm-up stand apart, as
    ``setup_seconds``. The judge is eager in IEEE fp32, whatever the contender computes in.
    """

    def __init__(self, row: QualityRow, recipe: Recipe, problem: Problem, workbench: Workbench) -> None:
        self.row, self.plain, self.run = row, recipe.plain, recipe.run
        self.clock = make_clock(workbench.device)
        scale = problem.scales[0]
        scene = Scene(problem.start_at(scale), problem.start_at(scale), problem.objective_at(scale))
        self.objective, self.encoder = scene.objective, problem.encoder
        started = self.clock()
        choice = choose(recipe.run, problem.encoder, workbench.device)
        if recipe.run.precision == "auto":
            choice = confirm_precision(choice, problem.encoder, scene.objective, scene.start)
        row.engine, row.precision = choice.engine, choice.precision
        run = recipe.run.replace(engine=choice.engine, precision=choice.precision)
        with arithmetic(row.precision):
            self.stepper = make_stepper(workbench.evaluator(run, scene), scene.start.clone(), run)
            for _ in range(WARM_UP):
                self.stepper.evaluate(0.0)
        row.setup_seconds = self.clock() - started
        self._target = 0
        self._events = start_loop(self.stepper, scene, 2 * run.steps, run, due=self._reached)
        self._note(0.0)

    def _reached(self, step: int) -> bool:
        return step >= self._target

    def advance(self) -> None:
        """Some steps on the clock, and a point of the curve."""
        self._target += TURN_STEPS
        with arithmetic(self.row.precision):
            started = self.clock()
            while next(self._events).step < self._target:
                continue  # an event in between is the guard's
            taken = self.clock() - started
        self._note(self.row.seconds[-1] + taken)

    def _note(self, seconds: float) -> None:
        with arithmetic("fp32"), torch.no_grad():
            image = self.stepper.pastiche.clamp(0, 1)
            terms = self.objective.terms(self.objective.measure(self.encoder(image)), image)
        self.row.losses.append(torch.stack([*terms.values()]).sum(0).mean().item())
        self.row.steps.append(self._target)
        self.row.seconds.append(seconds)

    def score(self, jury: Jury) -> None:
        """What the jury says of the picture as it is now."""
        self.row.scores = jury.score_image(self.stepper.pastiche.detach().clamp(0, 1).cpu())


def quality_rows(workbench: Workbench, height: int, width: int) -> list[QualityRow]:
    """For every pair of pictures: eager with each plain optimiser, then every engine as ``stylize`` runs it.

    The longest side of the pastiche is the larger of height and width; its shape is the content picture's.
    """
    side, config = max(height, width), workbench.config
    panel = Panel(config.jury, str(workbench.device)) if config.jury else None
    with tempfile.TemporaryDirectory() as folder:
        return [
            row
            for pair in config.picture_pairs
            for row in _pair_rows(workbench, *_files(pair, Path(folder), side), side, panel)
        ]


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
    contenders: list[QualityContender] = []
    rows: list[QualityRow] = []
    for recipe in recipes(workbench, side):
        problem = load_problem(recipe.run, content, [style], workbench.networks)
        row = QualityRow(
            width=problem.width, height=problem.height, pair=pair, recipe=recipe.name, device=str(workbench.device)
        )
        rows.append(row)
        with recorded(row):
            row.engine = recipe.run.engine
            contenders.append(QualityContender(row, recipe, problem, workbench))
    _run(contenders, workbench)
    _judge(contenders, workbench.config.steps)
    for contender in contenders:
        if panel is not None and contender.row.status == OK:
            with recorded(contender.row):
                contender.score(panel.jury(content, style, contender.run))
    return rows


def recipes(workbench: Workbench, side: int) -> list[Recipe]:
    """Eager with every plain optimiser from the content image, then the engines with the options as they are."""
    config = workbench.config
    found = []
    for optimizer, rate in config.plain_optimizers:
        run = workbench.run_options("eager", "fp32").replace(image_size=side, scales=1, **PLAIN)
        run = run.replace(optimizer=optimizer, learning_rate=rate)
        found.append(Recipe(f"{optimizer} {run.initial_learning_rate:g} from content", run, plain=True))
    for engine, precision in config.engine_precisions:
        run = workbench.run_options(engine, precision).replace(image_size=side, scales=1, init=StylizeConfig.init)
        if engine != "eager":
            found.append(Recipe(f"{run.optimizer} {run.initial_learning_rate:g} from {run.init}", run))
    return found


def _run(contenders: Sequence[QualityContender], workbench: Workbench) -> None:
    """Let all take turns, every other round in reverse; then those go on that are not as far as the plain runs."""
    rounds = workbench.config.steps // TURN_STEPS
    for index in range(rounds):
        _take_turns(contenders if index % 2 == 0 else contenders[::-1], workbench)
    goal = min((each.row.losses[-1] for each in contenders if each.plain), default=0.0)
    for _ in range(rounds):
        _take_turns([each for each in contenders if not each.plain and each.row.losses[-1] > goal], workbench)


def _take_turns(contenders: Sequence[QualityContender], workbench: Workbench) -> None:
    for contender in contenders:
        if contender.row.status == OK and not workbench.stop():
            with recorded(contender.row):
                contender.advance()


def _judge(contenders: Sequence[QualityContender], steps: int) -> None:
    """The goals are the lowest losses that a plain run has after a third of the steps and after all."""
    plain = [contender.row for contender in contenders if contender.plain and contender.row.status == OK]
    for goal, at in (("early", steps // 3), ("late", steps)):
        reached = [row for row in plain if row.steps[-1] >= at]
        if not reached:
            continue
        index = reached[0].steps.index(at - at % TURN_STEPS)
        best = min(reached, key=lambda row: row.losses[index])
        for contender in contenders:
            _compare(contender.row, best, index, goal)


def _compare(row: QualityRow, best: QualityRow, index: int, goal: str) -> None:
    """Fill in the figures of one goal: the loss of ``best`` at a point of its curve."""
    loss = best.losses[index]
    seconds = time_to(row.losses, row.seconds, loss)
    share = None if seconds is None else seconds / best.seconds[index]
    if goal == "early":
        row.early_loss, row.early_seconds, row.early_share = loss, seconds, share
    else:
        row.late_loss, row.late_seconds, row.late_share = loss, seconds, share


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
