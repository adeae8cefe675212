"""The application: routes of the API, the page, and the description of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from nst_fast import __version__
from nst_fast.errors import NstFastError, ours
from nst_fast.options.presets import FIRST, LOOKS, PRESETS, QUALITIES
from nst_fast.server import models
from nst_fast.server.answers import Answer, RequestError, refusal
from nst_fast.server.description import described
from nst_fast.server.gate import UPLOAD_BYTES, UPLOADS, Doors, Gate, too_large
from nst_fast.server.queue import Queue
from nst_fast.server.receiving import received
from nst_fast.server.runs import MOST_STYLES, Order, Run, losses_of, option_facts, run_facts
from nst_fast.server.uploads import MEGAPIXELS, Uploads
from nst_fast.system.rounding import rounded

PAGE = Path(__file__).parent / "page"
PING_SECONDS = 10.0
MOST_LISTENERS = 64
FRESH = {"cache-control": "no-cache"}  # kept, but asked for again
LASTING = {"cache-control": "private, max-age=86400"}  # of what an id of its bytes names
UploadId = Annotated[str, InPath(pattern=r"^[0-9a-f]{24}$")]
RunId = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Failure, "description": text}
    for status, text in (
        (400, "The body cannot be read"),
        (401, "The token is missing"),
        (403, "A foreign host or origin"),
        (404, "There is no such thing"),
        (409, "Not in this state"),
        (413, "Too large"),
        (422, "What the command line refuses too"),
        (503, "The server is ending"),
    )
}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}, "description": "A picture"}}
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The picture's file"}}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Events"}}


def application(folder: Path, doors: Doors, say: Callable[[str], None], *, page: bool) -> tuple[ASGIApp, Queue]:
    """The server of a folder, with the page or the API alone, and its queue. Nothing is written elsewhere."""
    uploads = Uploads(folder / "uploads")
    queue = Queue(folder / "runs", uploads, say)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(queue.begin)
        yield
        await run_in_threadpool(queue.close)

    app = FastAPI(
        title="nst-fast", version=__version__, docs_url=None, redoc_url=None, lifespan=life, responses=REFUSALS
    )
    app.include_router(pictures(uploads, queue))
    app.include_router(facts(queue))
    app.include_router(runs(queue))
    app.add_api_route("/docs", lambda: HTMLResponse(described(app.openapi())), include_in_schema=False)
    if page:
        app.add_api_route("/", lambda: FileResponse(PAGE / "index.html", headers=FRESH), include_in_schema=False)
        app.mount("/page", PageFiles(directory=PAGE))
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Gate(app, doors, say), queue


def pictures(uploads: Uploads, queue: Queue) -> APIRouter:
    """Routes of uploads and samples."""
    api = APIRouter(tags=["pictures"])

    @api.post(UPLOADS, status_code=201, responses={201: {"model": models.UploadFacts}}, openapi_extra=FORM)
    async def upload(request: Request) -> Response:
        """Take in a picture, which must be one that can be read."""
        path = uploads.temporary()
        name = await received(request, path)
        taken = await run_in_threadpool(uploads.add, path, name)
        await run_in_threadpool(uploads.forget, queue.used())
        return Answer(taken.facts(), 201)

    @api.get(UPLOADS, responses={200: {"model": list[models.UploadFacts]}})
    def listed() -> Response:
        """All uploads, the newest first."""
        return Answer([each.facts() for each in uploads.all()])

    @api.get(UPLOADS + "/{id}/about", responses={200: {"model": models.UploadFacts}})
    def about(id: UploadId) -> Response:
        """The facts about an upload."""
        return Answer(uploads.get(id).facts())

    @api.get(UPLOADS + "/{id}", responses=WEBP)
    def display(id: UploadId) -> Response:
        """An upload as WebP, of at most 2048 pixels."""
        return FileResponse(uploads.display(id), headers=LASTING)

    @api.get(UPLOADS + "/{id}/thumbnail", responses=WEBP)
    def thumbnail(id: UploadId) -> Response:
        """An upload as WebP, of at most 256 pixels."""
        return FileResponse(uploads.thumbnail(id), headers=LASTING)

    @api.get("/api/samples", responses={200: {"model": list[models.Sample]}})
    def samples() -> Response:
        """Pictures to try with, drawn by code at the first call; they are uploads like any other."""
        return Answer(uploads.samples())

    return api


def facts(queue: Queue) -> APIRouter:
    """Routes that say what can be asked for, and what it would take."""
    api = APIRouter(tags=["facts"])

    @api.get("/api/about", responses={200: {"model": models.About}})
    def about() -> Response:
        """Version, devices and limits."""
        from nst_fast.api import devices

        limits = {"upload_bytes": UPLOAD_BYTES, "megapixels": MEGAPIXELS, "styles": MOST_STYLES}
        return Answer({"version": __version__, "devices": devices(), "limits": limits})

    @api.get("/api/options", responses={200: {"model": list[models.OptionFacts]}})
    def options() -> Response:
        """Every option of a run, as it is declared."""
        return Answer(option_facts(FIRST))

    @api.get("/api/presets", responses={200: {"model": models.Recipes}})
    def presets() -> Response:
        """Recipes and qualities, with their values."""
        listed = [
            {"name": each.name, "summary": each.summary, "look": each in LOOKS, "values": each.values}
            for each in PRESETS.values()
        ]
        return Answer({"presets": listed, "qualities": QUALITIES})

    @api.post("/api/plan", responses={200: {"model": models.Plan}})
    def plan(order: Order) -> Response:
        """What a run would take: memory by the plan, seconds by earlier runs. RequestError where nothing fits."""
        forecast = order.forecast(queue.uploads)
        memory, last = forecast.memory, forecast.scales[-1]
        found = {
            "width": memory.tiling.width,
            "height": memory.tiling.height,
            "steps": last.first + last.steps,
            "device": forecast.device,
            "engine": forecast.engine,
            "memory_mib": memory.peak >> 20,
            "tiles": memory.tiling.grid[0] * memory.tiling.grid[1],
            "seconds": queue.estimate(forecast),
            "words": [str(memory)],
        }
        return Answer(found)

    return api


def runs(queue: Queue) -> APIRouter:
    """Routes of runs."""
    api = APIRouter(tags=["runs"], prefix="/api/runs")
    one: dict[int | str, dict[str, Any]] = {200: {"model": models.RunFacts}}

    @api.post("", status_code=201, responses={201: {"model": models.RunFacts}})
    def create(order: Order) -> Response:
        """Queue a run."""
        return Answer(run_facts(queue, queue.add(order)), 201)

    @api.get("", responses={200: {"model": list[models.RunFacts]}})
    def listed() -> Response:
        """All runs, the newest first."""
        return Answer([run_facts(queue, run) for run in queue.all()])

    @api.get("/{id}", responses=one)
    def facts(id: RunId) -> Response:
        """A run as it is now."""
        return Answer(run_facts(queue, queue.get(id)))

    @api.post("/{id}/stop", responses=one)
    def stop(id: RunId) -> Response:
        """End a run after its step; the picture stays as it is then."""
        return Answer(run_facts(queue, queue.stop(id)))

    @api.post("/{id}/continue", responses=one)
    def go_on(id: RunId) -> Response:
        """Queue a run again that was stopped or has failed; it goes on where it was."""
        return Answer(run_facts(queue, queue.go_on(id)))

    @api.delete("/{id}", status_code=204, response_class=Response)
    def delete(id: RunId) -> Response:
        """Remove a run and its files."""
        queue.delete(id)
        return Response(status_code=204)

    @api.get("/{id}/losses", responses={200: {"model": models.Losses}})
    def losses(id: RunId) -> Response:
        """The loss curve, of at most 1000 points."""
        return Answer(losses_of(queue.get(id)))

    @api.get("/{id}/events", responses=STREAM)
    async def events(id: RunId) -> Response:
        """Server-sent events ``state``, ``step`` and ``preview`` until the run ends. Who is slow gets the newest."""
        run = queue.get(id)
        if queue.listeners >= MOST_LISTENERS:
            raise RequestError(429, f"{MOST_LISTENERS} clients follow runs already", "Close some")
        return StreamingResponse(news(queue, run), media_type="text/event-stream")

    add_files(api, queue)
    return api


def add_files(api: APIRouter, queue: Queue) -> None:
    """Routes of a run's pictures."""

    @api.get("/{id}/picture", responses=PNG)
    def picture(id: RunId, inline: bool = False) -> Response:
        """The very file, with the record of the run inside."""
        run = queue.get(id)
        name = None if inline else f"{run.name}.png"
        return FileResponse(there(run.picture), media_type="image/png", filename=name)

    @api.get("/{id}/preview", responses=WEBP)
    def preview(id: RunId) -> Response:
        """The newest state as WebP."""
        run = queue.get(id)
        if (live := run.preview) is not None:
            return Response(live[1], media_type="image/webp")
        return FileResponse(there(run.folder / "preview.webp"))

    @api.get("/{id}/thumbnail", responses=WEBP)
    def thumbnail(id: RunId) -> Response:
        """The picture, or else its content, at 256 pixels."""
        run = queue.get(id)
        path = run.folder / "thumbnail.webp"
        return FileResponse(path if path.exists() else queue.uploads.thumbnail(run.asked.content))

    @api.get("/{id}/content", responses=WEBP)
    def content(id: RunId) -> Response:
        """The content as it was uploaded, at most 2048 pixels."""
        return FileResponse(queue.uploads.display(queue.get(id).asked.content), headers=LASTING)


class PageFiles(StaticFiles):
    """Files of the page: a browser asks each time whether they are new."""

    def file_response(self, *args: Any, **keywords: Any) -> Response:
        answer = super().file_response(*args, **keywords)
        answer.headers.update(FRESH)
        return answer


def there(path: Path) -> Path:
    if not path.is_file():
        raise RequestError(404, "there is no picture yet")
    return path


async def news(queue: Queue, run: Run) -> AsyncIterator[str]:
    """The events of a run, from how it is now until it ends; between them a comment, which finds out who has gone."""
    seen: dict[str, Any] = {}
    with queue.listening() as changed:
        while True:
            changed.clear()
            ended = run.ended
            for kind, mark, data in current(queue, run):
                if seen.get(kind) != mark:
                    seen[kind] = mark
                    yield f"event: {kind}\ndata: {json.dumps(rounded(data()))}\n\n"
            if ended or queue.is_closing():
                return
            try:
                await asyncio.wait_for(changed.wait(), PING_SECONDS)
            except TimeoutError:
                yield ": \n\n"


def current(queue: Queue, run: Run) -> list[tuple[str, Any, Callable[[], Any]]]:
    """Kinds of events, by what it is seen that there is a new one, and their data."""
    mark = run.state, queue.place(run), run.stopping
    found: list[tuple[str, Any, Callable[[], Any]]] = []
    if run.losses is not None:
        names = ("step", "steps", "losses", "seconds", "seconds_left")
        found.append(("step", run.step, lambda: {name: getattr(run, name) for name in names}))
    if (live := run.preview) is not None:
        step = live[0]
        found.append(("preview", step, lambda: {"step": step, "url": f"api/runs/{run.id}/preview?step={step}"}))
    state = ("state", mark, lambda: run_facts(queue, run))
    return [*found, state] if run.ended else [state, *found]


async def refused(request: Request, error: Exception) -> Response:
    return refusal(ours(error))


async def misread(request: Request, error: Exception) -> Response:
    """A body or a path that is not of the right shape."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    if first["loc"][0] == "path":
        return refusal(RequestError(404, "there is no such thing"))
    name = next((part for part in place[1:2] if place[0] == "options"), next(iter(place), None))
    message = f"{f'`{name}`' if name else 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return refusal(RequestError(422, message, "See /docs", name))


async def not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 413:
        return refusal(too_large(UPLOAD_BYTES))
    answer = refusal(RequestError(error.status_code, error.detail.lower(), "See /docs"))
    answer.headers.update(error.headers or {})
    return answer


HANDLERS = {NstFastError: refused, Exception: refused, RequestValidationError: misread, HTTPException: not_served}
