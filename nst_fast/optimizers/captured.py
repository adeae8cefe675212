"""Updates of L-BFGS replayed as a CUDA graph: 75 small operators take longer to launch than to run.

At 512 pixels on an H200, when they were 96: 1.84 ms launched, 0.47 ms replayed; an evaluation takes 1.40 ms
(docs/performance.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.engines.cuda_graph import CAPTURE_MODE
from nst_fast.errors import DeviceError
from nst_fast.optimizers.base import PixelOptimizer, State
from nst_fast.optimizers.lbfgs import LBFGS

PLAIN_UPDATES = 3  # until every tensor has its final address
LARGEST = 3 * 2**22  # numbers of a picture; above, launches are cheap beside the work, and the graph takes memory


def graphed(optimizer: PixelOptimizer) -> PixelOptimizer:
    """The optimizer, its updates captured where that is faster."""
    pastiche = optimizer.pastiche
    if isinstance(optimizer, LBFGS) and pastiche.is_cuda and pastiche.numel() <= LARGEST:
        return GraphedOptimizer(optimizer)
    return optimizer


class GraphedOptimizer:
    """An L-BFGS on a GPU whose updates are replayed, but for the first ones and those after a restart."""

    def __init__(self, optimizer: LBFGS) -> None:
        self.optimizer = optimizer
        self.pastiche, self.state = optimizer.pastiche, optimizer.state
        self._plain = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._evaluation: Evaluation | None = None  # at the address that the graph reads
        self._learning_rate = torch.ones((), device=optimizer.pastiche.device)

    def update(self, evaluation: Evaluation, evaluate: Evaluator, learning_rate: float) -> None:
        if self._graph is None and self._plain < PLAIN_UPDATES:
            self._plain += 1
            self.optimizer.update(evaluation, evaluate, learning_rate)
            return
        if self._graph is None or self._evaluation is None:
            self._capture(evaluation, evaluate)
        assert self._graph is not None and self._evaluation is not None  # just captured
        self._evaluation.gradient.copy_(evaluation.gradient)
        self._learning_rate.fill_(learning_rate)
        self._graph.replay()

    def _capture(self, evaluation: Evaluation, evaluate: Evaluator) -> None:
        """Capture an update, without running it."""
        self._evaluation = Evaluation(evaluation.total, evaluation.terms, evaluation.gradient.clone())
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, capture_error_mode=CAPTURE_MODE):
                self.optimizer.update(self._evaluation, evaluate, self._learning_rate)
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0]
            raise DeviceError(
                f"an update cannot be captured on this GPU ({said})", "Set `cuda_graph` to off"
            ) from error

    def _forget(self) -> None:
        self._graph = self._evaluation = None
        self._plain = 0

    def smooth(self) -> None:
        self.optimizer.smooth()
        self._forget()

    def restart_from(self, picture: Tensor) -> None:
        self.optimizer.restart_from(picture)
        self._forget()

    def restore(self, state: State) -> None:
        self.optimizer.restore(state)
        self._forget()
