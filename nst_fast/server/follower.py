"""The observer of a run of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nst_fast.api import Forecast, Observer, StepEvent
from nst_fast.server.pictures import Previews
from nst_fast.server.runs import Run

if TYPE_CHECKING:
    from nst_fast.server.queue import Queue

MOST_NOTES = 20
EVENTS = 20  # that a run has at least, however fast it is


class Follower(Observer):
    """Takes events into the run, hands pictures to the previews, and stops the run when it is asked to."""

    def __init__(self, run: Run, forecast: Forecast, queue: Queue) -> None:
        self.run, self.forecast, self.queue = run, forecast, queue
        self.every = max(1, run.steps // EVENTS)
        self.previews = Previews(self._show)

    def event(self, event: StepEvent) -> None:
        self.previews.offer(event)
        self.run.seen(event, self.forecast.share_done(event.step))
        self.queue.changed()

    def note(self, text: str) -> None:
        if text not in self.run.notes:
            self.run.notes = [*self.run.notes, text][-MOST_NOTES:]

    def stop(self) -> bool:
        return self.run.stopping or self.queue.is_closing()

    def _show(self, step: int, picture: bytes) -> None:
        self.run.preview = step, picture
        self.queue.changed()
