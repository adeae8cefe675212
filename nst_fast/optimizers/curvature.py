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

    Of the upper triangular R in the representation (R_ij = s_i y_j for i no later than j, in order of time) the inverse
    is kept: a new pair adds a column, and without the oldest pair it is the same matrix without its row and column. So
    no order of time is needed, and a product with it is that of a matrix.

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
        fine = torch.float32 if like.device.type in ("mps", "xpu") else torch.float64  # of the small matrices
        self.added = torch.zeros(1, dtype=torch.long, device=like.device)
        # Steps S and gradient changes Y, two rings: pair k stands in row k modulo size.
        self.pairs = like.new_zeros(batch, 2, size, values)
        self._inverse = torch.zeros(batch, size, size, dtype=fine, device=like.device)  # of R; rows as in the ring
        self._sy = torch.zeros(batch, size, dtype=fine, device=like.device)  # the diagonal of R
        self._yy = torch.zeros_like(self._inverse)  # Y Yᵀ
        self._scale = torch.ones(batch, 1, dtype=fine, device=like.device)  # gamma, of the initial matrix gamma I

    def add(self, step: Tensor, change: Tensor) -> None:
        """Add a pair: the picture changed by ``step``, the gradient by ``change``, both shaped like ``like``.

        A pair without positive curvature is stored as zeros, which change no product.
        """
        s, y = step.view(len(step), -1), change.view(len(change), -1)
        products = self.total(torch.cat([_dot(s, y), _dot(s, s), _dot(y, y)], 1)).to(self._sy.dtype)
        sy, ss, yy = products.unsqueeze(2).unbind(1)
        good = sy > LEAST_CURVATURE * (ss * yy).sqrt()  # [B, 1]; false for NaN
        bad, row = ~good, self.added % self.size
        for which, vector in enumerate((s, y)):
            self.pairs[:, which].index_copy_(1, row, vector.masked_fill_(bad, 0).unsqueeze(1))
        with_steps, with_changes = self._products(y)
        diagonal = with_steps.index_select(1, row)
        reciprocal = diagonal.reciprocal().masked_fill_(diagonal == 0, 0)
        self._inverse.index_fill_(1, row, 0).index_fill_(2, row, 0)
        above = torch.baddbmm(with_steps, self._inverse, with_steps, beta=0, alpha=-1) * reciprocal
        self._inverse.index_copy_(2, row, above.index_copy_(1, row, reciprocal))
        self._sy.index_copy_(1, row, diagonal.squeeze(2))
        self._yy.index_copy_(1, row, with_changes.transpose(1, 2)).index_copy_(2, row, with_changes)
        torch.where(good, sy / yy, self._scale, out=self._scale)
        self.added += 1

    def inverse_times(self, gradient: Tensor) -> Tensor:
        """The estimated inverse Hessian times a gradient, both shaped like ``like``."""
        g = gradient.flatten(1)
        with_steps, with_changes = self._products(g)
        scale = self._scale.unsqueeze(2)
        u = self._inverse @ with_steps
        inner = torch.addcmul(self._sy.unsqueeze(2) * u, scale, torch.baddbmm(with_changes, self._yy, u, beta=-1))
        p = self._inverse.transpose(1, 2) @ inner
        factors = torch.cat([p, scale * u], 1).to(g.dtype)
        found = self._scale.to(g.dtype) * g
        parts = factors.view(len(g), 2, self.size)
        for one, (s, y), (by_steps, by_changes) in zip(found, self.pairs, parts, strict=True):
            # A matrix-vector product is several times as fast as one of a batch.
            one.add_(torch.mv(s.T, by_steps)).sub_(torch.mv(y.T, by_changes))
        return found.view_as(gradient)

    def state(self) -> dict[str, Tensor | int]:
        """For a checkpoint: live tensors, the pairs [B * 2 * size, ...] shaped like the problem."""
        small = {"inverse": self._inverse, "sy": self._sy, "yy": self._yy, "scale": self._scale}
        return {"added": self.added, **small, "pairs": self.pairs.view(-1, *self.shape)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave; of a longer history the newest pairs.

        Older checkpoints have ``steps`` and ``changes`` apart, and R for its inverse: their pairs are added anew.
        """
        batch, values, added = len(self.pairs), self.pairs.shape[3], int(state["added"])
        if "pairs" in state:
            pairs = state["pairs"].view(batch, 2, -1, values)
        else:
            pairs = torch.stack([state[name].view(batch, -1, values) for name in ("steps", "changes")], 1)
        size = pairs.shape[2]
        if size == self.size and "inverse" in state:
            self.added, self.pairs = state["added"], pairs
            self._inverse, self._sy, self._yy, self._scale = (state[name] for name in ("inverse", "sy", "yy", "scale"))
            return
        for index in range(max(0, added - min(size, self.size)), added):
            self.add(*pairs[:, :, index % size].clone().unbind(1))

    def _products(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Scalar products of a vector [B, N] with all steps and with all changes, each [B, size, 1], in fine precision.

        One product with both rings: a read of all pairs.
        """
        found = self.total(self.pairs.flatten(1, 2) @ vector.unsqueeze(2)).to(self._sy.dtype)
        return found[:, : self.size], found[:, self.size :]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row: [B, N] and [B, N] to [B, 1]."""
    return (a.unsqueeze(1) @ b.unsqueeze(2)).squeeze(2)
