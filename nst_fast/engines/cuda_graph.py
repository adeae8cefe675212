"""An evaluation - forward, losses, backward - as one CUDA graph: one launch in place of hundreds.

Below 512 pixels a large GPU waits for the host between kernels. The update is not part of the graph: Adam's is one
fused kernel, and L-BFGS has a graph of its own (:mod:`nst_fast.optimizers.captured`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.objective.evaluation import Evaluation, Evaluator

CAPTURE_MODE = "thread_local"  # the monitor's thread may allocate memory meanwhile
WARM_UP = 3  # runs on a side stream before the capture, as torch.cuda.graph asks for


class GraphedEvaluator:
    """Captures an evaluator at the first call, for one shape, and replays it afterwards.

    The returned evaluation is in the graph's memory: the next call overwrites it.
    """

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate = evaluate
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor | None = None
        self._evaluation: Evaluation | None = None

    def __call__(self, pastiche: Tensor) -> Evaluation:
        if self._graph is None or self._input is None or self._input.shape != pastiche.shape:
            self._capture(pastiche)
        assert self._graph is not None and self._input is not None and self._evaluation is not None  # just captured
        self._input.copy_(pastiche)
        self._graph.replay()
        return self._evaluation

    def _capture(self, pastiche: Tensor) -> None:
        self._input = pastiche.detach().clone()
        side = torch.cuda.Stream(pastiche.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream(pastiche.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.evaluate(self._input)
        torch.cuda.current_stream(pastiche.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode=CAPTURE_MODE):
            self._evaluation = self.evaluate(self._input)
