"""What optimizers and steppers are, the usual stepper, learning rate schedules and smoothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.distributed.strips import Halos, Strip
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.network.tiles import Extent
from nst_fast.options.config import OptimizerOptions

State = Mapping[str, Any]  # plain data as JSON has it, and tensors, at any depth
REACH = 2  # rows: pooled by 2 and brought back bilinearly, a pixel depends on one window further
SMALLEST_SCALE = 1e-30  # of a gradient that is 0 everywhere


class Updated(Protocol):
    """A pastiche [B, 3, H, W] that is updated step by step, with the state that its updates have."""

    @property
    def pastiche(self) -> Tensor:
        """The picture; after an update it may be another tensor."""

    def smooth(self) -> None:
        """Smooth the pastiche, see :func:`smoothed`; drop state that no longer applies."""

    def restart_from(self, picture: Tensor) -> None:
        """Set the pastiche to an earlier picture and drop all state."""

    def state(self) -> State:
        """The state for a checkpoint: live tensors, without the picture."""

    def restore(self, state: State) -> None:
        """Take over what :meth:`state` gave."""


class PixelOptimizer(Updated, Protocol):
    """Changes the pastiche, one update at a time."""

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        """One update by the evaluation of the pastiche; ``evaluate`` is for line searches."""


class Stepper(Updated, Protocol):
    """Evaluates and updates the pastiche. Nothing is read back to the host."""

    def evaluate(self, rate: float) -> Evaluation:
        """The objective at the pastiche; ``rate`` is the learning rate of the update that is expected to follow."""

    def update(self, rate: float) -> None:
        """Update the pastiche by what was evaluated last."""

    def evaluate_image(self, image: Tensor) -> Evaluation:
        """The objective at another image of the pastiche's size."""


class TorchStepper:
    """A stepper made of an evaluator and an optimizer."""

    def __init__(self, evaluator: Evaluator, optimizer: PixelOptimizer) -> None:
        self.evaluate_image = evaluator
        self.optimizer = optimizer
        self.smooth = optimizer.smooth
        self.restart_from = optimizer.restart_from
        self.state = optimizer.state
        self.restore = optimizer.restore
        self._evaluation: Evaluation | None = None

    @property
    def pastiche(self) -> Tensor:
        return self.optimizer.pastiche

    def evaluate(self, rate: float) -> Evaluation:
        self._evaluation = self.evaluate_image(self.pastiche)
        return self._evaluation

    def update(self, rate: float) -> None:
        assert self._evaluation is not None, "evaluate comes before update"
        # Not kept: its gradient, as large as the picture, would lie beside the next one.
        evaluation, self._evaluation = self._evaluation, None
        self.optimizer.update(evaluation, self.evaluate_image, rate)


def learning_rate_at(options: OptimizerOptions, step: int) -> float:
    """The learning rate of the update that follows ``step`` updates.

    ``exponential``: rate · decay_rate^(step / decay_steps), continuous as Keras' ExponentialDecay. ``cosine``: half a
    cosine from the initial rate to its fraction ``final_learning_rate`` (Loshchilov & Hutter 2017, eq. 5, no restart).
    """
    rate = options.initial_learning_rate
    if options.schedule == "exponential":
        return rate * math.pow(options.decay_rate, step / options.decay_steps)
    if options.schedule == "cosine":
        done = min(step, options.steps) / max(1, options.steps - 1)
        floor = options.final_learning_rate
        return rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
    return rate


def smoothed(image: Tensor, strip: Strip | None = None) -> Tensor:
    """An image [B, C, H, W] average-pooled by 2 and bilinearly brought back to its size.

    Removes noise of single pixels. An odd side is padded by its last row or column, so that nothing moves.
    ``strip``: the image has the own rows of a picture that ranks share, which is smoothed as a whole.
    """
    if strip is not None and strip.ranks.size > 1:
        rows = [
            Extent(each.start, each.stop, max(0, each.start - REACH), min(strip.height, each.stop + REACH))
            for each in strip.rows
        ]
        mine = rows[strip.ranks.rank]
        around = smoothed(Halos(strip.ranks, rows).fetch(image))
        return around[:, :, mine.start - mine.low : mine.stop - mine.low]
    height, width = image.shape[2:]
    even = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    pooled = functional.avg_pool2d(even, 2)
    return functional.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]


def smooths_at(options: OptimizerOptions, step: int) -> bool:
    """Whether the picture is smoothed after ``step`` updates; never after the last, which would end in a blur."""
    return bool(options.smooth_every) and step % options.smooth_every == 0 and step < options.steps


def moved(value: Any, device: torch.device) -> Any:
    """Part of a state with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    return [moved(item, device) for item in value] if isinstance(value, list) else value
