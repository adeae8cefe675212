"""Decisions that several processes must take alike: when to stop, and what time it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from nst_fast.distributed.group import Ranks


class Agreement:
    """What all ranks said last, once per evaluation; between two of them nobody changes their mind.

    Losses are the same numbers on all ranks, so whatever is decided from losses, steps, and these two, is decided
    alike: events, returns to the best picture, the stop rules, the end of a time budget.

    Args:
        ranks: the processes.
        wish: whether this process was asked to stop.
    """

    def __init__(self, ranks: Ranks, wish: Callable[[], bool]) -> None:
        self.ranks = ranks
        self.wish = wish
        self._joined = time.perf_counter()
        self._stop, self._now = False, 0.0

    def renew(self) -> None:
        """Ask all ranks. Every rank has to call it, and waits for the others."""
        stop, now = self.ranks.highest([float(self.wish()), time.perf_counter() - self._joined])
        self._stop, self._now = bool(stop), now

    def stop(self) -> bool:
        """Whether any of the ranks was asked to stop."""
        return self._stop

    def clock(self) -> float:
        """Seconds since the ranks joined, as the slowest counts them."""
        return self._now
