"""Ranks that are threads of one process; every exchange waits until all of them have brought their part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks

Found = TypeVar("Found")


class Exchange:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=30)
        self.parts: list[object] = [None] * size

    def all_of(self, rank: int, part: object) -> list[object]:
        """The parts of all ranks."""
        self.parts[rank] = part
        self.barrier.wait()
        found = list(self.parts)
        self.barrier.wait()
        return found


class ThreadRanks(Ranks):
    def __init__(self, exchange: Exchange, rank: int) -> None:
        self._exchange = exchange
        self.rank = rank
        self.size = self.local_size = len(exchange.parts)

    def all_reduce(self, tensor: Tensor) -> None:
        found = self._exchange.all_of(self.rank, tensor.clone())
        tensor.copy_(torch.stack(found).sum(0))  # type: ignore[arg-type]

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        messages: list[dict[int, Tensor]] = self._exchange.all_of(self.rank, dict(sent))  # type: ignore[assignment]
        for rank, buffer in received.items():
            buffer.copy_(messages[rank].pop(self.rank))
        self._exchange.barrier.wait()
        assert not any(self.rank in message for message in messages), "a tensor that was not received"

    def maximum(self, values: Sequence[float]) -> list[float]:
        found: list[list[float]] = self._exchange.all_of(self.rank, list(values))  # type: ignore[assignment]
        return [max(column) for column in zip(*found, strict=True)]

    def broadcast(self, text: str) -> str:
        return str(self._exchange.all_of(self.rank, text)[0])


def run_ranks(size: int, work: Callable[[ThreadRanks], Found]) -> list[Found]:
    """The results of the same work on so many ranks."""
    exchange = Exchange(size)

    def attempt(rank: int) -> Found:
        try:
            return work(ThreadRanks(exchange, rank))
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(attempt, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (causes or errors)[0]
    return [future.result() for future in futures]
