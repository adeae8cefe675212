"""Optimisers of pixels and learning-rate schedules behind one small interface: Adam, and L-BFGS within [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.checkpoint import State
from nst_fast.config import OptimizerOptions
from nst_fast.curvature import CurvaturePairs
from nst_fast.evaluators import Evaluation, Evaluator

SMALLEST_SCALE = 1e-30  # of a gradient that is 0 everywhere
# L-BFGS: mean change of a value of the picture in the first step, and at most in any other, at learning rate 1.
FIRST_CHANGE, LARGEST_CHANGE = 0.01, 0.03
# The state of torch.optim.LBFGS: its lists with one entry per pair, and what means nothing between two steps.
PAIRS, SCRATCH = {"old_dirs", "old_stps", "ro"}, "al"


def learning_rate_at(options: OptimizerOptions, step: int) -> float:
    """The learning rate of the update that follows ``step`` updates.

    ``exponential``: rate · decay_rate^(step / decay_steps), continuous as Keras' ExponentialDecay. ``cosine``: half a
    cosine from the initial rate to its fraction ``final_learning_rate`` (Loshchilov & Hutter 2017, eq. 5, no restart).
    """
    rate = options.initial_learning_rate
    if options.schedule == "exponential":
        return rate * math.pow(options.decay_rate, step / options.decay_steps)
    if options.schedule == "cosine":
        done = step / max(1, options.steps - 1)
        floor = options.final_learning_rate
        return rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
    return rate


def smoothed(image: Tensor) -> Tensor:
    """An image [B, C, H, W] average-pooled by 2 and bilinearly brought back to its size.

    Takes out noise of single pixels, which total variation removes at the price of flat patches. An odd side is
    continued by its last row or column, so that nothing moves.
    """
    height, width = image.shape[2:]
    even = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    pooled = functional.avg_pool2d(even, 2)
    return functional.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]


def smooths_at(options: OptimizerOptions, step: int) -> bool:
    """Whether the picture is smoothed after ``step`` updates; never after the last, which would end in a blur."""
    return bool(options.smooth_every) and step % options.smooth_every == 0 and step < options.steps


class PixelOptimizer(Protocol):
    """Changes the pastiche, one update at a time."""

    @property
    def pastiche(self) -> Tensor:
        """The picture as it is; after an update it may be another tensor."""
        ...

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        """One update, given the evaluation of the pastiche as it is; ``evaluate`` serves line searches only."""
        ...

    def smooth(self) -> None:
        """Smooth the pastiche, see :func:`smoothed`, and forget what is no longer true of it."""
        ...

    def restart_from(self, picture: Tensor) -> None:
        """Go back to an earlier picture and forget everything learnt since."""
        ...

    def state(self) -> State:
        """What it has learnt, for a checkpoint: live tensors, but not the picture."""
        ...

    def restore(self, state: State) -> None:
        """Know again what :meth:`state` gave."""
        ...


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) on pixels, clamped to [0, 1] after every update."""

    def __init__(self, pastiche: Tensor, options: OptimizerOptions) -> None:
        self.pastiche = pastiche
        self._adam = torch.optim.Adam(
            [pastiche],
            lr=options.initial_learning_rate,
            betas=(options.adam_beta1, options.adam_beta2),
            eps=options.adam_epsilon,
            fused=pastiche.is_cuda,  # one launch
        )

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        self._adam.param_groups[0]["lr"] = learning_rate
        self.pastiche.grad = evaluation.gradient
        self._adam.step()
        self.pastiche.grad = None
        self.pastiche.clamp_(0, 1)

    def smooth(self) -> None:
        """The moments stay: they are running means of gradients and follow the smoothed picture within some steps."""
        self.pastiche.copy_(smoothed(self.pastiche))

    def restart_from(self, picture: Tensor) -> None:
        self.pastiche.copy_(picture)
        self._adam.state.clear()

    def state(self) -> State:
        return dict(self._adam.state.get(self.pastiche, {}))

    def restore(self, state: State) -> None:
        if state:
            device = self.pastiche.device
            moments = {name: state[name].to(device) for name in ("exp_avg", "exp_avg_sq")}
            step = state["step"].to(device if self._adam.defaults["fused"] else "cpu")
            self._adam.state[self.pastiche] = {"step": step, **moments}

    def take_over(self, coarser: Adam) -> None:
        """Start with the moments of a coarser scale, resized; the second moment stays non-negative."""
        self.restore(resized_moments(coarser.state(), (self.pastiche.shape[2], self.pastiche.shape[3])))


def resized_moments(state: State, size: tuple[int, int]) -> State:
    """The state of an Adam for a picture of another height and width."""
    if "step" not in state:
        return state
    return {
        **state,
        "step": state["step"].clone(),
        "exp_avg": functional.interpolate(state["exp_avg"], size, mode="bicubic"),
        "exp_avg_sq": functional.interpolate(state["exp_avg_sq"], size, mode="bilinear").relu_(),
    }


class LBFGS:
    """L-BFGS (Liu & Nocedal 1989) on pixels, within [0, 1], one evaluation a step, nothing read by the host.

    - **Within the range.** Programs run L-BFGS on unbounded pixels and clip the result, or clip in between behind its
      back: the first loses at the end what it had gained (a loss of 1.34 became 2.33), the second tells it of steps
      that were never made. Here the pairs are those of the clamped steps, and a value at a border whose gradient
      points outward takes no part in a step (two-metric projection, Bertsekas 1982, SIAM J. Control Optim. 20).
    - **Whatever the scale of the loss.** Gradients are divided by the mean size of the first: squared Grams of an
      unnormalised network reach 1e18, means over megapixels 1e-12, and single precision holds neither squared.
    - **Still.** From the third update on nothing that is kept changes its address, and no shape depends on how many
      pairs there are: :class:`nst_fast.graphed_optimizer.GraphedOptimizer` captures an update and replays it.
    - **Bounded.** A step changes a value by ``LARGEST_CHANGE`` at most on average, the first by ``FIRST_CHANGE``, times
      the learning rate: curvature that is measured over tiny steps is rounding, and the next step overshoots.

    Args:
        pastiche: [B, 3, H, W], B independent pictures.
        options: history and learning rate, by which steps and bounds are multiplied.
        total: sums parts of scalar products over the processes that share a picture.
    """

    def __init__(
        self, pastiche: Tensor, options: OptimizerOptions, total: Callable[[Tensor], Tensor] = lambda part: part
    ) -> None:
        self.pastiche = pastiche
        self.total = total
        self.history = options.lbfgs_history
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
        largest, longest = FIRST_CHANGE, math.inf
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
        """Add what the last step has shown to the pairs; the gradient again, in memory that stays."""
        if self._last is None:
            return gradient
        if self._pairs is None:
            self._pairs = CurvaturePairs(gradient, self.history, self.total)
        step, before = self._last
        self._pairs.add(step, torch.sub(gradient, before, out=before))
        return before.copy_(gradient)

    def _mean_size(self, values: Tensor) -> Tensor:
        """The mean absolute value of every picture, [B, 1, 1, 1], above 0."""
        sums = torch.stack([values.abs().sum((1, 2, 3)), torch.full_like(values[:, 0, 0, 0], values[0].numel())])
        summed, count = self.total(sums).unbind()
        return (summed / count).clamp_min_(SMALLEST_SCALE).view(-1, 1, 1, 1)

    def smooth(self) -> None:
        """What is known is forgotten: the next pair would blame the whole jump on the last step."""
        self.restart_from(smoothed(self.pastiche))

    def restart_from(self, picture: Tensor) -> None:
        self.pastiche.copy_(picture)
        self._pairs = self._unit = self._last = None

    def state(self) -> State:
        if self._unit is None or self._last is None:
            return {}
        pairs = self._pairs.state() if self._pairs is not None else {}
        return {"unit": self._unit, "step": self._last[0], "gradient": self._last[1], "pairs": pairs}

    def restore(self, state: State) -> None:
        """A shorter history than there was keeps the newest pairs."""
        if not state:
            return
        known = moved(state, self.pastiche.device)
        self._unit, self._last = known["unit"], (known["step"], known["gradient"])
        if known["pairs"]:
            self._pairs = CurvaturePairs(self._last[1], self.history, self.total)
            self._pairs.restore(known["pairs"])


class WolfeLBFGS:
    """``torch.optim.LBFGS`` with a line search, clamped to [0, 1] after every step as PyTorch's tutorial does.

    The best that the field's programs have, and the measure of :class:`LBFGS` in benchmarks. Its thresholds are
    absolute and would end a run whose losses are means over megapixels at once, so they are off, and loss and gradient
    are divided by the mean size of the first gradient, for PyTorch drops curvature below 1e-10.
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
        pending: list[Evaluation] = [evaluation]  # the optimiser's first call asks for what is already known

        def closure() -> Tensor:
            current = pending.pop() if pending else evaluate(self.pastiche)
            self.pastiche.grad = current.gradient / scale
            return current.total.sum() / scale

        self._lbfgs.step(closure)  # type: ignore[no-untyped-call]
        self.pastiche.grad = None
        self.pastiche.clamp_(0, 1)

    def smooth(self) -> None:
        """The history is cleared: its next curvature pair would blame the whole jump on the last step."""
        self.restart_from(smoothed(self.pastiche))

    def restart_from(self, picture: Tensor) -> None:
        self.pastiche.copy_(picture)
        self._lbfgs.state.clear()
        self._scale = None

    def state(self) -> State:
        known = self._lbfgs.state.get(self.pastiche, {})
        return {"scale": self._scale, "lbfgs": {name: known[name] for name in known if name != SCRATCH}}

    def restore(self, state: State) -> None:
        """A shorter history than there was keeps the newest pairs."""
        known = moved(state["lbfgs"], self.pastiche.device)
        for name in PAIRS.intersection(known):
            known[name] = known[name][-self._lbfgs.param_groups[0]["history_size"] :]
        self._lbfgs.state[self.pastiche].update(known)
        self._scale = moved(state["scale"], self.pastiche.device)


def make_lbfgs(pastiche: Tensor, options: OptimizerOptions) -> PixelOptimizer:
    """Our own, or PyTorch's where a line search is asked for."""
    return LBFGS(pastiche, options) if options.line_search == "none" else WolfeLBFGS(pastiche, options)


def moved(value: Any, device: torch.device) -> Any:
    """Part of a state with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    return [moved(item, device) for item in value] if isinstance(value, list) else value


OPTIMIZERS: dict[str, Callable[[Tensor, OptimizerOptions], PixelOptimizer]] = {"adam": Adam, "lbfgs": make_lbfgs}


def make_optimizer(
    pastiche: Tensor, options: OptimizerOptions, previous: PixelOptimizer | None = None
) -> PixelOptimizer:
    """The optimiser that the options name, for a pastiche [B, 3, H, W] that it will change in place.

    ``previous`` is the optimiser of the coarser scale: Adam carries its moments over (crowsonkb), resized; L-BFGS
    begins anew, because its curvature pairs belong to another space.
    """
    optimizer = OPTIMIZERS[options.optimizer](pastiche, options)
    if isinstance(optimizer, Adam) and isinstance(previous, Adam):
        optimizer.take_over(previous)
    return optimizer
