"""Threads for Numba, and the cache of what it compiles."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest
import torch
from numba.core.caching import CacheImpl

from nst_fast.system.compiled import compiled, in_threads


def _in_two_threads(low_and_high: Any) -> None:
    torch.set_num_threads(2)
    seen: list[tuple[int, int]] = []
    in_threads(lambda low, high: seen.append((low, high)), 5)
    low_and_high.extend(sorted(seen))


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    try:
        here: list[tuple[int, int]] = []
        _in_two_threads(here)
        context = multiprocessing.get_context("fork")
        with context.Manager() as manager:
            there = manager.list()
            child = context.Process(target=_in_two_threads, args=(there,))
            child.start()
            child.join(60)
            assert child.exitcode == 0
            assert list(there) == here == [(0, 2), (2, 5)]
    finally:
        torch.set_num_threads(before)


def test_where_numba_has_no_place_for_its_cache_functions_are_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container with a read-only root and no home."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert compiled(twice)(21) == 42


def twice(number: int) -> int:
    return 2 * number
