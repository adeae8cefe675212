"""Evaluation rows: the exported objective in ONNX Runtime, provider against provider, and PyTorch as the baseline."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nst_fast.benchmark.memory import bind
from nst_fast.benchmark.rows import EvaluationRow
from nst_fast.benchmark.turns import Contender, compete, count_for, median_ratio, spread
from nst_fast.benchmark.workbench import Workbench
from nst_fast.engines.precision import float32_arithmetic
from nst_fast.onnx.export import INPUT_NAME, ExportModule
from nst_fast.onnx.session import check_provider
from nst_fast.options.config import ExportConfig
from nst_fast.options.providers import find_provider
from nst_fast.system.clock import make_clock
from nst_fast.system.machine import resolve_device

MOST_TURN_EVALUATIONS = 2000
PYTORCH, ONNXRUNTIME = "pytorch", "onnxruntime"


class EvaluationContender(Contender):
    """Timed evaluations, each of them a sample. The first of a turn is not timed: it wakes the threads."""

    row: EvaluationRow

    def __init__(self, row: EvaluationRow, workbench: Workbench) -> None:
        super().__init__(row)
        self.workbench = workbench
        self.evaluate: Callable[[], object] = lambda: None
        self.clock = make_clock(workbench.device if row.runtime == PYTORCH else "cpu")
        self.count = 1

    def prepare(self) -> None:
        config = self.workbench.config
        started = self.clock()
        picture = self.workbench.scene(self.row.height, self.row.width).content_image
        of_pytorch = self.row.runtime == PYTORCH
        self.evaluate = forward(self.workbench, picture) if of_pytorch else self._onnxruntime(picture)
        self.evaluate()
        self.row.setup_seconds = self.clock() - started
        seconds = min(self._timed() for _ in range(config.warmup)) / 1e3
        self.count = count_for(config.turn_seconds, seconds, MOST_TURN_EVALUATIONS)

    def take_turn(self) -> list[float]:
        self.evaluate()
        return [self._timed() for _ in range(self.count)]

    def fill(self, baseline: EvaluationContender) -> None:
        """Write the figures into the row."""
        row = self.row
        median_ms, row.latency_ms_p10, row.latency_ms_p90 = spread(self.samples)
        row.latency_ms = median_ms
        row.evaluations_per_second = 1e3 / median_ms
        row.ratio_to_pytorch = median_ratio(baseline, self)
        flop = self.workbench.flops(row)
        if row.runtime == PYTORCH:
            self.workbench.rate(row, flop, median_ms, self.workbench.device)
        # Of no other device than these is the ceiling known.
        elif row.actual == "cpu" or find_provider(row.actual).memory == "cuda":
            self.workbench.rate(row, flop, median_ms, resolve_device(find_provider(row.actual).memory))

    def _timed(self) -> float:
        started = self.clock()
        self.evaluate()
        return 1e3 * (self.clock() - started)

    def _onnxruntime(self, picture: torch.Tensor) -> Callable[[], object]:
        config = self.workbench.config
        if not config.allow_fallback:
            check_provider(self.row.requested)  # before the export, which such a row does not need
        feeds = {INPUT_NAME: picture.cpu().numpy()}
        model = self.workbench.model()
        self.row.actual, run = bind(model, self.row.requested, feeds, allow_fallback=config.allow_fallback)
        return run


def forward(workbench: Workbench, picture: torch.Tensor) -> Callable[[], object]:
    """PyTorch's evaluation of the module that is exported, without gradient."""
    module = ExportModule(workbench.encoder, ExportConfig.serving(workbench.config))

    def evaluate() -> object:
        with torch.no_grad(), float32_arithmetic("fp32"):  # as the sessions, which compute in IEEE fp32
            return module(picture)

    return evaluate


def evaluation_rows(workbench: Workbench, height: int, width: int) -> list[EvaluationRow]:
    """PyTorch's row and one per provider."""
    device = str(workbench.device)
    rows = [EvaluationRow(width=width, height=height, runtime=PYTORCH, requested=device, actual=device)]
    for provider in workbench.config.provider_names:
        rows.append(EvaluationRow(width=width, height=height, runtime=ONNXRUNTIME, requested=provider))
    contenders = [EvaluationContender(row, workbench) for row in rows]
    compete(contenders, workbench.config.repeats, workbench.stop)
    for contender in contenders:
        if contender.turns:
            contender.fill(contenders[0])
    return rows
