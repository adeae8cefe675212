"""The queue: one run at a time on each device, in a thread of its own; those who wait for news are woken."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nst_fast.errors import NstFastError, OutputError, ours
from nst_fast.server.answers import RequestError, facts_of
from nst_fast.server.runs import Order, Run, name_of
from nst_fast.server.uploads import ID, Uploads
from nst_fast.system.files import make_folder, shown, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from nst_fast.api import Forecast

MOST_STARTS = 5  # of a run during which the server ends each time, as when memory runs out


class Queue:
    """All runs in a folder, each in a folder of its own. Any thread may call. ``say`` receives lines for the log."""

    def __init__(self, folder: Path, uploads: Uploads, say: Callable[[str], None]) -> None:
        self.folder, self.uploads, self.say = make_folder(folder), uploads, say
        self.lock = threading.RLock()
        self._closing = threading.Event()
        self._runs: dict[str, Run] = {}
        self._workers: dict[str, threading.Thread] = {}
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        for path in folder.glob("*/run.json"):
            try:
                run = Run.load(path.parent)
                run.lasting(uploads)
                self._runs[run.id] = run
            except (OSError, ValueError, TypeError, KeyError, NstFastError) as error:
                say(f"{shown(path.parent)} stays as it is, and is no run that can be shown: {error}")

    def begin(self) -> None:
        """Go on with the runs that the end of the last server has left."""
        for run in self.waiting():
            self._enqueue(run)

    def close(self) -> None:
        """Interrupt what is running, so that it goes on at the next start, and wait for it."""
        self.interrupt()
        for worker in list(self._workers.values()):
            worker.join()

    def interrupt(self) -> None:
        self._closing.set()
        self.changed()

    def is_closing(self) -> bool:
        return self._closing.is_set()

    def waiting(self, device: str | None = None) -> list[Run]:
        """Runs that are running or queued, in their order."""
        found = [run for run in list(self._runs.values()) if not run.ended and device in (None, run.device)]
        return sorted(found, key=order)

    def all(self) -> list[Run]:
        """The newest first."""
        return sorted(self._runs.values(), key=lambda run: (run.created, run.id), reverse=True)

    def get(self, id: str) -> Run:
        if id not in self._runs:
            raise RequestError(404, f"there is no run {shown(id[:40])!r}")
        return self._runs[id]

    def add(self, asked: Order) -> Run:
        """A new run at the end of the queue. Raises what would make it fail at once."""
        if not asked.styles:
            raise RequestError(422, "no style image was given", "Name at least one", "styles")
        forecast, id = asked.forecast(self.uploads), secrets.token_hex(8)
        memory = forecast.memory.tiling
        steps = forecast.scales[-1].first + forecast.scales[-1].steps
        name = self._new_name(name_of(asked, self.uploads))
        run = Run(id, self.folder / id, asked, name, forecast.device, forecast.work, steps, memory.width, memory.height)
        make_folder(run.folder)
        with self.lock:
            self._runs[id] = run
            self._enqueue(run)
        return run

    def _new_name(self, name: str) -> str:
        """The name, with a number where runs have it already."""
        taken, count = {run.name for run in self.all()}, 1
        while (found := name if count == 1 else f"{name}-{count}") in taken:
            count += 1
        return found

    def stop(self, id: str) -> Run:
        """End a run after its step; one that is queued at once."""
        with self.lock:
            run = self.get(id)
            if run.ended:
                raise RequestError(409, f"the run is {run.state} already")
            run.stopping = True
            if run.state == "queued":
                self._move(run, "stopped")
        return run

    def go_on(self, id: str) -> Run:
        """Queue a run again that was stopped or has failed."""
        with self.lock:
            run = self.get(id)
            if run.state not in ("stopped", "failed"):
                raise RequestError(
                    409, f"the run is {run.state}", "Only a run that was stopped or has failed can go on"
                )
            run.error, run.starts = None, 0
            self._enqueue(run, anew=True)
        return run

    def delete(self, id: str) -> None:
        with self.lock:
            run = self.get(id)
            if run.state == "running":
                raise RequestError(409, "the run is running", "Stop it first")
            del self._runs[id]
            run.state = "stopped"
            shutil.rmtree(run.folder)
        self.changed()

    def used(self) -> set[str]:
        """The uploads that runs need."""
        used: set[str] = set()
        for run in list(self._runs.values()):
            options = " ".join(map(str, run.asked.options.values()))
            used |= {run.asked.content, *run.asked.styles, *ID.findall(options)}
        return used

    def place(self, run: Run) -> int:
        """How many runs are to end before a queued one begins; 0 for all others."""
        before = [other for other in self.waiting(run.device) if order(other) < order(run)]
        return len(before) if run.state == "queued" else 0

    def estimate(self, forecast: Forecast) -> float | None:
        """Seconds, from the finished run on this device whose work was most like this; None without any."""
        same = [run for run in list(self._runs.values()) if run.state == "done" and run.device == forecast.device]
        done = [run for run in same if run.seconds]
        if not done:
            return None
        nearest = min(done, key=lambda run: max(run.work, forecast.work) / min(run.work, forecast.work))
        return nearest.seconds * forecast.work / nearest.work

    # Who waits for news is woken, and looks for what has changed: nothing is kept for those who are slow.

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        listener = (asyncio.get_running_loop(), asyncio.Event())
        self._listeners.add(listener)
        try:
            yield listener[1]
        finally:
            self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def changed(self) -> None:
        for loop, event in list(self._listeners):
            with suppress(RuntimeError):  # the loop is closed: nobody is there
                loop.call_soon_threadsafe(event.set)

    def _move(self, run: Run, state: str) -> None:
        run.state, run.stopping, run.seconds_left = state, False, None
        try:
            run.save()
        except OutputError as error:  # the queue goes on; at the next start the run is what it was before
            self.say(f"run {run.id}: {error}")
        self.changed()

    def _enqueue(self, run: Run, *, anew: bool = False) -> None:
        with self.lock:
            if anew or not run.queued:
                run.queued = datetime.now(UTC).isoformat()
            self._move(run, "queued")
            if run.device not in self._workers:
                worker = threading.Thread(target=self._work, args=(run.device,), name=f"runs on {run.device}")
                self._workers[run.device] = worker
                worker.start()

    def _work(self, device: str) -> None:
        """Run what is queued for a device, until nothing is."""
        while True:
            with self.lock:
                queued = [run for run in self.waiting(device) if run.state == "queued"]
                if self.is_closing() or not queued:
                    del self._workers[device]
                    return
                run = queued[0]
                run.starts += 1
                self._move(run, "running")
            self.say(f"run {run.id}: {run.name} on {device}")
            state, error = self._made(run)
            with self.lock:
                interrupted = self.is_closing() and state == "stopped" and not run.stopping
                run.error = facts_of(error) if error is not None else None
                run.preview = None
                run.starts = 0 if interrupted else run.starts  # in good order: it is not the run's doing
                self._move(run, "running" if interrupted else state)
            self.say(f"run {run.id}: {error or run.state}")

    def _made(self, run: Run) -> tuple[str, NstFastError | None]:
        """Run one; the state that it ends in, and what went wrong."""
        try:
            if run.starts > MOST_STARTS:
                raise NstFastError(
                    f"the server has ended {MOST_STARTS} times during this run", "Choose a smaller `image_size`"
                )
            return self._painted(run), None
        except Exception as error:  # of whatever kind: the queue goes on, and the run says why it failed
            if os.environ.get("NST_FAST_DEBUG"):
                traceback.print_exception(error)
            return "failed", ours(error)

    def _painted(self, run: Run) -> str:
        from nst_fast import api
        from nst_fast.images import load_image
        from nst_fast.server.follower import Follower

        if (record := api.finished_record(run.picture)) is not None:  # the server ended before it took note
            run.step, run.seconds = record["steps"], record["seconds"]
            keep_small(run, load_image(run.picture).tensor)
            return "done"
        content, styles = run.asked.pictures(self.uploads)
        follower = Follower(run, run.asked.forecast(self.uploads), self)
        with closing(follower.previews):
            if api.is_unfinished(run.picture):
                pastiche = api.resume(run.picture, content=content, style=styles, overwrite=True, listeners=follower)
            else:
                config, run.points = run.asked.config(self.uploads), []
                pastiche = api.stylize(content, styles, config, output=run.picture, overwrite=True, listeners=follower)
        run.step, run.seconds = pastiche.record.steps, pastiche.record.seconds
        keep_small(run, pastiche.image)
        return "stopped" if pastiche.record.status == "stopped" else "done"


def order(run: Run) -> tuple[bool, str, str]:
    return run.state != "running", run.queued, run.id


def keep_small(run: Run, image: Tensor) -> None:
    """Write the preview and the thumbnail of a picture that has been written."""
    from nst_fast.server.pictures import PREVIEW, THUMBNAIL, webp

    for name, side in (("preview.webp", 2 * PREVIEW), ("thumbnail.webp", THUMBNAIL)):
        write_atomic(run.folder / name, webp(image, side))
