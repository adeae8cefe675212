"""What a command that computes imports, in less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nst_fast.cli.console import Messages


@contextmanager
def loading(messages: Messages) -> Iterator[None]:
    """Import PyTorch and what stands on it, without the collector of cycles, which would look through it many times.

    Importing takes a seventh less. What it leaves is never looked through afterwards, so that the program ends sooner.
    """
    messages.say("loading")
    if "torch" in sys.modules:  # in a program that goes on after the command: its garbage must not be kept
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
