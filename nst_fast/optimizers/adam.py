"""Adam on pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.distributed.strips import Strip
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.optimizers.base import State, smoothed
from nst_fast.options.config import OptimizerOptions


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) on pixels, clamped to [0, 1] after every update.

    Args:
        pastiche: [B, 3, H, W], or the own rows of a picture that ranks share.
        strip: those rows.
    """

    def __init__(self, pastiche: Tensor, options: OptimizerOptions, strip: Strip | None = None) -> None:
        self.pastiche = pastiche
        self.strip = strip
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
        """The moments stay: they are running means and follow the smoothed picture within some steps."""
        self.pastiche.copy_(smoothed(self.pastiche, self.strip))

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


def resized_moments(state: State, strip: Strip) -> State:
    """Own rows of an Adam's state at another scale, resized; the second moment stays non-negative.

    Args:
        state: of the whole picture, at a coarser scale.
        strip: of the picture at the finer scale.
    """
    if "step" not in state:
        return {}
    size = (strip.height, strip.width)
    return {
        "step": state["step"].clone(),
        "exp_avg": strip.own(functional.interpolate(state["exp_avg"], size, mode="bicubic")),
        "exp_avg_sq": strip.own(functional.interpolate(state["exp_avg_sq"], size, mode="bilinear").relu_()),
    }
