"""The average of the iterates: less noise than any single one has, for one picture of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.optimizers.base import State


class IterateAverage:
    """An exponential moving average of the pastiche after every update (Polyak & Juditsky 1992).

    Its start at zero is corrected as in Adam (Kingma & Ba 2015, section 3). It restarts when the pastiche changes by
    other means than an update: smoothing, a return to the best picture, a new scale, which starts from the average of
    the coarser one (as in crowsonkb's style-transfer-pytorch).

    Args:
        pastiche: [B, 3, H, W], for its shape and device.
        decay: share of the average that is kept at an update, from 0 to 1.
    """

    def __init__(self, pastiche: Tensor, decay: float) -> None:
        self.decay = decay
        self._sum = torch.zeros_like(pastiche)
        self._weight = 0.0  # sum of the weights: 1 - decay^n

    def add(self, pastiche: Tensor) -> None:
        """Include the pastiche after an update. Does not synchronise with the device."""
        self._sum.lerp_(pastiche, 1 - self.decay)
        self._weight = self.decay * self._weight + (1 - self.decay)

    def restart(self) -> None:
        self._sum.zero_()
        self._weight = 0.0

    def state(self) -> State:
        return {"sum": self._sum, "weight": self._weight}

    def restore(self, state: State) -> None:
        self._sum.copy_(state["sum"])
        self._weight = state["weight"]

    @property
    def mean(self) -> Tensor | None:
        """The average [B, 3, H, W], a new tensor; None without an update since the last restart."""
        return self._sum / self._weight if self._weight else None
