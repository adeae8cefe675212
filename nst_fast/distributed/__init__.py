"""Several processes that share a picture: their numbers, and which of them reports an error. Never imports PyTorch.

``torchrun`` starts copies of a command and numbers them in the environment; ``group`` joins them, ``strips`` exchanges
rows between them, ``watch`` notices when one is lost.

May import: errors, network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from nst_fast.errors import UsageError


@dataclass(frozen=True)
class ProcessRank:
    """The number of this process, from 0, and of how many; the same among those on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """Whether it is the process that prints and writes."""
        return self.rank == 0


def process_rank() -> ProcessRank:
    """The rank that ``torchrun`` put into the environment; alone without it.

    Raises:
        UsageError: the numbers in the environment are impossible.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [os.environ.get(name, "") for name in names]
    if not (given[0] and given[1]):
        return ProcessRank()
    try:
        rank, world_size = int(given[0]), int(given[1])
        found = ProcessRank(rank, world_size, int(given[2] or rank), int(given[3] or world_size))
    except ValueError:
        found = ProcessRank(world_size=0)
    if not 0 <= found.rank < found.world_size or found.local_world_size < 1:
        said = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
        raise UsageError(f"the environment numbers the processes in no sensible way: {said}", "Start with torchrun")
    return found


class ErrorReporter:
    """Which process reports an error: the first that fails. Before the processes are joined, rank 0.

    Attributes:
        claim: asks the other processes, while they are joined; True for the first that asks.
    """

    def __init__(self) -> None:
        self.claim: Callable[[], bool] | None = None

    def may_report(self) -> bool:
        if self.claim is not None:
            return self.claim()
        try:
            return process_rank().is_main
        except UsageError:  # which is then the error to report
            return True


error_reporter = ErrorReporter()
