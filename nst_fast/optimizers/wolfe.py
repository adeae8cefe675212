"""PyTorch's L-BFGS with its line search."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.optimizers.base import SMALLEST_SCALE, State, moved, smoothed
from nst_fast.options.config import OptimizerOptions

# The state of torch.optim.LBFGS: its lists with one entry per pair, and what means nothing between two steps.
PAIRS, SCRATCH = {"old_dirs", "old_stps", "ro"}, "al"


class WolfeLBFGS:
    """``torch.optim.LBFGS`` with a line search, clamped to [0, 1] after every step as in PyTorch's tutorial.

    Its absolute thresholds are off, because they would end a run whose losses are means over megapixels; loss and
    gradient are divided by the mean size of the first gradient, because PyTorch drops curvature below 1e-10.
    """

    def __init__(self, pastiche: Tensor, options: OptimizerOptions) -> None:
        self.pastiche = pastiche
        self._scale: Tensor | None = None
        self._lbfgs = torch.optim.LBFGS(
            [pastiche],
            lr=options.initial_learning_rate,
            max_iter=1,
            max_eval=25,  # bounds the line search
            tolerance_grad=0,
            tolerance_change=0,
            history_size=options.lbfgs_history,
            line_search_fn=options.line_search,
        )

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        self._lbfgs.param_groups[0]["lr"] = learning_rate
        scale = evaluation.gradient.abs().mean().clamp_min(SMALLEST_SCALE) if self._scale is None else self._scale
        self._scale = scale
        pending: list[Evaluation] = [evaluation]  # for the first call of the closure

        def closure() -> Tensor:
            current = pending.pop() if pending else evaluate(self.pastiche)
            self.pastiche.grad = current.gradient / scale
            return current.total.sum() / scale

        self._lbfgs.step(closure)  # type: ignore[no-untyped-call]
        self.pastiche.grad = None
        self.pastiche.clamp_(0, 1)

    def smooth(self) -> None:
        """The pairs are dropped: the next one would attribute the jump to the last step."""
        self.restart_from(smoothed(self.pastiche))

    def restart_from(self, picture: Tensor) -> None:
        self.pastiche.copy_(picture)
        self._lbfgs.state.clear()
        self._scale = None

    def state(self) -> State:
        known = self._lbfgs.state.get(self.pastiche, {})
        return {"scale": self._scale, "lbfgs": {name: known[name] for name in known if name != SCRATCH}}

    def restore(self, state: State) -> None:
        """A shorter history keeps the newest pairs."""
        known = moved(state["lbfgs"], self.pastiche.device)
        for name in PAIRS.intersection(known):
            known[name] = known[name][-self._lbfgs.param_groups[0]["history_size"] :]
        self._lbfgs.state[self.pastiche].update(known)
        self._scale = moved(state["scale"], self.pastiche.device)
