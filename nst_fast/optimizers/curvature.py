"""The curvature pairs of L-BFGS, steps and gradient changes, and the inverse Hessian that they estimate.

The product with a gradient uses the compact representation (Byrd, Nocedal & Schnabel 1994, Mathematical Programming
63, theorem 2.2) in place of the two-loop recursion. Shapes and addresses do not depend on the number of pairs, so that
an update can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

LEAST_CURVATURE = 1e-8  # cosine between a step and its gradient change below which a pair is left out


class CurvaturePairs:
    """The newest ``size`` pairs of B independent problems of N values each.

    Args:
        like: a tensor [B, ...] that says B, N, kind and device.
        size: pairs kept; each costs two tensors as large as ``like``.
        total: sums parts of scalar products over the ranks that share a picture.
    """

    def __init__(self, like: Tensor, size: int, total: Callable[[Tensor], Tensor] = lambda part: part) -> None:
        batch, values = like.shape[0], like[0].numel()
        self.shape = like.shape[1:]
        self.size = size
        self.total = total
        fine = torch.float32 if like.device.type == "mps" else torch.float64  # of the small matrices
        self.added = torch.zeros(1, dtype=torch.long, device=like.device)
        self._places = torch.arange(size, device=like.device)
        self.steps = like.new_zeros(batch, size, values)  # S, a ring: pair k stands in row k modulo size
        self.changes = like.new_zeros(batch, size, values)  # Y
        self._sy = torch.zeros(batch, size, size, dtype=fine, device=like.device)  # S Yᵀ, in order of the ring
        self._yy = torch.zeros_like(self._sy)
        self._scale = torch.ones(batch, 1, dtype=fine, device=like.device)  # gamma, of the initial matrix gamma I

    def add(self, step: Tensor, change: Tensor) -> None:
        """Add a pair: the picture changed by ``step``, the gradient by ``change``, both shaped like ``like``.

        A pair without positive curvature is stored as zeros, which change no product.
        """
        s, y = step.view(len(step), -1), change.view(len(change), -1)
        products = self.total(torch.cat([_dot(s, y), _dot(s, s), _dot(y, y)], 1)).to(self._sy.dtype)
        sy, ss, yy = products.unsqueeze(2).unbind(1)
        good = sy > LEAST_CURVATURE * (ss * yy).sqrt()  # [B, 1]; false for NaN
        for ring, row in ((self.steps, s), (self.changes, y)):
            ring.index_copy_(1, self.added % self.size, row.masked_fill_(~good, 0).unsqueeze(1))
        with_steps, with_changes = self._products(y)
        row = self.added % self.size
        self._sy.index_fill_(1, row, 0).index_copy_(2, row, with_steps.unsqueeze(2))
        self._yy.index_copy_(1, row, with_changes.unsqueeze(1)).index_copy_(2, row, with_changes.unsqueeze(2))
        self._scale.copy_(torch.where(good, sy / yy, self._scale))
        self.added += 1

    def inverse_times(self, gradient: Tensor) -> Tensor:
        """The estimated inverse Hessian times a gradient, both shaped like ``like``."""
        g = gradient.flatten(1)
        # In order of time; rows without a pair are zero.
        order, back = (self._places + self.added) % self.size, (self._places - self.added) % self.size
        a, b = (part.index_select(1, order).unsqueeze(2) for part in self._products(g))
        sy, yy = (matrix.index_select(1, order).index_select(2, order) for matrix in (self._sy, self._yy))
        diagonal = sy.diagonal(dim1=1, dim2=2)
        upper = torch.triu(sy) + torch.diag_embed((diagonal == 0).to(sy.dtype))  # R, for S Yᵀ in order of time
        scale = self._scale.unsqueeze(2)
        u = torch.linalg.solve_triangular(upper, a, upper=True)
        right = diagonal.unsqueeze(2) * u + scale * (yy @ u) - scale * b
        p = torch.linalg.solve_triangular(upper.transpose(1, 2), right, upper=False)
        p, u = (part.index_select(1, back).squeeze(2).to(g.dtype) for part in (p, scale * u))
        found = self._scale.to(g.dtype) * g
        for index in range(len(found)):  # a matrix-vector product is several times as fast as one of a batch
            found[index] += torch.mv(self.steps[index].T, p[index])
            found[index] -= torch.mv(self.changes[index].T, u[index])
        return found.view_as(gradient)

    def state(self) -> dict[str, Tensor | int]:
        """For a checkpoint: live tensors, the pairs [B * size, ...] shaped like the problem."""
        pairs = {name: ring.view(-1, *self.shape) for name, ring in (("steps", self.steps), ("changes", self.changes))}
        return {"added": self.added, "sy": self._sy, "yy": self._yy, "scale": self._scale, **pairs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave; of a longer history the newest pairs."""
        added, batch = int(state["added"]), len(self.steps)
        steps, changes = (state[name].view(batch, -1, self.steps.shape[2]) for name in ("steps", "changes"))
        size = steps.shape[1]
        if size == self.size:
            self.added, self.steps, self.changes = state["added"], steps, changes
            self._sy, self._yy, self._scale = state["sy"], state["yy"], state["scale"]
            return
        for index in range(max(0, added - min(size, self.size)), added):
            self.add(steps[:, index % size].clone(), changes[:, index % size].clone())

    def _products(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Scalar products of a vector [B, N] with all steps and with all changes, each [B, size], in fine precision."""
        column = vector.unsqueeze(2)
        found = torch.cat([self.steps @ column, self.changes @ column], dim=2)
        steps, changes = self.total(found).to(self._sy.dtype).unbind(2)
        return steps, changes


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row: [B, N] and [B, N] to [B, 1]."""
    return (a.unsqueeze(1) @ b.unsqueeze(2)).squeeze(2)
