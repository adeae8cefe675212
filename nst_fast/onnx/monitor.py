"""ONNX Runtime's own fp32 evaluation of snapshots of the pastiche, beside the loop, which never waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_fast.errors import OnnxModelError
from nst_fast.network.taps import tap_size
from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Objective, Statistics
from nst_fast.onnx.checked_export import cached_path, find_or_export
from nst_fast.onnx.export import open_model, style_output
from nst_fast.onnx.session import Session, check_provider, make_session
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.options.style import StyleTerm
from nst_fast.system.files import remove

CLOSE_SECONDS = 60.0  # how long the last reading may take before the run ends without it


@dataclass(frozen=True)
class Reading:
    """The objective of one snapshot as ONNX Runtime computes it.

    Attributes:
        step: updates done when the snapshot was taken.
        terms: weighted terms and ``total``, named as the loop names them (means over the batch).
        latency_ms: from taking the snapshot up to the finished terms; the first may include opening the session.
    """

    step: int
    terms: dict[str, float]
    latency_ms: float


class CachedSession:
    """A cached model on the CPU as a session, which the first run opens: in the monitor's thread, beside the loop.

    A model that is refused is removed, so that the next run of the program exports it anew.
    """

    requested = actual = "cpu"
    warnings = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Session | None = None

    def run(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if self._session is None:
            try:
                self._session = make_session(open_model(self._path)[0])
            except OnnxModelError:
                remove(self._path)
                raise
        return self._session.run(image)


class Monitor:
    """Evaluates snapshots in a thread of its own; a context manager that ends with the last reading.

    One snapshot can wait while another is evaluated. A newer one takes its place, so that a slow provider gives fewer
    readings, and still one of the final picture. A failure in the thread ends the monitoring, not the run: it becomes
    one of the ``warnings``.

    Args:
        session: of an ``objective`` graph with the objective's taps, see :mod:`nst_fast.onnx.export`.
        objective: the loop's; its targets are copied to the CPU in float32.
        seed: of the run.

    Attributes:
        dropped: how many snapshots were not evaluated.
        warnings: what went wrong so far, one sentence each.
    """

    def __init__(self, session: Session | CachedSession, objective: Objective, seed: int = 0) -> None:
        self.session = session
        self.seed = seed
        self.dropped = 0
        self.warnings: list[str] = []
        self._objective = Objective(objective.options, objective.targets.to(torch.device("cpu"), torch.float32))
        self._readings: list[Reading] = []
        self._waiting: tuple[int, Tensor] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="nst-fast monitor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(0.0 if error is not None else CLOSE_SECONDS)

    def submit(self, step: int, pastiche: Tensor) -> bool:
        """Hand over a snapshot [B, 3, H, W] on the CPU, which the caller must not change any more. Never waits.

        The picture is evaluated as it is, without clamping: it is what the loop evaluated.

        Returns:
            Whether every snapshot is still to be evaluated; False when one was dropped, the older of two that wait.
        """
        with self._changed:
            if self._closed:
                self.dropped += 1
                return False
            full = self._waiting is not None
            self.dropped += full
            self._waiting = (step, pastiche)
            self._changed.notify()
            return not full

    def readings(self) -> list[Reading]:
        """The readings so far, in the order of their steps."""
        return list(self._readings)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Take no more snapshots and wait for those handed over, at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive() and timeout:
            self.warnings.append(f"monitor: the last reading was not finished within {timeout:g} s and is missing")

    def _take(self) -> tuple[int, Tensor] | None:
        """Wait for a snapshot; None when the monitor is closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            snapshot, self._waiting = self._waiting, None
            return snapshot

    def _work(self) -> None:
        while (snapshot := self._take()) is not None:
            try:
                self._readings.append(self._evaluate(*snapshot))
            # Broad, because no failure here may end the run; it is kept as a warning.
            except Exception as error:
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                self.warnings.append(f"monitor: stopped at step {snapshot[0]}, {reason}")
                self._closed = True
                return

    @torch.no_grad()
    def _evaluate(self, step: int, pastiche: Tensor) -> Reading:
        started = time.perf_counter()
        pastiche = pastiche.to(torch.device("cpu"), torch.float32)
        # The graph takes one picture; a batch is as many independent problems.
        outputs = [self.session.run(image[None].contiguous().numpy()) for image in pastiche]
        height, width = pastiche.shape[2:]
        styles = self._objective.style_terms.values()
        self._objective.begin_step(self.seed, step)
        terms = self._objective.terms(as_statistics(outputs, styles, height, width), pastiche)
        means = {name: float(term.mean()) for name, term in terms.items()}
        total = float(torch.stack(list(terms.values())).sum(0).mean())
        return Reading(step, {**means, "total": total}, 1e3 * (time.perf_counter() - started))


def is_exported(objective: Objective, weights_sha256: str) -> bool:
    """Whether the cache has the model that :func:`open_monitor` opens."""
    return cached_path(ExportConfig.serving(objective.options), weights_sha256).exists()


def open_monitor(
    encoder: Encoder, objective: Objective, config: StylizeConfig, weights_sha256: str, note: Callable[[str], None]
) -> Monitor:
    """A monitor of a run's objective, its model found in the cache or exported.

    A cached model on the CPU is opened in the monitor's thread; what is wrong with it ends the monitoring alone.

    Args:
        encoder, objective: of the run, made of the config.
        config: names the provider and whether a fallback is allowed.
        weights_sha256: of the encoder's weights.
        note: receives one sentence about each thing the user should know.

    Raises:
        DeviceError: the provider does not work here and no fallback is allowed; found before any export.
        VerificationError: the model had to be exported and is out of tolerance.
    """
    exported = ExportConfig.serving(objective.options)
    if config.monitor_provider == "cpu" and (path := cached_path(exported, weights_sha256)).exists():
        return Monitor(CachedSession(path), objective, config.seed)
    if not config.allow_fallback:
        check_provider(config.monitor_provider)
    found = find_or_export(exported, note, (encoder, weights_sha256))
    session = make_session(found.model, config.monitor_provider, allow_fallback=config.allow_fallback)
    for sentence in session.warnings:
        note(sentence)
    return Monitor(session, objective, config.seed)


def as_statistics(
    outputs: Sequence[Mapping[str, NDArray[Any]]], styles: Iterable[StyleTerm], height: int, width: int
) -> Statistics:
    """The outputs of an ``objective`` graph, one mapping per picture of this size, as the objective's statistics."""
    batch = {name: torch.cat([torch.from_numpy(output[name]) for output in outputs]) for name in outputs[0]}
    content = {name.partition("/")[2]: batch[name] for name in batch if name.startswith("content/")}
    style: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    for term in styles:
        positions[term.name] = math.prod(tap_size(term.tap, height, width))
        found = batch[style_output(term)]
        style[term.name] = found / positions[term.name] if term.additive else found  # the graph gives sums
    return Statistics(content, style, positions)
