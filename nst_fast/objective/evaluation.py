"""The contract of every engine: pastiche in, loss terms and gradient out, nothing read back to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The objective at one pastiche.

    Attributes:
        total: [B], the sum of the terms, on the pastiche's device.
        terms: name -> weighted term [B], as :meth:`nst_fast.objective.objective.Objective.terms` names them.
        gradient: of the total with respect to the pastiche, [B, 3, H, W].
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    gradient: Tensor


class Evaluator(Protocol):
    """Evaluates the objective and its gradient. No ``.item()``, no print, no host synchronisation."""

    def __call__(self, pastiche: Tensor) -> Evaluation: ...
