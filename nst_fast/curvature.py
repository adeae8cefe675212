"""What L-BFGS knows of the curvature: the newest pairs of steps and gradient changes, and their inverse Hessian.

The product with a gradient uses the compact representation (Byrd, Nocedal & Schnabel 1994, Mathematical Programming
63, theorem 2.2) in place of the two-loop recursion: the same matrix, by three products with all pairs at once and some
algebra on m x m matrices. A GPU makes a dozen launches of it instead of hundreds, and nothing is read by the host.
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
        total: makes sums over all parts of scalar products, where the values are shared out among processes.
    """

    def __init__(self, like: Tensor, size: int, total: Callable[[Tensor], Tensor] = lambda part: part) -> None:
        batch, values = like.shape[0], like[0].numel()
        self.shape = like.shape[1:]
        self.size = size
        self.total = total
        self.added = 0
        fine = torch.float32 if like.device.type == "mps" else torch.float64  # of the small matrices
        self.steps = like.new_zeros(batch, size, values)  # S, a ring: pair k stands in row k modulo size
        self.changes = like.new_zeros(batch, size, values)  # Y
        self._sy = torch.zeros(batch, size, size, dtype=fine, device=like.device)  # S Yᵀ, in order of the ring
        self._yy = torch.zeros_like(self._sy)
        self._scale = torch.ones(batch, 1, dtype=fine, device=like.device)  # gamma, of the initial matrix gamma I

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember that the gradient changed by ``change`` when the picture changed by ``step``, both like ``like``.

        A pair without positive curvature, as rounding and jumps make them, is put in as zeros: it counts for nothing.
        """
        s, y = step.flatten(1), change.flatten(1)
        row = self.added % self.size
        self.steps[:, row], self.changes[:, row] = s, y
        self.added += 1
        used = min(self.added, self.size)
        sy, yy = self._products(y, used)
        ss = self.total(torch.linalg.vector_norm(s, dim=1).square()).to(sy.dtype)
        good = (sy[:, row] > LEAST_CURVATURE * (ss * yy[:, row]).sqrt()).unsqueeze(1)  # [B, 1]; false for NaN
        self.steps[:, row].masked_fill_(~good, 0)
        self.changes[:, row].masked_fill_(~good, 0)
        self._sy[:, row], self._yy[:, row] = 0, 0
        self._sy[:, :used, row] = torch.where(good, sy, 0)
        self._yy[:, :used, row] = self._yy[:, row, :used] = torch.where(good, yy, 0)
        newest = sy[:, row : row + 1] / yy[:, row : row + 1]
        self._scale = torch.where(good, newest, self._scale)

    def inverse_times(self, gradient: Tensor) -> Tensor:
        """The estimated inverse Hessian times a gradient, both shaped like ``like``."""
        used = min(self.added, self.size)
        g = gradient.flatten(1)
        a, b = (part.unsqueeze(2) for part in self._products(g, used))
        # R, the upper triangle of S Yᵀ in the order of time, is solved against; the rows of left-out pairs are zero.
        turn = -(self.added % self.size) if self.added > self.size else 0
        sy, yy = (torch.roll(m[:, :used, :used], (turn, turn), (1, 2)) for m in (self._sy, self._yy))
        a, b = torch.roll(a, turn, 1), torch.roll(b, turn, 1)
        diagonal = sy.diagonal(dim1=1, dim2=2)
        upper = torch.triu(sy) + torch.diag_embed((diagonal == 0).to(sy.dtype))
        scale = self._scale.unsqueeze(2)
        u = torch.linalg.solve_triangular(upper, a, upper=True)
        right = diagonal.unsqueeze(2) * u + scale * (yy @ u) - scale * b
        p = torch.linalg.solve_triangular(upper.transpose(1, 2), right, upper=False)
        p, u = (torch.roll(part, -turn, 1).squeeze(2) for part in (p, scale * u))
        found = self._scale.to(g.dtype) * g
        for index in range(len(found)):  # a matrix-vector product is several times as fast as one of a batch
            found[index] += torch.mv(self.steps[index, :used].T, p[index].to(g.dtype))
            found[index] -= torch.mv(self.changes[index, :used].T, u[index].to(g.dtype))
        return found.view_as(gradient)

    def state(self) -> dict[str, Tensor | int]:
        """All that is known, for a checkpoint: live tensors, the pairs [B * size, ...] shaped like the problem."""
        pairs = {name: ring.view(-1, *self.shape) for name, ring in (("steps", self.steps), ("changes", self.changes))}
        return {"added": self.added, "sy": self._sy, "yy": self._yy, "scale": self._scale, **pairs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know again what :meth:`state` gave; of a longer history the newest pairs."""
        added, batch = state["added"], len(self.steps)
        steps, changes = (state[name].view(batch, -1, self.steps.shape[2]) for name in ("steps", "changes"))
        size = steps.shape[1]
        if size == self.size:
            self.added, self.steps, self.changes = added, steps, changes
            self._sy, self._yy, self._scale = state["sy"], state["yy"], state["scale"]
            return
        for index in range(max(0, added - min(size, self.size)), added):
            self.add(steps[:, index % size], changes[:, index % size])

    def _products(self, vector: Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Scalar products of a vector [B, N] with all steps and with all changes, each [B, used], in fine precision."""
        column = vector.unsqueeze(2)
        found = torch.cat([self.steps[:, :used] @ column, self.changes[:, :used] @ column], dim=2)
        steps, changes = self.total(found).to(self._sy.dtype).unbind(2)
        return steps, changes
