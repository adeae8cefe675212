"""Optimisers, starts, histories and scales on the same pairs: python bench/optimizers/optimizers.py --images FOLDER

Every recipe minimises the default objective; what is compared is its value at the delivered picture after so many
gradients at the final size. A gradient at a coarser scale counts as its share of the pixels, and one of a line search
as any other. What is in ``--output`` is not run again, so an interrupted table continues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_fast import StylizeConfig, stylize
from nst_fast.benchmark.scripts import conditions, flags, keep, read_json, say, script, write_json
from nst_fast.engines.fast import FastEvaluator
from nst_fast.run.problem import Networks, load_problem
from nst_fast.run.scales import plan_scales
from nst_fast.system.tables import markdown_table

COUNTS = (25, 50, 100, 150, 200, 300)  # gradients at the final size
EACH = (50, 100, 150)  # of recipes that depend on the count, and so take a run for each
GOAL = 150  # those of the default's run, whose loss the others are to reach
PAIRS = [
    ("tubingen.png", "starry_night.jpg"),
    ("golden_gate.jpg", "great_wave.jpg"),
    ("taj_mahal.jpg", "gauguin_tahiti.jpg"),
    ("figures.jpg", "vangogh_self.jpg"),
]
DEFAULT = "L-BFGS within [0, 1]"
RECIPES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "from the content": {"init": "content"},
    "from noise": {"init": "noise"},
    "8 pairs": {"lbfgs_history": 8},
    "50 pairs": {"lbfgs_history": 50},
    "100 pairs": {"lbfgs_history": 100},
    "from a half": {"scales": 2},
    "from a quarter": {"scales": 3, "min_size": 32},
    "Adam 0.02": {"optimizer": "adam", "learning_rate": 0.02},
    "Adam 0.05": {"optimizer": "adam", "learning_rate": 0.05},
    "Adam 0.05, falling": {"optimizer": "adam", "learning_rate": 0.05, "schedule": "cosine"},
}
# PyTorch's own, whose values leave [0, 1]: clamped before every gradient.
TORCH: dict[str, dict[str, Any]] = {
    "PyTorch's L-BFGS": {"history_size": 100},
    "PyTorch's L-BFGS, strong Wolfe": {"history_size": 100, "line_search_fn": "strong_wolfe"},
}
NAMES = (*RECIPES, *TORCH)
Curve = dict[int, float]


def curve_of(config: StylizeConfig, files: tuple[Path, Path], name: str, networks: Networks) -> Curve:
    """The loss after as many of :data:`COUNTS` as are at most ``config.steps``."""
    counts = [count for count in COUNTS if count <= config.steps]
    if name in TORCH:
        return torch_curve(config, files, TORCH[name], counts, networks)
    config = config.replace(**RECIPES[name])
    if config.scales == 1 and config.schedule == "constant":
        history = stylize(*files, config, steps=counts[-1], networks=networks).record.history["total"]
        return {count: history[count] for count in counts}
    return {
        count: stylize(*files, config, steps=steps_for(config, count), networks=networks).record.losses["total"]
        for count in counts
        if count in EACH
    }


def steps_for(config: StylizeConfig, count: int) -> int:
    """The steps at all scales that cost as much as ``count`` at the final size."""
    steps = count
    while sum(scale.steps * scale.fraction**2 for scale in plan_scales(config, steps + 1, 1024, 1024)) <= count:
        steps += 1
    return steps


def torch_curve(
    config: StylizeConfig, files: tuple[Path, Path], options: dict[str, Any], counts: Sequence[int], networks: Networks
) -> Curve:
    """``torch.optim.LBFGS`` from the content, at its defaults otherwise; every gradient is counted."""
    problem = load_problem(config.replace(init="content"), files[0], [files[1]], networks)
    scale = problem.scales[-1]
    evaluate = FastEvaluator(problem.encoder, problem.objective_at(scale))
    picture = problem.start_at(scale).clone()
    losses: list[float] = []

    def closure() -> Tensor:
        picture.clamp_(0, 1)
        evaluation = evaluate(picture)
        picture.grad = evaluation.gradient.clone()
        losses.append(evaluation.total.sum().item())
        return evaluation.total.sum()

    optimizer = torch.optim.LBFGS([picture], max_iter=counts[-1] + 1, tolerance_change=0, tolerance_grad=0, **options)
    while len(losses) <= counts[-1]:
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # PyTorch has no type
    # A line search may have its last gradient where it does not stay: the best so far is what it would deliver.
    return {count: min(losses[: count + 1]) for count in counts}


def kept(path: Path, make: Callable[[], Curve]) -> Curve:
    if not path.is_file():
        write_json(path, {str(count): loss for count, loss in make().items()})
    return {int(count): loss for count, loss in read_json(path).items()}


def gradients_to(curve: Curve, loss: float) -> float | None:
    """The gradients after which a curve has at most a loss, interpolated between its points."""
    points = sorted(curve.items())
    for (count, value), (following, lower) in pairwise(points):
        if lower <= loss <= value:
            return count + (value - loss) / (value - lower) * (following - count)
    return float(points[0][0]) if points[0][1] <= loss else None


def rows_of(curves: dict[str, dict[str, Curve]]) -> list[dict[str, Any]]:
    """Per recipe: its loss by the default's after :data:`GOAL`, mean over the pairs, and the gradients to that loss."""
    goals = {pair: curve[max(count for count in curve if count <= GOAL)] for pair, curve in curves[DEFAULT].items()}
    rows = []
    for name, of_pairs in curves.items():
        counts = sorted(set.intersection(*(set(curve) for curve in of_pairs.values())))
        relative = {
            count: sum(curve[count] / goals[pair] for pair, curve in of_pairs.items()) / len(goals) for count in counts
        }
        needed = [gradients_to(curve, goals[pair]) for pair, curve in of_pairs.items()]
        reached = [count for count in needed if count is not None]
        rows.append({"recipe": name, "relative": relative, "reached": len(reached), "gradients": reached})
    return rows


def markdown(rows: Sequence[dict[str, Any]], pairs: int) -> str:
    """A table for the documentation."""
    counts = sorted({count for row in rows for count in row["relative"]})
    head = ["recipe", *map(str, counts), f"to the default's after {GOAL}"]
    table = []
    for row in rows:
        cells = [f"{row['relative'][count]:.3f}" if count in row["relative"] else "" for count in counts]
        needed = f"{sum(row['gradients']) / row['reached']:.0f}" if row["reached"] else "never"
        if 0 < row["reached"] < pairs:
            needed += f" on {row['reached']} of {pairs}"
        table.append([row["recipe"], *cells, needed])
    return "\n".join(markdown_table(head, table)) + "\n"


@script
def main() -> None:
    parser = flags(__doc__, __file__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="the folder of the pairs' pictures")
    add("--output", type=Path, required=True, help="where curves are kept; what is there is not made again")
    add("--size", type=int, default=192, help="longest side in pixels (default: 192)")
    add("--steps", type=int, default=200, help="the most gradients (default: 200)")
    add("--weights", default=StylizeConfig.weights, help=f"of the network (default: {StylizeConfig.weights})")
    add("--pairs", type=int, default=len(PAIRS), help="the first so many pairs (default: all)")
    add("--recipes", nargs="+", choices=NAMES, default=NAMES, help="only these", metavar="RECIPE")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    config = StylizeConfig(image_size=given.size, scales=1, monitor_every=0, convolution="winograd")
    config, networks = config.replace(steps=given.steps, weights=given.weights), Networks()
    curves: dict[str, dict[str, Curve]] = {}
    for name in dict.fromkeys([DEFAULT, *given.recipes]):
        curves[name] = {}
        for pair in PAIRS[: given.pairs]:
            title = "+".join(Path(file).stem for file in pair)
            path = given.output / f"{given.size}-{given.steps} {name} {title}.json"
            files = given.images / pair[0], given.images / pair[1]
            curves[name][title] = kept(path, partial(curve_of, config, files, name, networks))
            say(f"{name} {title}: {curves[name][title]}")
    rows = rows_of(curves)
    report = conditions("nst-fast/optimizers/1") | {"size": given.size, "rows": rows, "losses": curves}
    keep(given.results, "optimizers", report)
    sys.stdout.write(markdown(rows, given.pairs))


if __name__ == "__main__":
    sys.exit(main())
