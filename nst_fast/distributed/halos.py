"""Rows between neighbours: each rank holds its own strip of a picture, sees a halo around it, and gives back what
the gradient says about rows that are not its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.network.tiles import Extent


class Halos:
    """The exchange of rows for one way to cut a picture into strips. A halo may reach beyond the next neighbour.

    Args:
        ranks: the processes that share the picture.
        strips: the rows of each rank, in their order, with what each sees.
    """

    def __init__(self, ranks: Ranks, strips: Sequence[Extent]) -> None:
        self.ranks = ranks
        self.mine = strips[ranks.rank]
        others = [(rank, strip) for rank, strip in enumerate(strips) if rank != ranks.rank]
        # rank -> rows of it that this one sees, and rows of this one that it sees; in rows of the picture
        self.seen = {rank: rows for rank, strip in others if (rows := overlap(strip, self.mine)) is not None}
        self.shown = {rank: rows for rank, strip in others if (rows := overlap(self.mine, strip)) is not None}

    def fetch(self, own: Tensor) -> Tensor:
        """Own rows [B, C, h, W] with the halo around them, [B, C, seen, W]."""
        around = own.new_empty((*own.shape[:2], self.mine.seen, own.shape[3]))
        around[self._inside(self.mine.start, self.mine.stop)] = own
        sent = {rank: own[_rows(self.mine.start, *rows)].contiguous() for rank, rows in self.shown.items()}
        received = {rank: self._buffer(around, rows) for rank, rows in self.seen.items()}
        self.ranks.exchange(sent, received)
        for rank, rows in self.seen.items():
            around[self._inside(*rows)] = received[rank]
        return around

    def give_back(self, around: Tensor) -> Tensor:
        """What all ranks have to say about own rows, added up, [B, C, h, W]; ``around`` is this rank's contribution."""
        own = around[self._inside(self.mine.start, self.mine.stop)].clone(memory_format=torch.contiguous_format)
        sent = {rank: around[self._inside(*rows)].contiguous() for rank, rows in self.seen.items()}
        received = {rank: self._buffer(around, rows) for rank, rows in self.shown.items()}
        self.ranks.exchange(sent, received)
        for rank, rows in self.shown.items():  # in the order of ranks: sums that repeat exactly
            own[_rows(self.mine.start, *rows)] += received[rank]
        return own

    def _inside(self, first: int, last: int) -> tuple[slice, ...]:
        return _rows(self.mine.low, first, last)

    def _buffer(self, like: Tensor, rows: tuple[int, int]) -> Tensor:
        return like.new_empty((*like.shape[:2], rows[1] - rows[0], like.shape[3]))


def overlap(owner: Extent, viewer: Extent) -> tuple[int, int] | None:
    """The rows of one strip that another sees, as first and last + 1; None when there are none."""
    first, last = max(owner.start, viewer.low), min(owner.stop, viewer.high)
    return (first, last) if first < last else None


def _rows(origin: int, first: int, last: int) -> tuple[slice, ...]:
    return (slice(None), slice(None), slice(first - origin, last - origin))
