"""What a benchmark measures, as plain data: one row per case, one report per run. Imports the standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from nst_fast import __version__
from nst_fast.system.rounding import rounded

SCHEMA = "nst-fast/bench/1"
DIGITS = 6  # of a figure, which is more than any timing is worth
OK, FAILED, NOT_AVAILABLE = "ok", "failed", "not available"


@dataclass(kw_only=True)
class Row:
    """What every row has; bench/README.md says what each column means.

    A figure that was not asked for or cannot be measured is None; ``status`` says which.
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
    winograd_share: float | None = None
    peak_memory_mib: float | None = None
    idle_memory_mib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        facts: dict[str, Any] = rounded(asdict(self), DIGITS)
        return {"kind": self.kind} | facts


@dataclass(kw_only=True)
class LoopRow(Row):
    """The loop (evaluator and optimiser) of one engine at one size."""

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
    """One forward evaluation of the objective: by PyTorch without gradient, or by an ONNX Runtime provider."""

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
    """By how much the monitor slows down the loop of one engine at one size."""

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
    """How soon a run has the loss that the best plain eager run has after a third of its steps, and after all."""

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
        """The fields, every score a figure of its own."""
        facts = super().as_dict()
        scores: dict[str, Any] = facts.pop("scores")
        return facts | scores


@dataclass(kw_only=True)
class BenchReport:
    """One run of the benchmark.

    Attributes:
        status: ``complete``, or ``stopped`` by the user; the rows until then are there.
        device: PyTorch's.
        options: every option, see :class:`nst_fast.benchmark.scenarios.BenchConfig`; files without their folders.
        machine: as :func:`nst_fast.system.machine.describe_machine` gives it, taken once.
        ceilings: the rates that shares are taken of, see :class:`nst_fast.benchmark.ceilings.Ceiling`.
    """

    schema: str = SCHEMA
    status: str = "complete"
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    nst_fast: str = __version__
    seconds: float = 0.0
    device: str
    options: dict[str, Any]
    machine: dict[str, Any]
    ceilings: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status == FAILED]

    def as_dict(self) -> dict[str, Any]:
        figures = {"seconds": rounded(self.seconds, DIGITS), "ceilings": rounded(self.ceilings, DIGITS)}
        return vars(self) | figures | {"rows": [row.as_dict() for row in self.rows]}
