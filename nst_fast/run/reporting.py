"""What a run writes into its record: where it comes from, what its monitor saw, and what came of it."""

from __future__ import annotations

from typing import Any

import torch

from nst_fast.engines import Choice
from nst_fast.engines.max_pooling import own_kernels
from nst_fast.images import LoadedImage
from nst_fast.onnx.monitor import Monitor
from nst_fast.onnx.session import Session
from nst_fast.run.observer import StepEvent
from nst_fast.run.problem import Problem
from nst_fast.run.record import RunRecord
from nst_fast.system.files import sha256_of
from nst_fast.system.machine import describe_machine


def new_record(problem: Problem) -> RunRecord:
    content, styles, init = problem.content, problem.styles, problem.config.init_file
    return RunRecord(
        options=problem.config.as_dict(),
        inputs={
            "content": provenance(content) if content is not None else None,
            "styles": [provenance(image) for image in styles],
            **({"init": {"name": init.name, "sha256": sha256_of(init)}} if init is not None else {}),
        },
        weights=problem.weights,
        device=str(problem.device),
        engine="",
        precision="",
        size=[problem.width, problem.height],
        machine=describe_machine(),
        warnings=list(problem.notes),
    )


def provenance(image: LoadedImage) -> dict[str, object]:
    """What a record says of a picture: its name without folders, its hash and its size in pixels."""
    return {"name": image.path.name, "sha256": image.sha256, "size": list(image.original_size)}


def add_kernels(record: RunRecord, choice: Choice, device: torch.device) -> list[str]:
    """Write down once that the kernels of the fast engine do not work on this GPU; what is to be said of it."""
    trouble = own_kernels(device)[1] if choice.engine == "fast" and choice.kernels else ""
    if not trouble or trouble in record.warnings:
        return []
    record.warnings.append(trouble)
    return [trouble]


def add_engine(record: RunRecord, session: Session) -> list[str]:
    """Write down which provider computes for ``--engine ort``; what the user should hear of it, one sentence each."""
    record.engine_provider = {
        "requested": session.requested,
        "actual": session.actual,
        "seconds": session.seconds,
        "cuda_graph": session.cuda_graph,
        "tensorrt_engine": session.engine,
    }
    warnings = [f"engine ort: {warning}" for warning in session.warnings]
    record.warnings += [warning for warning in warnings if warning not in record.warnings]
    built = {
        "built": f"TensorRT engine built in {session.seconds:.0f} s, kept for the next run",
        "kept": f"TensorRT engine from the cache, loaded in {session.seconds:.1f} s",
    }
    return [*warnings, *([built[session.engine]] if session.engine else [])]


def add_readings(record: RunRecord, monitor: Monitor) -> None:
    """Add the monitor's readings to those in the record, as columns like the loop's own history."""
    readings = monitor.readings()
    before = record.monitor or {"steps": [], "terms": {}, "latency_ms": [], "dropped": 0}
    names = list(readings[0].terms) if readings else list(before["terms"])
    record.provider = {"requested": monitor.session.requested, "actual": monitor.session.actual}
    record.monitor = {
        "steps": before["steps"] + [reading.step for reading in readings],
        "terms": {
            name: before["terms"].get(name, []) + [reading.terms[name] for reading in readings] for name in names
        },
        "latency_ms": before["latency_ms"] + [reading.latency_ms for reading in readings],
        "dropped": before["dropped"] + monitor.dropped,
    }
    record.warnings += monitor.warnings


def record_so_far(record: RunRecord, monitor: Monitor | None, last: StepEvent | None) -> dict[str, Any]:
    """The record of a run that goes on, as plain data of its own, with the readings that are there by now."""
    copy = RunRecord(**record.as_dict())
    if monitor is not None:
        add_readings(copy, monitor)
    if last is not None:
        copy.peak_memory_mib = max(copy.peak_memory_mib, last.peak_memory_mib)
    return copy.as_dict()


def conclude(
    record: RunRecord, status: str, last: StepEvent, losses: dict[str, float], history: dict[str, list[float]]
) -> None:
    """Write down how the run ended, with the figures of its last event and the losses of its picture."""
    record.status = status
    record.steps, record.seconds, record.steps_per_second = last.step, last.seconds, last.steps_per_second
    record.peak_memory_mib = max(record.peak_memory_mib, last.peak_memory_mib)  # also of what was done before
    record.losses, record.history = losses, history
