"""The errors that nst-fast raises and the exit codes of the command line.

    NstFastError                 1   an internal fault
    ├── UsageError               2   an option, or a combination of options, that makes no sense
    ├── InputError               3   an input picture that cannot be used
    ├── OutputError              4   a result that cannot be written
    ├── ModelError               5   weights or an exported model that is refused
    │   ├── WeightsError
    │   └── OnnxModelError
    ├── DeviceError              6   a device, driver or provider that is not available
    ├── OutOfMemoryError         7   a picture that does not fit
    ├── NumericsError            8   NaN, divergence, a flat picture
    ├── VerificationError        9   parity or a benchmark gate that failed
    ├── PartialError            10   a batch or a sweep in which some items failed
    ├── BusyError               11   another process holds the lock; try again
    └── ResumeError             12   a checkpoint that cannot be continued

A message names what was given and what is wrong with it, ``remedy`` what to do. The command line prints both on one
line, ``error: MESSAGE. REMEDY``. Both name options in backticks, which the command line turns into flags.

May import: nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NstFastError(Exception):
    """Base of the tree. ``str(error)`` is the message and the remedy in one line."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message

    def as_dict(self) -> dict[str, str | int]:
        """``kind``, ``message`` on one line and ``exit_code``, for manifests and JSON output."""
        return {"kind": type(self).__name__, "message": " ".join(str(self).split()), "exit_code": self.exit_code}


class UsageError(NstFastError):
    exit_code = 2


class InputError(NstFastError):
    exit_code = 3


class OutputError(NstFastError):
    exit_code = 4


class ModelError(NstFastError):
    exit_code = 5


class WeightsError(ModelError):
    """Weights that are missing, damaged, of another network, or that lack a needed layer."""


class OnnxModelError(ModelError):
    """An exported model that is damaged, was changed after export, or was not made by nst-fast."""


class DeviceError(NstFastError):
    exit_code = 6


class OutOfMemoryError(NstFastError):
    exit_code = 7


class NumericsError(NstFastError):
    exit_code = 8


class VerificationError(NstFastError):
    exit_code = 9


class PartialError(NstFastError):
    exit_code = 10


class BusyError(NstFastError):
    exit_code = 11


class ResumeError(NstFastError):
    exit_code = 12


def nearest(given: str, known: Iterable[str], count: int = 3) -> str:
    """``Did you mean a, b?`` with the known names closest to the given one; empty when none is close."""
    close = difflib.get_close_matches(given, list(known), n=count, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else ""
