from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from nst_fast.errors import UsageError
from nst_fast.system import clock
from nst_fast.system.clock import Timing, make_clock, measure


def test_warmup_calls_are_made_and_not_timed() -> None:
    calls: list[int] = []
    timing = measure(lambda: calls.append(1), warmup=3, repeats=5)
    assert len(calls) == 8
    assert len(timing.samples) == 5


def test_samples_are_milliseconds() -> None:
    timing = measure(lambda: time.sleep(0.002), warmup=0, repeats=1)
    assert timing.min_ms >= 2.0


def test_quantiles_interpolate_between_samples() -> None:
    timing = Timing((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (timing.min_ms, timing.median_ms) == (1.0, 3.0)
    assert timing.p10_ms == pytest.approx(1.4)
    assert timing.p90_ms == pytest.approx(4.6)


def test_one_sample_is_every_quantile() -> None:
    timing = Timing((7.0,))
    assert timing.p10_ms == timing.median_ms == timing.p90_ms == timing.min_ms == 7.0


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_gpu_clock_synchronises_before_every_reading(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda which: events.append(f"synchronize {which}"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: events.append("synchronize mps"))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(events.append("read") or len(events)))
    read = make_clock(torch.device(device))
    read()
    read()
    assert events == [f"synchronize {device}", "read"] * 2


def test_a_device_without_a_timer_is_refused() -> None:
    with pytest.raises(UsageError, match="no clock for device 'meta'"):
        make_clock("meta")


@pytest.mark.parametrize(("warmup", "repeats"), [(0, 0), (-1, 1)])
def test_a_measurement_of_nothing_is_refused(warmup: int, repeats: int) -> None:
    with pytest.raises(UsageError, match="cannot measure"):
        measure(lambda: None, warmup=warmup, repeats=repeats)


def test_timing_on_the_cpu_does_not_import_torch() -> None:
    code = "import sys; from nst_fast.system.clock import measure; measure(int, warmup=1, repeats=1)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
