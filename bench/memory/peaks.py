"""The highest resident memory of other processes. Imports little, for a reason that :func:`peaks_mib` gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence


def peaks_mib(arguments: Sequence[str], variables: Sequence[Mapping[str, str]]) -> list[float]:
    """The highest resident memory of ``python ARGUMENTS``, in MiB, run at once with each of these sets of variables.

    The kernel counts from before the program is loaded, when the process is still a copy of this one: what this one
    holds is the least that can be measured.
    """
    command = [sys.executable, *arguments]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | own) for own in variables]
    found = dict.fromkeys((child.pid for child in children), 0.0)
    for _ in children:  # whichever ends first: one that failed may keep the others waiting
        pid, status, usage = os.wait3(0)
        child = next(each for each in children if each.pid == pid)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{children.index(child)}: {' '.join(arguments)}: ended with {child.returncode}")
        found[pid] = usage.ru_maxrss / 1024
    return list(found.values())


def peak_mib(arguments: Sequence[str]) -> float:
    """The same of one process."""
    return peaks_mib(arguments, [{}])[0]
