"""The highest resident memory of another process. Imports little, for a reason that :func:`peak_mib` gives."""

from __future__ import annotations

import os
import subprocess
import sys


def peak_mib(arguments: list[str]) -> float:
    """The highest resident memory of ``python ARGUMENTS``, in MiB.

    The kernel counts from before the program is loaded, when the process is still a copy of this one: what this one
    holds is the least that can be measured.
    """
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)}: ended with {child.returncode}")
    return usage.ru_maxrss / 1024
