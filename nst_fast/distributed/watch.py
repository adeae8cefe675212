"""Heartbeats: every rank leaves one in the shared store twice a second, in a thread, and checks those of the others.

An exchange with a killed process fails at once. But a rank may be in a long step, or wait for a process that was
stopped, or for a GPU that waits itself; none of these can be interrupted. So the watch ends the process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nst_fast.distributed import ProcessRank, error_reporter
from nst_fast.errors import NstFastError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # lacks in its stubs

BEAT = 0.5  # seconds between two heartbeats
PATIENCE = 6.0  # seconds without one


def end_process(error: NstFastError) -> None:
    """Print one line and exit at once, while the main thread waits. Files are only replaced whole."""
    if error_reporter.may_report():
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    os._exit(error.exit_code)


class Watch:
    """Watches as long as its block lasts, which all ranks have to leave together.

    Args:
        process: the number of this process.
        store: of the watch alone, because a store serves one caller at a time.
        lost: called from the watch's thread with the lost rank and the reason.
        patience: seconds without a heartbeat.
    """

    def __init__(self, process: ProcessRank, store: Store, lost: Callable[[str, str], None], patience: float) -> None:
        self.process = process
        self._store = store
        self._lost = lost
        self._patience = patience
        self._closed = threading.Event()
        self._others = [rank for rank in range(process.world_size) if rank != process.rank]
        # A store that does not answer may block its caller for ever: one thread asks, another judges.
        self._threads = [
            threading.Thread(target=work, name=f"nst-fast watch: {work.__name__}", daemon=True)
            for work in (self._ask, self._judge)
        ]
        store.set(_key(process.rank), "0")
        self._reset()

    def _reset(self) -> None:
        """Take every rank for alive at this moment, the store as well."""
        self._answered = time.monotonic()
        self._seen = dict.fromkeys(self._others, self._answered)

    def __enter__(self) -> Watch:
        self._reset()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(self._patience)

    def _ask(self) -> None:
        """Leave heartbeats in the store and read those of the others."""
        last = dict.fromkeys(self._others, b"")
        beats = 0
        while not self._closed.wait(BEAT):
            beats += 1
            try:
                self._store.set(_key(self.process.rank), str(beats))
                found = self._store.multi_get([_key(rank) for rank in self._others])
            except RuntimeError:  # the judge will see that no answer came
                return
            self._answered = now = time.monotonic()
            for rank, beat in zip(self._others, found, strict=True):
                if beat != last[rank]:
                    last[rank], self._seen[rank] = beat, now

    def _judge(self) -> None:
        """Check whether a heartbeat is overdue."""
        now = time.monotonic()
        while not self._closed.wait(BEAT):
            before, now = now, time.monotonic()
            if now - before > self._patience / 2:  # it was this process that was stopped, or starved
                self._reset()
            overdue = [rank for rank in self._others if now - self._seen[rank] > self._patience]
            if now - self._answered > self._patience:
                self._lost("rank 0", "its store does not answer")
            elif overdue:
                self._lost(f"rank {overdue[0]}", f"no sign of life for {self._patience:g} s")
            else:
                continue
            return


def _key(rank: int) -> str:
    return f"nst-fast/alive/{rank}"
