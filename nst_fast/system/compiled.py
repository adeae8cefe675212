"""Functions that Numba compiles, and threads for them beside PyTorch's own.

Each thread computes its part from beginning to end, by itself. Numba's own threads would meet those of PyTorch on the
same cores, waiting for each other in loops, and end a forked process.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch


def compiled(function: Callable[..., Any], *, fastmath: bool = True) -> Any:
    """The function, compiled at its first call, or read from the cache; without the lock of the interpreter.

    Numba keeps it beside its source or in the user's cache folder. Where neither can be written, as in a container
    with a read-only root, every process compiles it again.
    """
    try:
        return numba.njit(fastmath=fastmath, nogil=True, cache=True)(function)
    except RuntimeError:  # no locator for the cache
        return numba.njit(fastmath=fastmath, nogil=True)(function)


def in_threads(compute: Callable[[int, int], None], count: int) -> None:
    """Call ``compute(low, high)`` for parts of 0 to ``count`` in as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        compute(0, count)
        return
    bounds = [count * part // threads for part in range(threads + 1)]
    list(_workers(os.getpid(), threads).map(compute, bounds, bounds[1:]))


@functools.cache
def _workers(process: int, count: int) -> ThreadPoolExecutor:
    """Threads in which PyTorch uses no further threads. Per process: a fork has none of its parent's."""
    before, all_started = torch.get_num_threads(), threading.Barrier(count)
    # The number of threads is the calling thread's own, but the last one set is also what new threads start with.
    workers = ThreadPoolExecutor(count, "nst-fast", torch.set_num_threads, (1,))
    list(workers.map(lambda _: all_started.wait(), range(count)))
    torch.set_num_threads(before)
    return workers
