"""Functions that Numba compiles, kept in its cache where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], *, fastmath: bool = True) -> Any:
    """The function, compiled at its first call, or read from the cache; without the lock of the interpreter.

    Numba keeps it beside its source or in the user's cache folder. Where neither can be written, as in a container
    with a read-only root, every process compiles it again.
    """
    try:
        return numba.njit(fastmath=fastmath, nogil=True, cache=True)(function)
    except RuntimeError:  # no locator for the cache
        return numba.njit(fastmath=fastmath, nogil=True)(function)
