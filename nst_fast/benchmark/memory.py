"""Peak memory, measured in a fresh process per row: one that has done something else would show that instead.

The child is this module too. It imports torch or ONNX Runtime only when it measures them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from nst_fast.benchmark.rows import OK, EvaluationRow, LoopRow, Row
from nst_fast.options.providers import find_provider
from nst_fast.system.files import write_atomic
from nst_fast.system.machine import MIB, has_own_memory, peak_memory_mib, reset_peak_memory

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from nst_fast.benchmark.workbench import Scene, Workbench

CHILD = [sys.executable, "-c", "from nst_fast.benchmark.memory import main; main()"]
STEPS = 3  # the optimiser's state is allocated by the first step, so the second shows the peak
EVALUATIONS = 2
TIMEOUT_SECONDS = 1800.0


def measure_memory(row: Row, workbench: Workbench) -> None:
    """Fill in a row's memory; an error goes into the row's ``error`` and leaves its other figures alone."""
    if row.status != OK:
        return
    task: dict[str, Any] = {name: getattr(row, name) for name in ("height", "width", "batch")}
    task["config"] = workbench.config.replace(device=str(workbench.device)).as_dict()
    if isinstance(row, LoopRow):
        _fill(row, task | {"what": "loop", "engine": row.engine, "precision": row.precision})
    elif isinstance(row, EvaluationRow) and row.runtime == "pytorch":
        _fill(row, task | {"what": "forward"})
    elif isinstance(row, EvaluationRow):
        from nst_fast.onnx.export import INPUT_NAME

        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            write_atomic(model, workbench.model())
            facts = {"provider": row.actual, "model": str(model), "input": INPUT_NAME}
            _fill(row, task | {"what": "session", **facts})


def _fill(row: Row, task: Mapping[str, Any]) -> None:
    text = json.dumps(task)
    try:
        done = subprocess.run(CHILD, check=False, input=text, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        row.error = f"memory: no answer within {TIMEOUT_SECONDS:g} s"
        return
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        row.error = f"memory: {lines[-1] if lines else f'the process ended with {done.returncode}'}"
        return
    answer = json.loads(done.stdout.splitlines()[-1])
    row.idle_memory_mib, row.peak_memory_mib = answer["idle"], answer["peak"]


def main() -> None:
    """The child: a task as JSON on stdin, ``idle`` and ``peak`` in MiB as JSON on stdout."""
    task = json.load(sys.stdin)
    idle, peak = {"loop": _loop, "forward": _forward, "session": _session}[task["what"]](task)
    sys.stdout.write(json.dumps({"idle": idle, "peak": peak}) + "\n")


def _loop(task: Mapping[str, Any]) -> tuple[float, float]:
    from nst_fast.benchmark.loops import PacedLoop
    from nst_fast.engines.precision import float32_arithmetic

    workbench, scene = _prepared(task)
    run = workbench.run_config(task["engine"], task["precision"])
    with float32_arithmetic(run.precision):
        return _around(lambda: PacedLoop(run, workbench, scene).advance(STEPS), workbench.device)


def _forward(task: Mapping[str, Any]) -> tuple[float, float]:
    from nst_fast.benchmark.evaluations import forward

    workbench, scene = _prepared(task)
    evaluate = forward(workbench, scene.content_image)
    return _around(lambda: [evaluate() for _ in range(EVALUATIONS)], workbench.device)


def _session(task: Mapping[str, Any]) -> tuple[float, float]:
    import numpy as np

    feeds = {task["input"]: np.full((1, 3, task["height"], task["width"]), 0.5, np.float32)}

    def evaluate() -> None:
        _, run = bind(Path(task["model"]).read_bytes(), task["provider"], feeds)
        for _ in range(EVALUATIONS):
            run()

    on_host = find_provider(task["provider"]).memory == "cpu"
    return _around(evaluate, "cpu") if on_host else (0.0, _device_growth(evaluate))


def bind(
    model: bytes, provider: str, feeds: Mapping[str, NDArray[Any]], *, allow_fallback: bool = False
) -> tuple[str, Callable[[], None]]:
    """A session of ONNX Runtime, its inputs and outputs on the provider's device. Does not import torch.

    Returns:
        The provider that really runs the model, and a function that evaluates it.

    Raises:
        DeviceError: the provider does not work here, or not for all of the model.
    """
    from nst_fast.onnx.providers import SessionConfig
    from nst_fast.onnx.session import make_session

    # An engine for this one size is the best that TensorRT can build.
    config = SessionConfig(profile={name: (array.shape,) * 3 for name, array in feeds.items()})
    session = make_session(model, provider, config, allow_fallback=allow_fallback)
    return session.actual, session.bind(feeds).run


def _prepared(task: Mapping[str, Any]) -> tuple[Workbench, Scene]:
    from nst_fast.benchmark.scenarios import BenchConfig
    from nst_fast.benchmark.workbench import Workbench

    workbench = Workbench(BenchConfig(**task["config"]))
    return workbench, workbench.scene(task["height"], task["width"], task["batch"])


def _around(work: Callable[[], object], device: torch.device | str) -> tuple[float, float]:
    """Memory in use before some work, and the highest during it, in MiB."""
    if has_own_memory(device):
        import torch

        idle = torch.accelerator.memory_allocated(device) / MIB
    else:
        idle = psutil.Process().memory_info().rss / MIB
    reset_peak_memory(device)
    work()
    return idle, peak_memory_mib(device)


def _device_growth(work: Callable[[], object]) -> float:
    """By how many MiB the memory in use on the GPU grew: ONNX Runtime's arena keeps what it once took."""
    import torch

    before, _ = torch.cuda.mem_get_info()  # creates the context, which is not the session's
    work()
    after, _ = torch.cuda.mem_get_info()
    return (before - after) / MIB
