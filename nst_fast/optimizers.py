"""Optimisers of pixels and learning-rate schedules: PyTorch's own Adam and L-BFGS behind one small interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.checkpoint import State
from nst_fast.config import OptimizerOptions
from nst_fast.evaluators import Evaluation, Evaluator

SMALLEST_SCALE = 1e-30  # of a gradient that is 0 everywhere
# L-BFGS without line search: mean change of a value of the picture in the first step, and in any, at learning rate 1.
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
    """Changes the pastiche in place, one update at a time."""

    pastiche: Tensor

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
            moments = {name: state[name].to(self.pastiche.device) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[self.pastiche] = {"step": state["step"], **moments}

    def take_over(self, coarser: Adam) -> None:
        """Start with the moments of a coarser scale, resized; the second moment stays non-negative."""
        state = coarser._adam.state.get(coarser.pastiche)
        if not state:
            return
        size = self.pastiche.shape[2:]
        self._adam.state[self.pastiche] = {
            "step": state["step"].clone(),
            "exp_avg": functional.interpolate(state["exp_avg"], size, mode="bicubic"),
            "exp_avg_sq": functional.interpolate(state["exp_avg_sq"], size, mode="bilinear").relu_(),
        }


class LBFGS:
    """L-BFGS (Liu & Nocedal 1989) on pixels. Not clamped: clipping breaks the curvature pairs; saving clips.

    The thresholds of ``torch.optim.LBFGS`` are absolute and would end a run whose losses are means over megapixels
    at once, so they are off; ``steps`` decides. For the same reason loss and gradient are divided by the mean size of
    the first gradient: the method does not depend on the scale of the loss, but a sum of squares in single precision
    overflows at losses of 1e18 (squared Grams of an unnormalised network), and PyTorch drops curvature below 1e-10.

    Without a line search the length of a step is bounded, times the learning rate. PyTorch's first step changes all
    pixels *together* by 1, too little to tell curvature from rounding, and the second then overshoots by orders of
    magnitude: losses jump a thousandfold and come back over tens of steps. Bounded, they fall from the first step on.
    """

    def __init__(self, pastiche: Tensor, options: OptimizerOptions) -> None:
        self.pastiche = pastiche
        self._scale: Tensor | None = None
        self._bounded = options.line_search == "none"
        self._lbfgs = torch.optim.LBFGS(
            [pastiche],
            lr=options.initial_learning_rate,
            max_iter=1,
            max_eval=25,  # bounds the line search; without one an iteration is a single evaluation
            tolerance_grad=0,
            tolerance_change=0,
            history_size=options.lbfgs_history,
            line_search_fn=None if options.line_search == "none" else options.line_search,
        )

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        first = self._scale is None and self._bounded
        # PyTorch divides the first step by the sum of the gradient's sizes, which scaling makes the number of values.
        self._lbfgs.param_groups[0]["lr"] = learning_rate * (FIRST_CHANGE * self.pastiche.numel() if first else 1)
        scale = evaluation.gradient.abs().mean().clamp_min(SMALLEST_SCALE) if self._scale is None else self._scale
        self._scale = scale
        pending: list[Evaluation] = [evaluation]  # the optimiser's first call asks for what is already known

        def closure() -> Tensor:
            current = pending.pop() if pending else evaluate(self.pastiche)
            self.pastiche.grad = current.gradient / scale
            return current.total.sum() / scale

        before = self.pastiche.clone()
        self._lbfgs.step(closure)  # type: ignore[no-untyped-call]
        self.pastiche.grad = None
        if self._bounded:
            self._bound(before, LARGEST_CHANGE * learning_rate)

    def _bound(self, before: Tensor, largest: float) -> None:
        """Shorten the last step to a mean change of ``largest``, and the step that PyTorch remembers with it."""
        share = (largest / (self.pastiche - before).abs().mean()).clamp_max(1)
        self.pastiche.copy_(torch.lerp(before, self.pastiche, share))
        state = self._lbfgs.state[self.pastiche]
        state["t"] = state["t"] * share

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


def moved(value: Any, device: torch.device) -> Any:
    """Part of a state with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    return [moved(item, device) for item in value] if isinstance(value, list) else value


OPTIMIZERS: dict[str, Callable[[Tensor, OptimizerOptions], PixelOptimizer]] = {"adam": Adam, "lbfgs": LBFGS}


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
