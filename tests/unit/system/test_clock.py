from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from fake_accelerator import FakeAccelerator

from nst_fast.errors import UsageError
from nst_fast.system import clock
from nst_fast.system.clock import Phases, make_clock


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu"])
def test_a_gpu_clock_synchronises_before_every_reading(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events = FakeAccelerator(device.partition(":")[0]).install(monkeypatch).calls
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(events.append("read") or len(events)))
    read = make_clock(torch.device(device))
    read()
    read()
    assert events == [f"synchronize {device}", "read"] * 2


def test_a_device_without_a_timer_is_refused() -> None:
    with pytest.raises(UsageError, match="no clock for device 'meta'"):
        make_clock("meta")


def test_timing_on_the_cpu_does_not_import_torch() -> None:
    code = "import sys; from nst_fast.system.clock import make_clock; make_clock()(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_phase_counts_without_those_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 1.0, 3.0, 7.0, 20.0, 21.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(readings))
    phases = Phases()
    with phases("outer"), phases("inner"):
        pass
    with phases("inner"):
        pass
    assert phases.seconds == {"inner": 3.0, "outer": 5.0}
