"""Adam whose updates are part of ONNX Runtime's step graph."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.engines import Evaluation
from nst_fast.engines.ort import OrtEvaluator, check_single
from nst_fast.engines.ort_step import AdamBuffers, WholeStep
from nst_fast.onnx.graph.step import AdamConstants
from nst_fast.optimizers.base import State, smoothed
from nst_fast.options.config import OptimizerOptions


class OrtAdam:
    """A :class:`nst_fast.optimizers.Stepper`: the twin of an evaluator of ONNX Runtime with PyTorch's Adam.

    Picture and moments are in one of two sets of buffers. An evaluation reads that set and writes into the other one
    what an update with the given learning rate makes of it; the update only swaps the sets.

    Args:
        engine: evaluates, and provides the session of the step graph.
        pastiche: [1, 3, H, W], contiguous; used as the first set's picture.
    """

    def __init__(self, engine: OrtEvaluator, pastiche: Tensor, options: OptimizerOptions) -> None:
        check_single(pastiche)
        self.engine = engine
        self.options = options
        self._sets = (AdamBuffers.around(pastiche), AdamBuffers.around(torch.zeros_like(pastiche)))
        self._current = 0
        self._step: WholeStep | None = None
        self._updates = 0  # that the moments include
        self._prepared_rate: float | None = None  # of the update in the other set; None: there is none

    @property
    def pastiche(self) -> Tensor:
        """The picture; another tensor after every update."""
        return self._sets[self._current].pastiche

    def evaluate(self, rate: float) -> Evaluation:
        if self._step is None:
            self._step = self._prepared()
        options, t = self.options, self._updates + 1
        self._prepared_rate = rate
        return self._step(self._current, rate, (1 - options.adam_beta1**t, 1 - options.adam_beta2**t))

    def _prepared(self) -> WholeStep:
        engine, options = self.engine, self.options
        adam = AdamConstants(beta1=options.adam_beta1, beta2=options.adam_beta2, epsilon=options.adam_epsilon)
        return engine.prepare(lambda capture: WholeStep(engine, adam, self._sets, capture), self.pastiche.device)

    def evaluate_image(self, image: Tensor) -> Evaluation:
        kept = self.pastiche.clone()
        self.pastiche.copy_(image)
        evaluation = self.evaluate(0.0)
        self.pastiche.copy_(kept)
        self._prepared_rate = None
        return evaluation

    def update(self, rate: float) -> None:
        if rate != self._prepared_rate:
            self.evaluate(rate)
        self._current = 1 - self._current
        self._updates += 1
        self._prepared_rate = None

    def smooth(self) -> None:
        """The moments stay, as those of :class:`nst_fast.optimizers.Adam` do."""
        self.pastiche.copy_(smoothed(self.pastiche))
        self._prepared_rate = None

    def restart_from(self, picture: Tensor) -> None:
        current = self._sets[self._current]
        current.pastiche.copy_(picture)
        current.m.zero_()
        current.v.zero_()
        self._updates = 0
        self._prepared_rate = None

    def state(self) -> State:
        """That of ``torch.optim.Adam``."""
        if not self._updates:
            return {}
        current = self._sets[self._current]
        return {"step": torch.tensor(float(self._updates)), "exp_avg": current.m, "exp_avg_sq": current.v}

    def restore(self, state: State) -> None:
        if "step" in state:
            current = self._sets[self._current]
            current.m.copy_(state["exp_avg"])
            current.v.copy_(state["exp_avg_sq"])
            self._updates = int(state["step"])
        self._prepared_rate = None
