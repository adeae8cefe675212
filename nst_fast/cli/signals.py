"""Ctrl-C and its relatives: the first one ends the run in good order, the second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]  # Windows lacks one


class Stop:
    """Becomes true at the first signal. ``exit_code`` is then the shell's: 128 plus the signal's number."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __call__(self) -> bool:
        return self.signal_number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.signal_number if self.signal_number else 0


@contextmanager
def graceful_stop(say: Callable[[str], None]) -> Iterator[Stop]:
    """Turn signals into a request to stop. A signal that was ignored when we started (nohup, ``&``) stays ignored."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop():
            os._exit(128 + number)  # asked twice: no clean-up; files are only ever replaced whole
        stop.signal_number = number
        say("stopping after this step and saving; once more to quit at once")

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
