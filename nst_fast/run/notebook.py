"""A progress bar in a notebook: Jupyter, Colab, and editors that show notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from nst_fast.errors import UsageError
from nst_fast.run.observer import Observer, StepEvent

if TYPE_CHECKING:
    from nst_fast.run.outputs import Pastiche
    from nst_fast.run.record import RunRecord


class ProgressBar(Observer):
    """Shows a run below the cell that makes it: ``stylize(..., listeners=ProgressBar())``. For one run after another.

    HTML that is replaced at every event: it needs no widgets, and what is left is how the run ended.

    Raises:
        UsageError: there is no IPython, which shows what a cell makes.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import display
        except ImportError:
            message = "a progress bar is shown by IPython, which is not installed"
            raise UsageError(message, "Use it in a notebook; elsewhere Listeners(event=...)") from None
        self._display = display
        self._notes: list[str] = []
        self._state = ""

    def started(self, record: RunRecord) -> None:
        self._notes.clear()
        self._handle = self._display(self._bundle(), raw=True, display_id=True)

    def event(self, event: StepEvent) -> None:
        left = (event.steps - event.step) / event.steps_per_second if event.steps_per_second else 0.0
        speed = f", {event.steps_per_second:.2f} steps/s, {left:.0f} s left" if left else ""
        self._state = f"step {event.step} of {event.steps}, loss {event.terms['total']:.4g}{speed}"
        self._show(f'<progress value="{event.step}" max="{event.steps}" style="width: 20em"></progress> ')

    def note(self, text: str) -> None:
        self._notes.append(f"note: {text}")

    def finished(self, pastiche: Pastiche) -> None:
        record = pastiche.record
        self._state = f"{record.status}: {record.steps} steps in {record.seconds:.1f} s on {record.device}"
        self._show()

    def _show(self, bar: str = "") -> None:
        self._handle.update(self._bundle(bar), raw=True)

    def _bundle(self, bar: str = "") -> dict[str, str]:
        lines = [self._state, *self._notes]
        return {"text/plain": "\n".join(lines), "text/html": bar + "<br>".join(map(html.escape, lines))}
