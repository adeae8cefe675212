"""L-BFGS within [0, 1], with one evaluation a step and no synchronisation. The default optimizer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nst_fast.distributed.strips import Strip
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.optimizers.base import SMALLEST_SCALE, State, moved, smoothed
from nst_fast.optimizers.curvature import CurvaturePairs
from nst_fast.options.config import OptimizerOptions

# Mean change of a value of the picture in the first step, and at most in any other, at learning rate 1.
FIRST_CHANGE, LARGEST_CHANGE = 0.01, 0.03
NEAR_CHANGE = 0.001  # in the first step of a film's frame, which 0.01 would throw back by 3 of them


class LBFGS:
    """L-BFGS (Liu & Nocedal 1989) on pixels.

    - Projected: the pairs are those of the clamped steps, and a value at a border whose gradient points outward takes
      no part in a step (two-metric projection, Bertsekas 1982, SIAM J. Control Optim. 20).
    - Scaled: gradients are divided by the mean size of the first, because squared Grams of an unnormalised network
      reach 1e18 and means over megapixels 1e-12.
    - Bounded: a step changes a value by ``LARGEST_CHANGE`` at most on average, the first by ``FIRST_CHANGE``, times the
      learning rate.
    - Capturable: from the third update on no tensor changes its address, and no shape depends on the number of pairs
      (:class:`nst_fast.optimizers.captured.GraphedOptimizer`).

    Args:
        pastiche: [B, 3, H, W], B independent pictures.
        strip: the rows that the pastiche has, of a picture that ranks share: scalar products are sums over all ranks.
        near: whether the picture is close to its end, which makes the first step shorter.
    """

    def __init__(
        self, pastiche: Tensor, options: OptimizerOptions, strip: Strip | None = None, *, near: bool = False
    ) -> None:
        self.pastiche = pastiche
        self.strip = strip
        self.history = options.lbfgs_history
        self._first_change = NEAR_CHANGE if near else FIRST_CHANGE
        self._count = self.total(pastiche.new_full((1,), pastiche[0].numel()))  # values of a picture
        self._pairs: CurvaturePairs | None = None
        self._unit: Tensor | None = None  # mean size of the first gradient, [B, 1, 1, 1]
        self._last: tuple[Tensor, Tensor] | None = None  # the last step, and the gradient before it

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float | Tensor) -> None:
        if self._unit is None:
            self._unit = self._mean_size(evaluation.gradient)
        gradient = self._learn(evaluation.gradient / self._unit)
        picture = self.pastiche
        stuck = ((picture <= 0) & (gradient > 0)) | ((picture >= 1) & (gradient < 0))
        direction = gradient.masked_fill(stuck, 0)
        largest, longest = self._first_change, math.inf
        if self._pairs is not None:
            direction = self._pairs.inverse_times(direction).masked_fill_(stuck, 0)
            largest, longest = LARGEST_CHANGE, 1.0
        length = (largest / self._mean_size(direction)).clamp_max_(longest) * learning_rate
        moved = direction.mul_(-length).add_(picture).clamp_(0, 1)
        if self._last is None:
            self._last = (torch.empty_like(picture), gradient)
        torch.sub(moved, picture, out=self._last[0])
        picture.copy_(moved)

    def _learn(self, gradient: Tensor) -> Tensor:
        """Add the last step to the pairs; the gradient, in memory whose address stays."""
        if self._last is None:
            return gradient
        if self._pairs is None:
            self._pairs = CurvaturePairs(gradient, self.history, self.total)
        step, before = self._last
        self._pairs.add(step, torch.sub(gradient, before, out=before))
        return before.copy_(gradient)

    def total(self, part: Tensor) -> Tensor:
        """The sum over all ranks of a part of a scalar product."""
        if self.strip is not None:
            self.strip.ranks.all_reduce(part)
        return part

    def _mean_size(self, values: Tensor) -> Tensor:
        """The mean absolute value of every picture, [B, 1, 1, 1], above 0."""
        return (self.total(values.abs().sum((1, 2, 3))) / self._count).clamp_min_(SMALLEST_SCALE).view(-1, 1, 1, 1)

    def smooth(self) -> None:
        """The pairs are dropped: the next one would attribute the jump to the last step."""
        self.restart_from(smoothed(self.pastiche, self.strip))

    def restart_from(self, picture: Tensor) -> None:
        self.pastiche.copy_(picture)
        self._pairs = self._unit = self._last = None

    def state(self) -> State:
        if self._unit is None or self._last is None:
            return {}
        pairs = self._pairs.state() if self._pairs is not None else {}
        return {"unit": self._unit, "step": self._last[0], "gradient": self._last[1], "pairs": pairs}

    def restore(self, state: State) -> None:
        """A shorter history keeps the newest pairs."""
        if not state:
            return
        known = moved(state, self.pastiche.device)
        self._unit, self._last = known["unit"], (known["step"], known["gradient"])
        if known["pairs"]:
            self._pairs = CurvaturePairs(self._last[1], self.history, self.total)
            self._pairs.restore(known["pairs"])
