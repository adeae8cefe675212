"""What every engine computes, and the reference engine: plain autograd in fp32, as the field's programs do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Objective


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at one pastiche."""

    total: Tensor  # [B], the sum of the terms, on the pastiche's device
    terms: Mapping[str, Tensor]  # name -> weighted term [B], see :meth:`nst_fast.objective.objective.Objective.terms`
    gradient: Tensor  # of the total with respect to the pastiche, [B, 3, H, W]


# From a pastiche [B, 3, H, W]. No ``.item()``, no print, no host synchronisation.
Evaluator = Callable[[Tensor], Evaluation]


class EagerEvaluator:
    """Autograd through the encoder; every other engine is compared with it, in speed and in result."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        self.encoder = encoder
        self.objective = objective

    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach().requires_grad_(True)
        statistics = self.objective.measure(self.encoder(image))
        terms = self.objective.terms(statistics, image)
        total = torch.stack(list(terms.values())).sum(0)  # [B]
        (gradient,) = torch.autograd.grad(total.sum(), image)
        return Evaluation(total.detach(), {name: term.detach() for name, term in terms.items()}, gradient)
