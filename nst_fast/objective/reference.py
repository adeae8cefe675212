"""The reference engine: fp32, contiguous NCHW, plain autograd - what the field's programs do, written plainly.

Every other engine is measured against this one, for speed and for its answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective


class EagerEvaluator:
    """Autograd through the encoder as it stands."""

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
