"""The GNU C library's allocator, told to give memory back to the system."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # malloc.h of the GNU C library
THRESHOLD = 2**20


def return_freed_memory() -> bool:
    """From now on, blocks of a mebibyte and more are mapped one by one and unmapped when freed.

    By itself the GNU C library raises its threshold to 32 MiB as a program frees large blocks, and keeps smaller ones
    in a heap that only shrinks from its end: crops of changing sizes leave hundreds of mebibytes of holes there. False
    where there is no such allocator.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    try:
        mallopt = library.mallopt
    except AttributeError:  # another C library, as musl's
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, THRESHOLD))


def release_freed_memory() -> bool:
    """Give pages of the heap that are free at this moment back to the system; False where that is not possible."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    try:
        trim = library.malloc_trim
    except AttributeError:
        return False
    return bool(trim(0))
