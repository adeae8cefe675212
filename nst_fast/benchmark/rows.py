"""What a benchmark measures, as plain data: one row per case, one report per run. Standard library only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from nst_fast import __version__

SCHEMA = "nst-fast/bench/1"
OK, FAILED, NOT_AVAILABLE = "ok", "failed", "not available"


@dataclass(kw_only=True)
class Row:
    """What every row has. A figure that was not asked for, or could not be had, is None; ``status`` says which.

    Attributes:
        status: ``ok``, ``failed``, or ``not available`` when the machine lacks the device or provider.
        error: why it is not ``ok``, in one line.
        width, height: of the picture, in pixels.
        batch: pictures in a step; work, rates and memory are those of all.
        precision: of the convolutions: ``fp32`` (IEEE), ``tf32``, ``bf16`` or ``fp16``.
        turns: timed turns; rows that are compared took them alternately.
        setup_seconds: building, compiling and the very first step or evaluation, which the other times leave out.
        gflop: operations of one step or evaluation, see :mod:`nst_fast.benchmark.flops`.
        gflops: operations per second that the median time achieves, in GFLOP/s.
        ceiling_share: ``gflops`` as a share of the ceiling of this device and precision.
        peak_memory_mib: highest memory of a fresh process that does this and nothing else: the GPU's, or the
            process's resident memory on a CPU.
        idle_memory_mib: the same process just before, with libraries, network and pictures loaded.
    """

    kind: ClassVar[str]

    status: str = OK
    error: str = ""
    width: int
    height: int
    batch: int = 1
    precision: str = "fp32"
    turns: int = 0
    setup_seconds: float | None = None
    gflop: float | None = None
    gflops: float | None = None
    ceiling_share: float | None = None
    peak_memory_mib: float | None = None
    idle_memory_mib: float | None = None

    @property
    def size(self) -> str:
        """For people: ``512`` when it is square, else ``512x384``, width first."""
        return str(self.width) if self.width == self.height else f"{self.width}x{self.height}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind} | {name: rounded(value) for name, value in asdict(self).items()}


@dataclass(kw_only=True)
class LoopRow(Row):
    """The loop (evaluator and optimiser) of one engine at one size.

    Attributes:
        provider: of ONNX Runtime, that computes the step of the engine ort; empty for the others.
        step_ms, step_ms_p10, step_ms_p90: milliseconds per step, over the means of the turns.
        turn_steps: steps in a turn.
        pictures_per_second: ``steps_per_second`` times ``batch``; by the steps of a run, that is finished pictures.
        ratio_to_eager: how many times as fast as eager, the median over pairs of neighbouring turns.
        gradient_cosine: between this engine's gradient and that of eager in IEEE fp32, where the run starts.
        gradient_cosine_late: the same at the picture that eager reaches after ``quality_steps`` steps. Close to an
            optimum a gradient is a small difference of large terms, so a narrow precision shows there first.
        final_loss: of the engine's own picture after as many steps, evaluated by eager in IEEE fp32.
        final_loss_change: that loss against the one of eager's own picture, relative; below 0 is better.
    """

    kind: ClassVar[str] = "loop"

    engine: str
    device: str
    provider: str = ""
    step_ms: float | None = None
    step_ms_p10: float | None = None
    step_ms_p90: float | None = None
    turn_steps: int | None = None
    steps_per_second: float | None = None
    pictures_per_second: float | None = None
    ratio_to_eager: float | None = None
    quality_steps: int = 0
    gradient_cosine: float | None = None
    gradient_cosine_late: float | None = None
    final_loss: float | None = None
    final_loss_change: float | None = None


@dataclass(kw_only=True)
class EvaluationRow(Row):
    """One forward evaluation of the objective at one size: by PyTorch without gradient, or by an ONNX Runtime provider.

    Attributes:
        runtime: ``pytorch`` or ``onnxruntime``.
        requested, actual: the provider; for PyTorch the device.
        latency_ms, latency_ms_p10, latency_ms_p90: milliseconds per evaluation, over all of them, inputs and outputs
            on the device.
        ratio_to_pytorch: how many times as fast as PyTorch in the same run, the median over neighbouring turns.
    """

    kind: ClassVar[str] = "evaluation"

    runtime: str
    requested: str
    actual: str = ""
    latency_ms: float | None = None
    latency_ms_p10: float | None = None
    latency_ms_p90: float | None = None
    evaluations_per_second: float | None = None
    ratio_to_pytorch: float | None = None


@dataclass(kw_only=True)
class MonitorRow(Row):
    """What the monitor costs the loop of one engine at one size.

    Attributes:
        requested, actual: the monitor's provider.
        monitor_every: steps between two snapshots.
        steps_per_second, steps_per_second_without: the loop with the monitor, and without.
        slowdown_percent: how much longer a step takes with it, the median over pairs of neighbouring turns.
        readings, dropped: snapshots evaluated, and left out because the provider was still busy.
    """

    kind: ClassVar[str] = "monitor"

    engine: str
    device: str
    requested: str
    actual: str = ""
    monitor_every: int
    turn_steps: int | None = None
    steps_per_second: float | None = None
    steps_per_second_without: float | None = None
    slowdown_percent: float | None = None
    readings: int = 0
    dropped: int = 0


@dataclass(kw_only=True)
class QualityRow(Row):
    """How soon a run has the loss that the best plain eager run has after a third of its steps, and after all.

    Attributes:
        pair: names of content and style picture.
        recipe: optimiser, rate and start.
        scores: the jury's, of the last picture, see :mod:`nst_fast.jury.columns`; empty unless asked for.
        steps, seconds, losses: the curve, from before the first update; losses by eager in IEEE fp32.
        early_loss, late_loss: the goals.
        early_seconds, late_seconds: until the curve reaches them, interpolated; None when it does not.
        early_share, late_share: of the seconds that the best plain eager run takes.
    """

    kind: ClassVar[str] = "quality"

    pair: str
    engine: str = ""
    recipe: str
    device: str
    early_loss: float | None = None
    early_seconds: float | None = None
    early_share: float | None = None
    late_loss: float | None = None
    late_seconds: float | None = None
    late_share: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As of any row, every score a figure of its own."""
        facts = super().as_dict()
        return facts | {name: rounded(value) for name, value in facts.pop("scores").items()}


@dataclass(kw_only=True)
class Report:
    """One run of the benchmark.

    Attributes:
        options: every option, see :class:`nst_fast.benchmark.config.BenchConfig`; files without their folders.
        machine: as :func:`nst_fast.system.machine.describe_machine` gives it, taken once.
        device: PyTorch's.
        ceilings: the rates that shares are taken of: device, precision, GFLOP/s, source.
        status: ``complete``, or ``stopped`` by the user; the rows until then are there.
    """

    options: dict[str, Any]
    machine: dict[str, Any]
    device: str
    ceilings: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    status: str = "complete"
    seconds: float = 0.0
    schema: str = SCHEMA
    nst_fast: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def of_kind(self, kind: type[Row]) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status == FAILED]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the facts about the run first and its rows last."""
        head = {"schema": self.schema, "status": self.status, "created": self.created, "nst_fast": self.nst_fast}
        facts = {"seconds": rounded(self.seconds), "device": self.device, "options": self.options}
        ceilings = [{name: rounded(value) for name, value in ceiling.items()} for ceiling in self.ceilings]
        rows = [row.as_dict() for row in self.rows]
        return head | facts | {"machine": self.machine, "ceilings": ceilings, "rows": rows}


def rounded(value: Any) -> Any:
    """Floats to 6 significant digits, which is more than any timing is worth; None for one that JSON cannot hold."""
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
