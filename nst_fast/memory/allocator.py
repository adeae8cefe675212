"""The GNU C library's allocator: whether freed memory goes back to the system, or is kept for the next block."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
THRESHOLD = 2**20
LARGEST = 2**31 - 1
HUGE_PAGES, HUGE_PAGE = "THP_MEM_ALLOC_ENABLE", 2**21
LARGE_SIDE = 384  # of a picture in pixels: the largest tensors of its step are then mapped one by one


def use_huge_pages(side: int) -> None:
    """Let PyTorch lay its large tensors in huge pages, for a picture of this side, unless the user has decided.

    It reads the variable at its first allocation. For small pictures they gain nothing and take 0.15 s of the start.
    """
    if side >= LARGE_SIDE and HUGE_PAGES not in os.environ:
        os.environ[HUGE_PAGES] = "1"
        torch.empty(1)
        del os.environ[HUGE_PAGES]  # a call leaves the environment as it was


def keep_freed_memory() -> bool:
    """From now on, freed blocks are kept for later ones, until :func:`release_freed_memory`.

    By default blocks above 32 MiB are mapped one by one, and unmapped when freed: a step of 512 pixels, whose blocks
    are those of the step before, then spends a tenth of its time on pages that it has never seen. False where there is
    no such allocator, and where PyTorch does not lay its tensors in huge pages: without the room that these leave
    between blocks, small ones take the edges of large holes, and the heap grows by several large blocks.
    """
    tensors = [torch.empty(HUGE_PAGE, dtype=torch.uint8) for _ in range(4)]  # those in huge pages begin with a page
    in_huge_pages = all(tensor.data_ptr() % mmap.PAGESIZE == 0 for tensor in tensors)
    return in_huge_pages and _set(M_MMAP_THRESHOLD, LARGEST) and _set(M_TRIM_THRESHOLD, LARGEST)


def return_freed_memory() -> bool:
    """From now on, blocks of a mebibyte and more are mapped one by one and unmapped when freed.

    By default the threshold rises to 32 MiB, and smaller blocks lie in a heap that shrinks only from its end: crops of
    changing sizes leave holes of hundreds of mebibytes. False where there is no such allocator.
    """
    return _set(M_MMAP_THRESHOLD, THRESHOLD)


def release_freed_memory() -> bool:
    """Give free pages of the heap back to the system; False where that is not possible."""
    trim = _c_function("malloc_trim")
    return trim is not None and bool(trim(0))


def _set(parameter: int, value: int) -> bool:
    mallopt = _c_function("mallopt")
    return mallopt is not None and bool(mallopt(parameter, value))


def _c_function(name: str) -> Any:
    """A function of the C library; None where it lacks it, as musl's does."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
