"""Adam whose updates are part of ONNX Runtime's step graph: one object evaluates and optimises."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.engines.ort import OrtEvaluator, check_single
from nst_fast.engines.ort_step import AdamBuffers, WholeStep
from nst_fast.onnx.step.spec import AdamConstants
from nst_fast.optimizers import PixelOptimizer, learning_rate_at, make_optimizer, smoothed
from nst_fast.optimizers.adam import resized_moments
from nst_fast.optimizers.base import State
from nst_fast.optimizers.captured import graphed
from nst_fast.options.config import OptimizerOptions, StylizeConfig


class OrtAdam:
    """The twin of :class:`nst_fast.optimizers.Adam`.

    Picture and moments are in one of two sets of buffers. An evaluation reads that set and writes into the other one
    what the update would make of it, at the learning rate that is expected: the schedule's, times what the last rate
    was of its own. An update then only swaps the sets. If another rate is asked for, the step is run once more.

    Args:
        pastiche: [1, 3, H, W], contiguous; one of the two sets has it for its own.
        options: Adam's constants and the schedule.
    """

    def __init__(self, pastiche: Tensor, options: OptimizerOptions) -> None:
        check_single(pastiche)
        self.options = options
        self.engine: OrtEvaluator | None = None
        self._sets = (AdamBuffers.around(pastiche), AdamBuffers.around(torch.zeros_like(pastiche)))
        self._current = 0
        self._step: WholeStep | None = None
        self._moments_of = 0  # updates that the moments know of
        self._updates = 0  # all of this run
        self._factor = 1.0
        self._proposed: float | None = None  # the rate behind what the other set holds; None: it holds nothing of use

    @property
    def pastiche(self) -> Tensor:
        """The picture; another tensor after every update."""
        return self._sets[self._current].pastiche

    def __call__(self, pastiche: Tensor) -> Evaluation:
        """As an evaluator: of its own picture, where the update is prepared as well, or of any other of its size."""
        if pastiche is self.pastiche:
            return self._propose(self._planned() * self._factor)
        kept = self.pastiche.clone()
        self.pastiche.copy_(pastiche)
        evaluation = self._propose(0.0)
        self.pastiche.copy_(kept)
        self._proposed = None
        return evaluation

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        if learning_rate != self._proposed:
            self._propose(learning_rate)
        planned = self._planned()
        self._factor = learning_rate / planned if planned else 1.0
        self._current = 1 - self._current
        self._moments_of += 1
        self._updates += 1
        self._proposed = None

    def _planned(self) -> float:
        return learning_rate_at(self.options, min(self._updates, self.options.steps))

    def _propose(self, learning_rate: float) -> Evaluation:
        if self._step is None:
            self._step = self._prepared()
        options, t = self.options, self._moments_of + 1
        self._proposed = learning_rate
        return self._step(self._current, learning_rate, (1 - options.adam_beta1**t, 1 - options.adam_beta2**t))

    def _prepared(self) -> WholeStep:
        assert self.engine is not None, "evaluation_by goes before the first evaluation"
        engine, options = self.engine, self.options
        adam = AdamConstants(beta1=options.adam_beta1, beta2=options.adam_beta2, epsilon=options.adam_epsilon)
        return engine.prepare(lambda capture: WholeStep(engine, adam, self._sets, capture), self.pastiche.device)

    def smooth(self) -> None:
        """The moments stay, as those of :class:`nst_fast.optimizers.Adam` do."""
        self.pastiche.copy_(smoothed(self.pastiche))
        self._proposed = None

    def restart_from(self, picture: Tensor) -> None:
        current = self._sets[self._current]
        current.pastiche.copy_(picture)
        current.m.zero_()
        current.v.zero_()
        self._moments_of = 0
        self._proposed = None

    def state(self) -> State:
        """That of ``torch.optim.Adam``, and the updates of the run."""
        known = {"updates": self._updates}
        if not self._moments_of:
            return known
        current, step = self._sets[self._current], torch.tensor(float(self._moments_of))
        return {**known, "step": step, "exp_avg": current.m, "exp_avg_sq": current.v}

    def restore(self, state: State) -> None:
        """Also of an Adam without ``updates``: it has known all of them, unless it has gone back once."""
        current = self._sets[self._current]
        if "step" in state:
            current.m.copy_(state["exp_avg"])
            current.v.copy_(state["exp_avg_sq"])
            self._moments_of = int(state["step"])
        self._updates = int(state.get("updates", self._moments_of))
        self._proposed = None

    def take_over(self, coarser: OrtAdam) -> None:
        """Start with the moments of a coarser scale, resized."""
        self.restore(resized_moments(coarser.state(), (self.pastiche.shape[2], self.pastiche.shape[3])))


def optimizer_on(
    engine: str, pastiche: Tensor, options: StylizeConfig, previous: PixelOptimizer | None = None
) -> PixelOptimizer:
    """:func:`nst_fast.optimizers.make_optimizer`, but where the engine can do the whole step, the one that lets it.

    The updates of L-BFGS on a GPU are captured, unless ``cuda_graph`` is off.
    """
    if engine != "ort" or options.optimizer != "adam":
        optimizer = make_optimizer(pastiche, options, previous)
        return optimizer if options.cuda_graph == "off" else graphed(optimizer)
    optimizer = OrtAdam(pastiche, options)
    if isinstance(previous, OrtAdam):
        optimizer.take_over(previous)
    return optimizer


def evaluation_by(evaluate: Evaluator, optimizer: PixelOptimizer) -> Evaluator:
    """What evaluates for an optimiser of :func:`optimizer_on`: itself where it lets the engine do the whole step."""
    if not (isinstance(optimizer, OrtAdam) and isinstance(evaluate, OrtEvaluator)):
        return evaluate
    optimizer.engine = evaluate
    return optimizer
