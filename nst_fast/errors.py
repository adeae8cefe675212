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
import errno
import re
from collections.abc import Iterable

SHORTAGE = re.compile(r"failed to map segment|cannot allocate memory|can't start new thread|bad_alloc", re.IGNORECASE)


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


def ours(error: Exception) -> NstFastError:
    """Any exception as one of ours: itself, what the machine has caused, or else a fault of nst-fast."""
    if isinstance(error, NstFastError):
        return error
    if isinstance(error, MemoryError) or SHORTAGE.search(str(error)):
        remedy = "Raise the limit (`ulimit -v`, `ulimit -u`, the container's), or use a smaller `image_size`"
        return OutOfMemoryError(f"memory or threads ran out ({str(error) or 'MemoryError'})", remedy)
    if isinstance(error, OSError) and str(error.filename).startswith("/proc/"):
        return DeviceError(f"{error.filename} is not there: memory cannot be measured", "Mount /proc")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{error.filename or 'a stream'} cannot be written: no space left", "Free some space")
    hint = "This is a fault of nst-fast: please report it with the output of --debug"
    return NstFastError(f"{type(error).__name__}: {error}", hint)
