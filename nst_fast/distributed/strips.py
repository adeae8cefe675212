"""Strips: the rows of a picture that each rank holds, and the exchange of halo rows between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.errors import UsageError
from nst_fast.network.taps import NO_WRAP, Wraps
from nst_fast.network.tiles import Extent, Tiling, strip_rows, tiling_of_strip


@dataclass(frozen=True)
class Strip:
    """The rows of a picture that this rank holds; a single rank holds all of them.

    Attributes:
        ranks: the processes that share the picture.
        height, width: of the whole picture in pixels.
        rows: of every rank, with the halo that it sees.
        tiling: of the own strip, in the coordinates of what it sees.
    """

    ranks: Ranks
    height: int
    width: int
    rows: tuple[Extent, ...]
    tiling: Tiling

    @property
    def mine(self) -> Extent:
        return self.rows[self.ranks.rank]

    @cached_property
    def halos(self) -> Halos:
        return Halos(self.ranks, self.rows)

    def own(self, picture: Tensor) -> Tensor:
        """Own rows of a whole picture [B, C, H, W], contiguous; a copy unless the picture is not shared."""
        if self.ranks.size == 1:
            return picture.contiguous()
        return picture[:, :, self.mine.start : self.mine.stop].contiguous().clone()

    def whole(self, own: Tensor) -> Tensor:
        """The picture [B, C, H, W] from the own rows of all ranks; the same on every rank."""
        if self.ranks.size == 1:
            return own
        picture = own.new_zeros((*own.shape[:2], self.height, own.shape[3]))
        picture[:, :, self.mine.start : self.mine.stop] = own
        self.ranks.all_reduce(picture)
        return picture


def make_strip(
    ranks: Ranks,
    network: str,
    taps: Iterable[str],
    height: int,
    width: int,
    grid: tuple[int, int] = (1, 1),
    *,
    wraps: Wraps = NO_WRAP,
) -> Strip:
    """This rank's strip of a picture, cut into ``grid`` (rows, columns) tiles.

    Rows that several ranks share do not wrap, whatever ``wraps`` says.

    Raises:
        UsageError: there are more ranks than strips can be cut.
    """
    taps = list(taps)
    rows = strip_rows(network, taps, height, ranks.size)
    if len(rows) < ranks.size:
        raise UsageError(
            f"{height} rows cannot be shared among {ranks.size} ranks",
            f"With these taps at most {len(rows)} can take part: torchrun --nproc-per-node {len(rows)}",
        )
    tiling = tiling_of_strip(network, taps, rows[ranks.rank], width, grid, wraps=wraps)
    return Strip(ranks, height, width, rows, tiling)


class Halos:
    """The exchange of rows between ``strips``, those of each rank in order. A halo may span several of them."""

    def __init__(self, ranks: Ranks, strips: Sequence[Extent]) -> None:
        self.ranks = ranks
        self.mine = strips[ranks.rank]
        others = [(rank, strip) for rank, strip in enumerate(strips) if rank != ranks.rank]
        # rank -> its rows that this one sees, and this one's rows that it sees, in rows of the picture
        self.seen = {rank: rows for rank, strip in others if (rows := overlap(strip, self.mine)) is not None}
        self.shown = {rank: rows for rank, strip in others if (rows := overlap(self.mine, strip)) is not None}

    def fetch(self, own: Tensor) -> Tensor:
        """Own rows [B, C, h, W] with the halo around them, [B, C, seen, W]."""
        if self.ranks.size == 1:
            return own
        around = own.new_empty((*own.shape[:2], self.mine.seen, own.shape[3]))
        around[self._inside(self.mine.start, self.mine.stop)] = own
        sent = {rank: own[_rows(self.mine.start, *rows)].contiguous() for rank, rows in self.shown.items()}
        received = {rank: self._buffer(around, rows) for rank, rows in self.seen.items()}
        self.ranks.exchange(sent, received)
        for rank, rows in self.seen.items():
            around[self._inside(*rows)] = received[rank]
        return around

    def give_back(self, around: Tensor) -> Tensor:
        """The sum [B, C, h, W] of what all ranks computed for own rows; ``around`` is this rank's contribution."""
        if self.ranks.size == 1:
            return around
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
