"""One step of the loop: the objective is evaluated at the pastiche, and the pastiche is updated."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.optimizers.base import PixelOptimizer, Updated


class Stepper(Updated, Protocol):
    """Evaluates and updates the pastiche. Nothing is read back to the host."""

    def evaluate(self, rate: float) -> Evaluation:
        """The objective at the pastiche; ``rate`` is the learning rate of the update that is expected to follow."""
        ...

    def update(self, rate: float) -> None:
        """Update the pastiche by what was evaluated last."""
        ...

    def evaluate_image(self, image: Tensor) -> Evaluation:
        """The objective at another image of the pastiche's size."""
        ...


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
