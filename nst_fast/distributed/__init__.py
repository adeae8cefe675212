"""Several processes, one picture: who this process is among them, and which of them speaks. Never imports PyTorch.

``torchrun`` starts as many copies of a command as it is told and numbers them in the environment. Everything else the
copies have to find out for themselves: ``group`` joins them, ``halos`` passes rows between them, ``agreement`` lets
them decide alike, ``watch`` notices when one is gone.

May import: errors, network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from nst_fast.errors import UsageError


@dataclass(frozen=True)
class Place:
    """One process among those that share a picture.

    Attributes:
        rank, size: its number, from 0, and how many there are.
        local_rank, local_size: the same among those on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether it is the one that prints, saves and writes."""
        return self.rank == 0


def place() -> Place:
    """What ``torchrun`` says in the environment; alone without it.

    Raises:
        UsageError: the environment says what cannot be.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [os.environ.get(name, "") for name in names]
    if not (given[0] and given[1]):
        return Place()
    try:
        rank, size = int(given[0]), int(given[1])
        found = Place(rank, size, int(given[2] or rank), int(given[3] or size))
    except ValueError:
        found = Place(size=0)
    if not 0 <= found.rank < found.size or found.local_size < 1:
        said = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
        raise UsageError(f"the environment numbers the processes in no sensible way: {said}", "Start with torchrun")
    return found


class Voice:
    """Who reports an error: the first process that fails, and no other. Before they know each other, rank 0."""

    def __init__(self) -> None:
        self.claim: Callable[[], bool] | None = None  # set while the processes are joined

    def may_speak(self) -> bool:
        if self.claim is not None:
            return self.claim()
        try:
            return place().first
        except UsageError:  # which is then what there is to say
            return True


voice = Voice()
