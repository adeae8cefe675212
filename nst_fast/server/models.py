"""What the API gives, for its description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Fault(BaseModel):
    """What is wrong, in the words of the command line; ``option``: the option or the part of the request at fault."""

    message: str
    remedy: str
    option: str | None
    exit_code: int
    kind: str


class Failure(BaseModel):
    """The body of every answer that refuses."""

    error: Fault


class UploadFacts(BaseModel):
    """A picture; ``record``: the options of the run that made it, if it is one of ours."""

    id: str
    name: str
    width: int
    height: int
    record: dict[str, Any] | None


class Sample(UploadFacts):
    """A picture of the demo."""

    kind: Literal["content", "style"]


class OptionFacts(BaseModel):
    """An option as it is declared; ``files``: its value names uploads by their ids."""

    name: str
    group: str
    help: str
    kind: Literal["integer", "number", "boolean", "choice", "text"]
    choices: list[str] | None
    default: Any
    minimum: float | None
    maximum: float | None
    metavar: str | None
    first: bool
    cosmetic: bool
    files: bool


class PresetFacts(BaseModel):
    """A recipe; ``look``: one of ours, not of another program."""

    name: str
    summary: str
    look: bool
    values: dict[str, Any]


class Recipes(BaseModel):
    """Presets, and the options of each quality."""

    presets: list[PresetFacts]
    qualities: dict[str, dict[str, int]]


class About(BaseModel):
    """The server."""

    version: str
    devices: list[str]
    limits: dict[str, float]


class Plan(BaseModel):
    """What a run would take; ``seconds`` by an earlier run on this device, null without any."""

    width: int
    height: int
    steps: int
    device: str
    engine: str
    memory_mib: int
    tiles: int
    seconds: float | None
    words: list[str]


class RunFacts(BaseModel):
    """A run; ``place``: how many are to end before it begins; ``values``: every option as it is."""

    id: str
    name: str
    state: Literal["queued", "running", "stopped", "done", "failed"]
    place: int
    stopping: bool
    step: int
    steps: int
    losses: dict[str, float] | None
    seconds: float
    seconds_left: float | None
    notes: list[str]
    error: Fault | None
    content: str
    styles: list[str]
    preset: str | None
    quality: str | None
    options: dict[str, Any]
    values: dict[str, Any]
    command: str
    python: str
    created: str
    device: str
    width: int
    height: int
    bytes: int | None
    preview: str | None
    picture: str | None


class Losses(BaseModel):
    """The loss curve: step by step, the terms added up by kind."""

    step: list[int]
    losses: dict[str, list[float | None]]
