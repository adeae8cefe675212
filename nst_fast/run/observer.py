"""What a run reports, and the interface of those who follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from nst_fast.run.guard import Recovery
    from nst_fast.run.outputs import Pastiche
    from nst_fast.run.record import RunRecord


@dataclass(frozen=True, eq=False)
class StepEvent:
    """The state of a run after ``step`` updates: the picture and the losses of that very picture.

    Attributes:
        scale: index of the scale, from 0 (coarsest).
        step: updates done, at all scales; ``steps`` of them are planned.
        terms: weighted terms and ``total``, as Python floats (means over the batch).
        seconds: since the run started, the device synchronised.
        steps_per_second: over the whole run so far; 0 before the first update.
        peak_memory_mib: highest memory so far; on a GPU its own, on a CPU the process's.
        pastiche: the live tensor [B, 3, H, W], the iterate also where iterates are averaged; copy it before the
            generator goes on.
        totals: the loss of each picture of the batch.
    """

    scale: int
    step: int
    steps: int
    terms: dict[str, float]
    seconds: float
    steps_per_second: float
    peak_memory_mib: float
    pastiche: Tensor
    totals: tuple[float, ...] = ()


def sums_by_kind(terms: Mapping[str, float]) -> dict[str, float]:
    """``style/relu1_1`` and its like added up to ``style``, and so on."""
    sums: dict[str, float] = {}
    for name, value in terms.items():
        kind = name.split("/")[0]
        sums[kind] = sums.get(kind, 0.0) + value
    return sums


class Observer:
    """Follows a run; a subclass overrides what it needs. Every method is called on the thread that runs the loop.

    Attributes:
        every: an event every so many steps, beside those that come as time passes; 0 for these alone.
    """

    every = 0

    def started(self, record: RunRecord) -> None:
        """The run begins; the record has its options, inputs and machine. Of a batch, that of the first picture."""

    def event(self, event: StepEvent) -> None:
        """The state of the run at a step that is reported."""

    def note(self, text: str) -> None:
        """One sentence that the user should read: a fallback, a recovery, a file that cannot be written."""

    def detail(self, text: str) -> None:
        """One sentence on how the run is computed: engine, precision, memory plan. Shown with ``--verbose``."""

    def finished(self, pastiche: Pastiche) -> None:
        """The run has this result, also when it was stopped or has diverged; of a batch, one call for each picture."""

    def stop(self) -> bool:
        """Asked once a step; True ends the run in good order, with the picture it has."""
        return False


class LoopObserver(Observer):
    """Follows the loop of a run, as the run itself does."""

    def recovered(self, recovery: Recovery) -> None:
        """The loop has returned to its best picture after a divergence."""

    def evaluated(self, step: int, stopping: bool) -> None:
        """The pastiche after ``step`` updates is evaluated; ``stopping``: the loop ends here, by :meth:`stop`."""


class Listeners(Observer):
    """An observer made of functions, each of them optional."""

    def __init__(
        self,
        event: Callable[[StepEvent], None] | None = None,
        note: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
        detail: Callable[[str], None] | None = None,
    ) -> None:
        given = {"event": event, "note": note, "stop": stop, "detail": detail}
        # In place of the methods, which do nothing.
        vars(self).update({name: function for name, function in given.items() if function is not None})
