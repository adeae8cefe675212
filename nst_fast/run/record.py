"""The run record: one JSON object with all facts about a run, written beside the picture and inside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from nst_fast import __version__
from nst_fast.errors import InputError
from nst_fast.images import read_text
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.system.files import read_small_text, shown, write_atomic
from nst_fast.system.rounding import rounded

SCHEMA = "nst-fast/run/1"
TEXT_KEY = "nst-fast"  # the name of the text chunk that carries the record inside a picture
# Of absolute paths in a warning; an address, which has a colon before them, is none.
FOLDERS = re.compile(r"(?<![\w.:/])(?:/[^/\s:;,'\"()]+)+/(?=[^/\s])")
REMEDY = "Give a picture made by nst-fast, or the .json beside it"
MOST_BYTES = 2**26  # of a record's file: a history of a million steps
MOST_DIGITS = 20  # of 64 bits
EMBEDDED_ROWS = 200  # of the loss history in the copy inside the picture
# The meaning of records from before an option existed, whatever its default is now.
UNRECORDED: dict[str, Any] = {
    "chroma_tv_weight": 0.0,
    "style_crop": "none",
    "convolution": "direct",
    "seamless": "none",
    "transparency": "background",
    "file_quality": 95,
} | dict.fromkeys(MASK_KINDS, "")
# The meaning of options in records from before style_crop: the ratio of weights between strength 0 and 1, and the
# longest side of the first size with scales 0 and no min_size.
FORMER_STRENGTH_RANGE, FORMER_COARSEST_SIDE = 1000.0, 512

if TYPE_CHECKING:
    Number = float
else:
    Number = float | None  # in a file: JSON has no word for a number that is not finite


class _InitImage(TypedDict):
    name: str
    sha256: str


class _InputImage(_InitImage):
    size: tuple[int, int]  # width and height in pixels


class _Inputs(TypedDict, total=False):
    content: _InputImage | None
    styles: list[_InputImage]
    init: _InitImage
    masks: dict[str, list[_InitImage]]  # option -> the files that it names, styles of regions among them


@dataclass(kw_only=True)
class RunRecord:
    """Options, inputs, machine and results of a run. File names are stored without their folders.

    A record that is read is validated against these types, and its ``inputs`` against :class:`_Inputs`.

    Attributes:
        options: every option of the config, so that ``--from`` can replay the run.
        inputs: of the pictures ``content`` (None for a texture), ``styles`` and ``init``: name, sha256, size in pixels;
            and of the files of options with masks, by option, ``masks``.
        weights: source and sha256 of the network's weights.
        device, engine, precision, convolution: what the run used.
        provider: the monitor's ONNX Runtime provider, requested and actual; empty when the monitor was off.
        engine_provider: of the engine ``ort``: provider requested and actual, seconds that the session took to open,
            whether its launches are one CUDA graph, and whether TensorRT's engine was ``built`` or ``kept``.
        machine: hardware and versions, as :func:`nst_fast.system.machine.describe_machine` gives them.
        losses: final weighted terms and their ``total``.
        history: column name -> one value per step, starting before the first update.
        monitor: readings of the ONNX Runtime side, and how many were dropped.
        recoveries: returns to the best picture after a divergence, see :class:`nst_fast.run.guard.Recovery`.
        plan: of the memory of the last scale, see :class:`nst_fast.memory.planner.MemoryPlan`.
        phases: seconds of pictures, weights, targets, trial, engine, first step (the first evaluation of every scale),
            loop, monitor (what was waited for it) and finish; of the process that ended the run.
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
    convolution: str = "direct"
    status: str = "running"
    steps: int = 0
    seconds: Number = 0.0
    steps_per_second: Number = 0.0
    peak_memory_mib: Number = 0.0
    losses: dict[str, Number] = field(default_factory=dict)
    history: dict[str, list[Number]] = field(default_factory=dict)
    provider: dict[str, str] = field(default_factory=dict)
    engine_provider: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, Number] = field(default_factory=dict)
    finish: list[str] = field(default_factory=list)
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    output: str = ""
    output_sha256: str = ""
    schema: str = SCHEMA
    nst_fast: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"warnings": [FOLDERS.sub("", warning) for warning in self.warnings]}

    def save(self, path: Path) -> None:
        write_atomic(path, record_text(self.as_dict()))

    def as_text(self) -> dict[str, str]:
        """The record as the text chunk that a picture carries, with a short history; none without ``metadata``."""
        if not self.options.get("metadata", True):
            return {}
        history = {name: thin(column, EMBEDDED_ROWS) for name, column in self.history.items()}
        return {TEXT_KEY: json.dumps(rounded(replace(self, history=history, output_sha256="").as_dict()))}


def record_text(record: Mapping[str, Any]) -> bytes:
    """What stands in the file of a record."""
    return (json.dumps(rounded(record), indent=1) + "\n").encode()


def read_record(path: Path) -> dict[str, Any]:
    """The run record of a picture made by nst-fast, or of the JSON file beside one; every field is there.

    Options that came after the run are there too, with what they are without.

    Raises:
        InputError: the file is missing, carries no record, or carries a damaged one.
    """
    text = (
        read_small_text(path, MOST_BYTES, REMEDY)
        if path.suffix.lower() == ".json"
        else read_text(path).get(TEXT_KEY, "")
    )
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
    if problem := _problem(record):
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
    """Python's whole numbers have no limit; those that become floats, or sizes in pixels, need one."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _problem(record: dict[str, Any]) -> str:
    """What is wrong with the shape of a record, which may have been edited or made to do harm; empty if nothing is."""
    try:
        msgspec.convert(record, RunRecord)
        msgspec.convert(record["inputs"], _Inputs)
    except (ValueError, RecursionError) as error:  # ValueError: also for a name that is not Unicode
        # Without backticks, in which messages name options.
        return re.sub(r"Object missing required field `(\w+)`", r"\1 is missing", str(error)).replace("`", "")
    return ""


_DEFAULTS = RunRecord(
    options={}, inputs={}, weights={}, device="", engine="", precision="", machine={}, created="", nst_fast=""
).as_dict()


def thin(column: list[float], rows: int) -> list[float]:
    """At most ``rows`` evenly spaced values of a column, the first and the last among them."""
    if len(column) <= rows:
        return column
    last = len(column) - 1
    return [column[round(index * last / (rows - 1))] for index in range(rows)]
