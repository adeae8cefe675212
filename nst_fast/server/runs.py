"""Runs: what was asked for, how far it is, and the folder that its files are in."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.layers import find_preset
from nst_fast.options.presets import find_quality
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.server.answers import RequestError
from nst_fast.server.models import RunFacts
from nst_fast.server.uploads import ID, Uploads
from nst_fast.system.files import shown, write_atomic

if TYPE_CHECKING:
    from nst_fast.api import Forecast, StepEvent
    from nst_fast.server.queue import Queue

MOST_STYLES = 16
MOST_POINTS = 1000  # of a loss history that is sent
ENDED = ("stopped", "done", "failed")


class Order(BaseModel):
    """A run to be made: preset, then quality, then options, as on the command line."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    content: str = Field(description="id of an upload")
    styles: list[str] = Field(default=[], description="ids of uploads", max_length=MOST_STYLES)
    options: dict[str, str | int | float | bool | None] = Field(default={}, description="see /api/options")
    preset: str | None = None
    quality: str | None = None

    def given(self, uploads: Uploads) -> dict[str, Any]:
        """The options with the paths of uploads in place of their ids.

        Raises:
            UsageError: an option that there is not, or a value that it does not take.
            RequestError: there is no such upload, or an option names a file that is none.
        """
        values = {name: value for name, value in self.options.items() if value is not None}
        config = StylizeConfig().replace(**values)
        for name, value in config.mask_files.items():
            values[name] = value.renamed([_uploaded(path, name, uploads) for path in value.files]).text
        for name, path in config.files.items():
            values[name] = str(_uploaded(path, name, uploads))
        return values

    def config(self, uploads: Uploads) -> StylizeConfig:
        """Every option of the run. Raises as :meth:`given` does, and for an unknown recipe."""
        values: dict[str, Any] = dict(find_preset(self.preset).values) if self.preset is not None else {}
        values |= find_quality(self.quality) if self.quality is not None else {}
        return StylizeConfig().replace(**values | self.given(uploads))

    def pictures(self, uploads: Uploads) -> tuple[Path, list[Path]]:
        """The files of content and styles. Raises :class:`RequestError`."""
        return uploads.path(self.content, "content"), [uploads.path(id, "styles") for id in self.styles]

    def forecast(self, uploads: Uploads) -> Forecast:
        """What the run takes. Raises as :func:`nst_fast.api.plan` does."""
        from nst_fast.api import plan

        config = self.config(uploads)
        self.pictures(uploads)
        sizes = [(each.height, each.width) for each in map(uploads.get, (self.content, *self.styles))]
        return plan(sizes[0], sizes[1:], config)

    def command(self, uploads: Uploads) -> str:
        """The command line that makes the same picture."""
        content, styles = self.pictures(uploads)
        words = ["nst-fast", "stylize", content, *styles, "-o", "picture.png"]
        recipes = {"preset": self.preset, "quality": self.quality}
        for name, value in {name: given for name, given in recipes.items() if given is not None}.items():
            words += [f"--{name}", value]
        for name, value in self.given(uploads).items():
            flag = name.replace("_", "-")
            words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}={value}"]
        return shlex.join(map(str, words))

    def python(self, uploads: Uploads) -> str:
        """The program that makes the same picture."""
        content, styles = self.pictures(uploads)
        values = find_quality(self.quality) if self.quality is not None else {}
        values |= self.given(uploads)
        lines = [f"    {str(content)!r},", f"    {[str(style) for style in styles]!r},"]
        lines += [f"    preset={self.preset!r},"] if self.preset is not None else []
        lines += [f"    {name}={value!r}," for name, value in values.items()]
        return "\n".join(["from nst_fast.api import stylize", "", "stylize(", *lines, '    output="picture.png",', ")"])


def _uploaded(given: Path, option: str, uploads: Uploads) -> Path:
    """The file of an upload that an option names; nothing else of this machine is read."""
    if option == "weights" or not ID.fullmatch(str(given)):
        message = f"`{option}` {shown(given)!r}: no file of the server is read"
        remedy = "Use weights by name" if option == "weights" else "Upload the file, and give its id"
        raise RequestError(422, message, remedy, option)
    return uploads.path(str(given), option)


@dataclass(eq=False)
class Run:
    """A run and its folder. What is in :data:`KEPT` is written there; the rest is known while it goes on.

    Attributes:
        state: queued, running, stopped, done or failed. A run that the end of the server interrupts stays running.
        stopping: whether it is asked to stop.
        work: pixels times steps, by which the times of runs are compared.
        points: step, terms, of the loss curve so far.
        preview: step and WebP.
    """

    id: str
    folder: Path
    asked: Order
    name: str
    device: str
    work: int
    steps: int
    width: int
    height: int
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    queued: str = ""
    state: str = "queued"
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, float] | None = None
    error: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    starts: int = 0
    stopping: bool = False
    seconds_left: float | None = None
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    preview: tuple[int, bytes] | None = None
    _lasting: dict[str, Any] | None = None

    @property
    def picture(self) -> Path:
        return self.folder / "picture.png"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def save(self) -> None:
        facts = {name: getattr(self, name) for name in KEPT}
        write_atomic(self.folder / "run.json", json.dumps(facts | {"asked": self.asked.model_dump()}).encode())

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Raises OSError, ValueError, TypeError or KeyError for what is no run."""
        facts = json.loads((folder / "run.json").read_text("utf-8"))
        return cls(id=folder.name, folder=folder, **facts | {"asked": Order(**facts["asked"])})

    def lasting(self, uploads: Uploads) -> dict[str, Any]:
        """What of its facts follows from what was asked. Raises where that makes no sense any more."""
        if self._lasting is None:
            asked = self.asked
            self._lasting = {
                **asked.model_dump(),
                "values": asked.config(uploads).recorded(),
                "command": asked.command(uploads),
                "python": asked.python(uploads),
            }
        return self._lasting

    def seen(self, event: StepEvent, share: float) -> None:
        """Take in an event; ``share`` of the work is done."""
        from nst_fast.api import sums_by_kind

        self.losses = sums_by_kind(event.terms)
        self.step, self.steps, self.seconds = event.step, event.steps, event.seconds
        self.seconds_left = event.seconds * (1 - share) / share if share and event.step else None
        self.points.append((event.step, self.losses))
        if len(self.points) > MOST_POINTS:
            self.points = self.points[::2]


NOT_KEPT = ("id", "folder", "asked", "stopping", "seconds_left", "points", "preview", "_lasting")
KEPT = [each.name for each in fields(Run) if each.name not in NOT_KEPT]


def run_facts(queue: Queue, run: Run) -> dict[str, Any]:
    """A run as the API describes it."""
    live, small = run.preview, (run.folder / "preview.webp").exists()
    written = run.picture.stat().st_size if run.picture.exists() else None
    step = live[0] if live is not None else run.step
    return {
        **{name: value for name, value in vars(run).items() if name in RunFacts.model_fields},
        **run.lasting(queue.uploads),
        "place": queue.place(run),
        "bytes": written,
        "preview": f"api/runs/{run.id}/preview?step={step}" if live is not None or small else None,
        "picture": f"api/runs/{run.id}/picture" if written is not None else None,
    }


def losses_of(run: Run) -> dict[str, Any]:
    """The loss curve of a run: of the record once there is one, else what was seen."""
    from nst_fast.api import read_record, sums_by_kind

    record = run.picture.with_suffix(".json")
    if run.ended and record.exists():
        history = read_record(record)["history"]
        rows = [sums_by_kind(dict(zip(history, row, strict=True))) for row in zip(*history.values(), strict=True)]
        points = list(enumerate(rows))
    else:
        points = list(run.points)
    points = points[:: max(1, -(-len(points) // MOST_POINTS))]
    kinds = points[0][1] if points else {}
    return {"step": [step for step, _ in points], "losses": {kind: [row[kind] for _, row in points] for kind in kinds}}


def name_of(asked: Order, uploads: Uploads) -> str:
    """``harbour-starry``: of the pictures' names, for people, and for the name of a download."""
    stems = [Path(uploads.get(id).name).stem for id in (asked.content, *asked.styles[:1])]
    return "-".join(re.sub(r"[^\w.-]+", "_", stem)[:40] for stem in stems)


def option_facts(first: Sequence[str]) -> list[dict[str, Any]]:
    """Every option as it is declared, for a form; ``first``: those that come before the others."""
    kinds = {int: "integer", float: "number", bool: "boolean"}
    defaults = StylizeConfig().as_dict()
    return [
        {
            "name": item.name,
            "group": item.group,
            "help": item.option.help,
            "kind": "choice" if item.option.choices else kinds.get(item.kind, "text"),
            "choices": list(item.option.choices) or None,
            "default": defaults[item.name],
            "minimum": item.option.minimum,
            "maximum": item.option.maximum,
            "metavar": item.option.metavar,
            "first": item.name in first,
            "cosmetic": item.option.cosmetic,
            "files": item.option.names_file or item.name in MASK_KINDS,
        }
        for item in declared(StylizeConfig).values()
    ]
