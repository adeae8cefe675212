"""The average of the iterates: less noise than any single one of them has, at the price of one picture of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.optimizers.base import State


class IterateAverage:
    """An exponential moving average of the pictures after every update (Polyak & Juditsky 1992).

    Corrected for its start at zero as Adam corrects its moments (Kingma & Ba 2015, section 3), so that it is a mean
    of the pictures seen from the first one on. It begins anew when the picture is changed by other means than an
    update: by smoothing, by a return to the best picture, and at a new scale, which starts from the average of the
    coarser one (as crowsonkb's style-transfer-pytorch does).

    Args:
        pastiche: the live picture [B, 3, H, W], for its shape and device.
        decay: share of the average that survives an update, from 0 to 1; 0.99 remembers about a hundred.
    """

    def __init__(self, pastiche: Tensor, decay: float) -> None:
        self.decay = decay
        self._sum = torch.zeros_like(pastiche)
        self._weight = 0.0  # of all pictures seen in the sum: 1 - decay^n

    def add(self, pastiche: Tensor) -> None:
        """Take in the picture after an update. Runs on the device and waits for nothing."""
        self._sum.lerp_(pastiche, 1 - self.decay)
        self._weight = self.decay * self._weight + (1 - self.decay)

    def restart(self) -> None:
        """Forget all pictures."""
        self._sum.zero_()
        self._weight = 0.0

    def state(self) -> State:
        return {"sum": self._sum, "weight": self._weight}

    def restore(self, state: State) -> None:
        self._sum.copy_(state["sum"])
        self._weight = state["weight"]

    @property
    def mean(self) -> Tensor | None:
        """The average [B, 3, H, W], a new tensor; None when there was no update since the last restart."""
        return self._sum / self._weight if self._weight else None
