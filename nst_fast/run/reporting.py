"""What a run writes into its records, and notes to its observer, during the run."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.engines import Choice
from nst_fast.engines.checked_kernels import triton_kernels
from nst_fast.images import LoadedImage
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.guard import Recovery
from nst_fast.run.layout import ScalePlan
from nst_fast.run.observer import Observer, StepEvent
from nst_fast.run.problem import Batch, Problem
from nst_fast.run.provenance import remember_file
from nst_fast.run.record import RunRecord
from nst_fast.system.files import sha256_of
from nst_fast.system.machine import describe_machine, peak_memory_mib

if TYPE_CHECKING:
    from nst_fast.onnx.monitor import Monitor
    from nst_fast.onnx.session import Session


def new_record(problem: Problem) -> RunRecord:
    content, styles, init = problem.content, problem.own_styles, problem.config.init_file
    hashes = {"weights": problem.weights["sha256"], "init": sha256_of(init) if init is not None else ""}
    for option, path in problem.config.files.items():
        remember_file(path, hashes[option])
    masks = {option: [file_facts(path) for path in value.files] for option, value in problem.config.mask_files.items()}
    return RunRecord(
        options=problem.config.recorded(),
        inputs={
            "content": described(content) if content is not None else None,
            "styles": [described(image) for image in styles],
            **({"init": {"name": init.name, "sha256": hashes["init"]}} if init is not None else {}),
            **({"masks": masks} if masks else {}),
        },
        weights=problem.weights,
        device=str(problem.device),
        engine="",
        precision="",
        size=[problem.width, problem.height],
        machine=describe_machine(),
        warnings=list(problem.notes),
    )


def file_facts(path: Path) -> dict[str, str]:
    """What a record says of a mask, whose place is kept for ``--from``."""
    digest = sha256_of(path)
    remember_file(path, digest)
    return {"name": path.name, "sha256": digest}


def described(image: LoadedImage) -> dict[str, object]:
    """What a record says of a picture: its name without folders, its hash and its size in pixels."""
    return {"name": image.path.name, "sha256": image.sha256, "size": list(image.original_size)}


class Report:
    """The records of a run, one per problem, and its notes.

    Args:
        interrupted: the run that is resumed; its record is continued, with the options of now.

    Attributes:
        choice: engine and precision of the run.
        last: the newest event.
    """

    choice: Choice

    def __init__(self, batch: Batch, observer: Observer, interrupted: Checkpoint | None = None) -> None:
        self.batch = batch
        self.observer = observer
        if interrupted is None:
            self.records = [new_record(problem) for problem in batch.problems]
        else:
            self.records = [RunRecord(**copy.deepcopy(interrupted.record) | {"options": batch.config.recorded()})]
        self.last: StepEvent | None = None
        self.program_mib = peak_memory_mib(batch.device)
        self._detailed = ""

    def warn(self, *sentences: str) -> None:
        """Add to the warnings of every record what is not there yet."""
        for record in self.records:
            record.warnings += [said for said in sentences if said and said not in record.warnings]

    def settle(self, choice: Choice) -> None:
        """Engine and precision from here on; a detail of the run where they were not asked for."""
        if str(choice) != self._detailed and "auto" in (self.batch.config.engine, self.batch.config.precision):
            self.observer.detail(str(choice))
            self._detailed = str(choice)
        self.choice = choice
        for record in self.records:
            record.engine, record.precision, record.convolution = choice.engine, choice.precision, choice.convolution
        trouble = triton_kernels(self.batch.device)[1] if choice.engine == "fast" and choice.kernels else ""
        if trouble and trouble not in self.records[0].warnings:
            self.warn(trouble)
            self.observer.note(trouble)

    def planned(self, plan: ScalePlan, *, last: bool) -> None:
        """The memory plan of a scale; that of the last is a detail of the run."""
        facts = plan.as_dict() | {"program_memory_mib": self.program_mib}
        facts |= {"together": self.batch.count} if self.batch.count > 1 else {}
        for record in self.records:
            record.plan = dict(facts)
        if last:
            self.observer.detail(str(plan))

    def opened(self, session: Session) -> None:
        """A session of ONNX Runtime that computes for the loop, of ``engine`` ort."""
        warnings = [f"engine ort: {warning}" for warning in session.warnings]
        self.warn(*warnings)
        for record in self.records:
            record.engine_provider = {
                "requested": session.requested,
                "actual": session.actual,
                "seconds": session.seconds,
                "cuda_graph": session.cuda_graph,
                "tensorrt_engine": session.engine,
            }
        built = {
            "built": f"TensorRT engine built in {session.seconds:.0f} s, kept for the next run",
            "kept": f"TensorRT engine from the cache, loaded in {session.seconds:.1f} s",
        }
        for sentence in [*warnings, *([built[session.engine]] if session.engine else [])]:
            self.observer.note(sentence)

    def recovered(self, recovery: Recovery) -> None:
        content = self.batch.problems[recovery.picture].content
        sentence = str(recovery)
        if self.batch.count > 1:
            sentence = f"{content.path.name if content is not None else recovery.picture}: {sentence}"
        for record in self.records:
            record.recoveries.append(asdict(recovery))
            record.warnings.append(sentence)
        self.observer.note(sentence)

    def so_far(self, monitor: Monitor | None) -> dict[str, Any]:
        """The record of a run that continues, as plain data of its own, with the readings that there are by now."""
        record = RunRecord(**self.records[0].as_dict())
        if monitor is not None:
            add_readings(record, monitor)
        if self.last is not None:
            record.peak_memory_mib = max(record.peak_memory_mib, self.last.peak_memory_mib)
        return record.as_dict()

    def conclude(self, index: int, status: str, losses: dict[str, float], history: dict[str, list[float]]) -> None:
        """How the run ended for one problem: figures of the last event, losses of its picture."""
        assert self.last is not None  # the end of a loop is an event
        record, last = self.records[index], self.last
        record.status = status
        record.steps, record.seconds, record.steps_per_second = last.step, last.seconds, last.steps_per_second
        record.peak_memory_mib = max(record.peak_memory_mib, last.peak_memory_mib)  # also of what was done before
        record.losses, record.history = losses, history


def add_readings(record: RunRecord, monitor: Monitor) -> None:
    """Append the monitor's readings, columns like the loop's own history, to those in the record."""
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
