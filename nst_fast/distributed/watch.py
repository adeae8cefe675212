"""Signs of life: every rank leaves one in the shared store each second, in a thread, and looks for those of others.

A process that was killed is noticed by whoever exchanges something with it, at once. But the others may be in the
middle of a long step, or wait for one that was stopped and not killed, or for a GPU that waits itself; none of these
can be told anything. So the watch ends their process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from nst_fast.distributed import Place, voice
from nst_fast.errors import NstFastError

BEAT = 0.5  # seconds between two signs of life
PATIENCE = 6.0  # seconds without one


def end_process(error: NstFastError) -> None:
    """One line, and out, with the error's code: the main thread may never return. Files are only replaced whole."""
    if voice.may_speak():
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    os._exit(error.exit_code)


class Store(Protocol):
    """What is used of the store that the processes share (``torch.distributed.Store``): names and values."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...

    def add(self, key: str, amount: int) -> int: ...

    def clone(self) -> Store: ...

    def set_timeout(self, timeout: timedelta) -> None: ...


class Watch:
    """Watches as long as its block lasts, which all ranks have to leave together.

    Args:
        place: who this process is.
        store: of the watch alone, because a store serves one caller at a time.
        lost: called from the watch's thread with who is gone and how that is known.
        patience: seconds without a sign of life.
    """

    def __init__(self, place: Place, store: Store, lost: Callable[[str, str], None], patience: float) -> None:
        self.place = place
        self._store = store
        self._lost = lost
        self._patience = patience
        self._closed = threading.Event()
        self._others = [rank for rank in range(place.size) if rank != place.rank]
        # A store that does not answer may keep whoever asks it for ever; so there is one who asks and one who judges.
        self._threads = [
            threading.Thread(target=work, name=f"nst-fast watch: {work.__name__}", daemon=True)
            for work in (self._ask, self._judge)
        ]
        store.set(_key(place.rank), "0")
        self._greet()

    def _greet(self) -> None:
        """Take everybody for alive at this moment, the store as well."""
        self._answered = time.monotonic()
        self._seen = dict.fromkeys(self._others, self._answered)

    def __enter__(self) -> Watch:
        self._greet()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(self._patience)

    def _ask(self) -> None:
        """Leave a sign of life in the store and take down those of others."""
        signs = dict.fromkeys(self._others, b"")
        beats = 0
        while not self._closed.wait(BEAT):
            beats += 1
            try:
                self._store.set(_key(self.place.rank), str(beats))
                found = self._store.multi_get([_key(rank) for rank in self._others])
            except RuntimeError:  # the judge will see that no answer came
                return
            self._answered = now = time.monotonic()
            for rank, sign in zip(self._others, found, strict=True):
                if sign != signs[rank]:
                    signs[rank], self._seen[rank] = sign, now

    def _judge(self) -> None:
        """Look whether a sign is overdue."""
        now = time.monotonic()
        while not self._closed.wait(BEAT):
            before, now = now, time.monotonic()
            if now - before > self._patience / 2:  # it was this process that was stopped, or starved
                self._greet()
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
