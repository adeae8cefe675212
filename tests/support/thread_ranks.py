"""Ranks that are threads of one process: what they exchange lies on a table, and all wait until it is complete."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


class Table:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=30)
        self.places: list[object] = [None] * size

    def all_of(self, rank: int, brought: object) -> list[object]:
        """What every rank brought, once all have."""
        self.places[rank] = brought
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


class ThreadRanks:
    def __init__(self, table: Table, rank: int) -> None:
        self.table = table
        self.rank = rank
        self.size = self.local_size = len(table.places)
        self.messages = 0

    def all_reduce(self, tensor: Tensor) -> None:
        found = self.table.all_of(self.rank, tensor.clone())
        tensor.copy_(torch.stack(found).sum(0))  # type: ignore[arg-type]

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        self.messages += len(sent)
        mail: list[dict[int, Tensor]] = self.table.all_of(self.rank, dict(sent))  # type: ignore[assignment]
        for rank, buffer in received.items():
            buffer.copy_(mail[rank].pop(self.rank))
        self.table.barrier.wait()
        assert not any(self.rank in letters for letters in mail), "a letter that nobody expects"

    def maximum(self, values: Sequence[float]) -> list[float]:
        found: list[list[float]] = self.table.all_of(self.rank, list(values))  # type: ignore[assignment]
        return [max(column) for column in zip(*found, strict=True)]

    def broadcast(self, text: str) -> str:
        return str(self.table.all_of(self.rank, text)[0])


def run_ranks(size: int, work: Callable[[ThreadRanks], Found]) -> list[Found]:
    """What each of so many ranks makes of the same work."""
    table = Table(size)

    def attempt(rank: int) -> Found:
        try:
            return work(ThreadRanks(table, rank))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(attempt, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    broken = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (broken or errors)[0]
    return [future.result() for future in futures]
