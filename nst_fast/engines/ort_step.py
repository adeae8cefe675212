"""The whole step in ONNX Runtime: losses, gradient, Adam and clamp in one run, from one set of buffers to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nst_fast.engines.ort import OrtEvaluator, PreparedGraph
from nst_fast.objective.evaluation import Evaluation
from nst_fast.onnx.graph.step import AdamConstants


@dataclass(frozen=True, eq=False)
class AdamBuffers:
    """A picture and Adam's moments of it, each [1, 3, H, W], at addresses that stay."""

    pastiche: Tensor
    m: Tensor
    v: Tensor

    @classmethod
    def around(cls, pastiche: Tensor) -> Self:
        """With moments of zero."""
        return cls(pastiche, torch.zeros_like(pastiche), torch.zeros_like(pastiche))

    def named(self, prefix: str = "") -> dict[str, Tensor]:
        return {f"{prefix}pastiche": self.pastiche, f"{prefix}m": self.m, f"{prefix}v": self.v}


class WholeStep(PreparedGraph):
    """A step graph bound in both directions between two sets of buffers.

    A run never writes what it reads, so it can be repeated: with another learning rate, or by ONNX Runtime itself,
    which runs a model several times to capture it as a CUDA graph (onnxruntime#32243).

    Args:
        engine, capture: as for :class:`PreparedGraph`.
        adam: what is written into the graph.
        sets: the buffers; the first holds the picture.
    """

    def __init__(
        self, engine: OrtEvaluator, adam: AdamConstants, sets: tuple[AdamBuffers, AdamBuffers], capture: bool
    ) -> None:
        super().__init__(engine, sets[0].pastiche, capture, adam)
        self.scalars = {
            name: torch.ones(1, device=self.device) for name in ("learning_rate", "correction1", "correction2")
        }
        sessions = [self.session, self.session]
        if self.session.engine and self.session.cuda_graph:
            # TensorRT's provider has one CUDA graph per session, and a graph one direction.
            sessions[1] = engine.open(self.spec, self.device, self.stream, capture)
        self.directions = [
            self.bound(session, {**source.named(), **self.scalars}, target.named("new_"), number)
            for number, (session, source, target) in enumerate(zip(sessions, sets, reversed(sets), strict=True), 1)
        ]
        self.try_out(self.directions[0])
        if capture:
            self._capture_back(sets[0])

    def _capture_back(self, live: AdamBuffers) -> None:
        """Capture the other direction, which writes into the live set, before the loop begins, too."""
        kept = {name: tensor.clone() for name, tensor in live.named().items()}
        try:
            self.run(self.directions[1])
        finally:
            for name, tensor in live.named().items():
                tensor.copy_(kept[name])

    def __call__(self, source: int, learning_rate: float, corrections: tuple[float, float]) -> Evaluation:
        """Evaluate the picture of set ``source``; the other set receives what one update makes of it.

        Args:
            source: 0 or 1.
            learning_rate: of that update.
            corrections: 1 - beta1^t and 1 - beta2^t of the t-th update, from 1.
        """
        for scalar, value in zip(self.scalars.values(), (learning_rate, *corrections), strict=True):
            scalar.fill_(value)  # on the device: the host need not wait
        return self.run(self.directions[source])
