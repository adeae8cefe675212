"""The run record: one JSON object that says everything about a run. Written beside the picture and inside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nst_fast import __version__
from nst_fast.errors import InputError
from nst_fast.images import read_text
from nst_fast.system.files import shown, write_atomic

SCHEMA = "nst-fast/run/1"
TEXT_KEY = "nst-fast"  # the name of the text chunk that carries the record inside a picture
REMEDY = "Give a picture made by nst-fast, or the .json beside it"
MOST_BYTES = 2**26  # of a record's file: a history of a million steps
MOST_DIGITS = 20  # of 64 bits
# What was done before an option existed: records without it mean this, whatever its default is now.
UNRECORDED: dict[str, Any] = {"chroma_tv_weight": 0.0, "style_crop": "none"}
# What options meant in records of before style_crop: the ratio of weights between strength 0 and 1, and the longest
# side of the first size with scales 0 and no min_size.
FORMER_STRENGTH_RANGE, FORMER_COARSEST_SIDE = 1000.0, 512
EMBEDDED_ROWS = 200  # the record inside the picture keeps at most so many rows of the loss history


@dataclass(kw_only=True)
class RunRecord:
    """What a run was asked, on what it ran, and what came of it. File names are stored without their folders.

    Attributes:
        options: every option of the config, so that ``--from`` can replay the run.
        inputs: name, sha256 and size in pixels of each picture read.
        weights: source and sha256 of the network's weights.
        device, engine, precision: what really ran.
        provider: the monitor's ONNX Runtime provider, requested and actual; empty when the monitor was off.
        engine_provider: of ``--engine ort``: its provider, requested and actual, the seconds that the session took to
            open, whether its launches are one CUDA graph, and whether TensorRT's engine was ``built`` or ``kept``.
        machine: hardware and versions, as :func:`nst_fast.system.machine.describe_machine` gives them.
        losses: final weighted terms and their ``total``.
        history: column name -> one value per step, starting before the first update.
        monitor: readings of the ONNX Runtime side, and how many were dropped.
        recoveries: returns to the best picture after a divergence, see :class:`nst_fast.run.guard.Recovery`.
        plan: of the memory of the last scale, see :func:`nst_fast.memory.planner.describe`.
        finish: what was done to the picture after its last step; the losses are those before it.
        size: width and height of the pastiche in pixels.
        output_sha256: of the picture's bytes; empty in the copy that the picture itself carries.
    """

    options: dict[str, Any]
    inputs: dict[str, Any]
    weights: dict[str, str]
    device: str
    engine: str
    precision: str
    machine: dict[str, Any]
    status: str = "running"
    steps: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    peak_memory_mib: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    provider: dict[str, str] = field(default_factory=dict)
    engine_provider: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    finish: list[str] = field(default_factory=list)
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    output: str = ""
    output_sha256: str = ""
    schema: str = SCHEMA
    nst_fast: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self, *, history_rows: int | None = None) -> dict[str, Any]:
        """Plain data; ``history_rows`` thins the loss history to at most so many evenly spaced rows."""
        data = asdict(self)
        if history_rows is not None:
            data["history"] = {name: thin(column, history_rows) for name, column in self.history.items()}
        return data

    def to_json(self, *, history_rows: int | None = None, indent: int | None = None) -> str:
        return json.dumps(rounded(self.as_dict(history_rows=history_rows)), indent=indent)

    def save(self, path: Path) -> None:
        write_atomic(path, (self.to_json(indent=1) + "\n").encode())

    def as_text(self) -> dict[str, str]:
        """The record as the text chunk that a picture carries."""
        return {TEXT_KEY: self.to_json(history_rows=EMBEDDED_ROWS)}


def read_record(path: Path) -> dict[str, Any]:
    """The run record of a picture made by nst-fast, or of the JSON file beside one; every field is there.

    Options that came after the run are there too, with what they are without.

    Raises:
        InputError: the file is missing, carries no record, or carries a damaged one.
    """
    text = _read(path) if path.suffix.lower() == ".json" else read_text(path).get(TEXT_KEY, "")
    name = shown(path)
    if not text:
        raise InputError(f"{name}: carries no run record", REMEDY)
    try:
        record = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: the run record is damaged ({error})", REMEDY) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise InputError(f"{name}: not a run record of this version ({found!r}, expected {SCHEMA!r})")
    if problem := next(_problems(record), ""):
        raise InputError(f"{name}: the run record is damaged ({problem})", REMEDY)
    return _DEFAULTS | record | {"options": current_options(record["options"])}


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a record, a checkpoint or a plan of any version, in the meaning that they have now."""
    found = UNRECORDED | dict(options)
    if "style_crop" in options:
        return found
    if found.get("scales") == 0 and not found.get("min_size"):
        found["min_size"] = FORMER_COARSEST_SIDE
    strength = found.get("strength", 1.0)
    if isinstance(strength, int | float) and 0 <= strength < 1:
        factor = (FORMER_STRENGTH_RANGE**strength - 1) / (FORMER_STRENGTH_RANGE - 1)
        found |= {name: found[name] * factor for name in ("style_weight", "tv_weight") if name in found}
        found["strength"] = 1.0
    return found


def _whole_number(digits: str) -> int:
    """Python's whole numbers have no end, but those that become floats, or pixels, have."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _problems(record: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the shape of a record; it may have been edited, or made to do harm."""
    for item in fields(RunRecord):
        required = item.default is MISSING and item.default_factory is MISSING
        if item.name not in record:
            if required:
                yield f"{item.name} is missing"
        elif not isinstance(record[item.name], _KINDS[str(item.type).partition("[")[0]]):
            yield f"{item.name} is {type(record[item.name]).__name__}"
    if any(not isinstance(record["weights"].get(name, ""), str) for name in ("source", "sha256")):
        yield "weights are not described by texts"
    content, styles = record["inputs"].get("content"), record["inputs"].get("styles", [])
    given = [*([] if content is None else [content]), *(styles if isinstance(styles, list) else [styles])]
    if not all(map(_is_picture, given)):
        yield "an input is not described by name, sha256 and size"
    columns = record.get("history", {}).values()
    numbers = [record.get("losses", {}).values(), *(column if isinstance(column, list) else [""] for column in columns)]
    if any(not isinstance(value, int | float | None) for column in numbers for value in column):
        yield "a loss is not a number"
    if any(not isinstance(text, str) for name in ("finish", "warnings") for text in record.get(name, [])):
        yield "a note is not a text"


def _is_picture(described: Any) -> bool:
    if not isinstance(described, dict):
        return False
    size, texts = described.get("size"), [described.get("name"), described.get("sha256")]
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return whole and all(isinstance(text, str) for text in texts)


_KINDS: dict[str, Any] = {"dict": dict, "list": list, "str": str, "int": int, "float": int | float | None}
_DEFAULTS = RunRecord(
    options={}, inputs={}, weights={}, device="", engine="", precision="", machine={}, created="", nst_fast=""
).as_dict()


def thin(column: list[float], rows: int) -> list[float]:
    """At most ``rows`` evenly spaced values of a column, the first and the last among them."""
    if len(column) <= rows:
        return column
    last = len(column) - 1
    return [column[round(index * last / (rows - 1))] for index in range(rows)]


def _read(path: Path) -> str:
    name = shown(path)
    try:
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            return path.read_text(encoding="utf-8")
        path.stat()  # says what is wrong with a path that leads nowhere
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text file") from None
    except ValueError:  # a NUL in the name
        raise InputError(f"{name} is not a usable path") from None
    raise InputError(f"{name} is no file, or larger than any record ({MOST_BYTES >> 20} MiB)", REMEDY)


def rounded(value: Any) -> Any:
    """Floats to 7 significant digits: a float32 holds no more. JSON has no word for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
