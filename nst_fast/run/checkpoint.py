"""Checkpoints: all that a run needs to continue as if it had not been interrupted, in one file.

``OUT-checkpoint-000120.safetensors`` holds the tensors of a :class:`Checkpoint`; the header's metadata has, under the
name of the schema, a JSON object with the rest of it (as Python writes it: with NaN and Infinity). One file, so that a
single atomic write keeps both consistent. Its last tensor is the SHA-256 of all bytes before it. Reading runs no code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nst_fast.errors import OutputError, ResumeError
from nst_fast.optimizers.base import State
from nst_fast.options.values import Interval
from nst_fast.run.outputs import OutputFiles
from nst_fast.system.files import remove, shown, write_atomic

SCHEMA = "nst-fast/checkpoint/1"
STARTS_ANEW = "Run it again with `overwrite` to start anew"

_DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32"}
_TENSOR, _DIGEST = "$tensor", "sha256"  # what stands in the JSON for a tensor, and the last tensor's name
_DIGEST_BYTES = 32

MOST_HEADER_BYTES = 2**27
KEPT = 2  # if the newest is damaged, there is another
# Checkpoints that are due by time are at least so many times apart as the last took to write.
LEAST_PAUSE = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state of a run after ``step`` updates, before the pastiche is evaluated.

    There is no random generator: only the start of a run is random.

    Attributes:
        record: the run record so far, see :class:`nst_fast.run.record.RunRecord`; its loss history is empty.
        places: absolute paths of ``content``, ``styles``, ``output``, and of the files that options name.
        scale: index of the scale.
        first: updates done before that scale.
        seconds: since the run began, without interruptions.
        history: loss terms of the pictures after 0, 1, ... ``step - 1`` updates, [step, terms + 1].
        pastiche: the iterate [1, 3, h, w].
        optimizer: Adam's moments and step, or the curvature pairs of L-BFGS; empty before the first update.
        guard: the best picture, its total and step, tries, and the factor of the learning rate.
        rules: state of patience.
        average: sum and weight of the iterates; None when they are not averaged.
    """

    record: dict[str, Any]
    places: dict[str, Any]
    step: int
    scale: int
    first: int
    seconds: float
    history: Tensor
    pastiche: Tensor
    optimizer: State
    guard: State
    rules: State
    average: State | None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, tensor by tensor, without a copy in memory. Raises :class:`OutputError`."""
    write_atomic(path, lambda stream: _write(stream, checkpoint))


def _write(stream: BinaryIO, checkpoint: Checkpoint) -> None:
    tensors: dict[str, Tensor] = {}
    facts = {field.name: _packed(getattr(checkpoint, field.name), field.name, tensors) for field in fields(checkpoint)}
    # The widest numbers first, so that each lies at a multiple of its size.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    digest = hashlib.sha256()
    for piece in _pieces(facts, {name: tensors[name] for name in order}):
        stream.write(piece)
        digest.update(piece)
    stream.write(digest.digest())


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with its tensors taken out into ``tensors``, and their names in their places."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _packed(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _pieces(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The bytes of a safetensors file but for the digest: length of the header, header, tensors."""
    header: dict[str, Any] = {"__metadata__": {SCHEMA: json.dumps(facts)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header[_DIGEST] = {"dtype": "U8", "shape": [_DIGEST_BYTES], "data_offsets": [end, end + _DIGEST_BYTES]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors that follow
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor in tensors.values():
        yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors are on the CPU.

    Raises:
        ResumeError: the file is missing, damaged, not a checkpoint, or of another version.
    """
    name = shown(path.name)
    try:
        if not _is_whole(path):
            raise ResumeError(f"{name} is damaged, or no checkpoint of nst-fast", STARTS_ANEW)
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get(SCHEMA)
            if facts is None:
                raise ResumeError(f"{name} is no checkpoint of this version, {SCHEMA}", STARTS_ANEW)
            return Checkpoint(**_unpacked(json.loads(facts), file))
    except OSError as error:
        raise ResumeError(f"{name}: cannot be read: {(error.strerror or str(error)).lower()}", STARTS_ANEW) from None
    # The hash is right, but the content is not that of a checkpoint.
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ResumeError(f"{name} is no checkpoint of nst-fast ({error})", STARTS_ANEW) from None


def run_of(path: Path) -> str | None:
    """When the run of a checkpoint began, which tells runs apart; None for no checkpoint. Nothing is verified."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, MOST_HEADER_BYTES)))
        return str(json.loads(header["__metadata__"][SCHEMA])["record"]["created"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_whole(path: Path) -> bool:
    """Whether the file ends with the SHA-256 of all before its end."""
    digest = hashlib.sha256()
    left = path.stat().st_size - _DIGEST_BYTES
    with path.open("rb") as stream:
        while left > 0 and (piece := stream.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
        return stream.read() == digest.digest()


def _unpacked(value: Any, file: Any) -> Any:
    if isinstance(value, dict):
        if list(value) == [_TENSOR]:
            return file.get_tensor(value[_TENSOR]).clone()
        return {key: _unpacked(item, file) for key, item in value.items()}
    return [_unpacked(item, file) for item in value] if isinstance(value, list) else value


@dataclass(eq=False)
class CheckpointWriter:
    """Writes checkpoints beside the picture of a run.

    Args:
        note: called when a checkpoint cannot be written; the run continues, and none is due any more.
        publish: brings what was written to where others find it.
    """

    files: OutputFiles
    interval: Interval
    note: Callable[[str], None]
    publish: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.failed = False
        self._last, self._pause = time.monotonic(), self.interval.seconds

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due before this step. Reads the step and the clock only."""
        if self.failed:
            return False
        if self.interval.steps:
            return step > 0 and step % self.interval.steps == 0
        return time.monotonic() - self._last >= self._pause

    def write(self, checkpoint: Checkpoint) -> str:
        """Write the checkpoint and remove those before the last two; or say why it could not be written."""
        started = time.monotonic()
        try:
            write_checkpoint(self.files.checkpoint(checkpoint.step), checkpoint)
            for path in self.files.checkpoints()[KEPT:]:
                remove(path)
            self.publish()
        except OutputError as error:
            self.failed = True
            problem = f"no checkpoint at step {checkpoint.step}, nor after it: {error}"
            self.note(problem)
            return problem
        self._last = time.monotonic()
        self._pause = max(self.interval.seconds, LEAST_PAUSE * (self._last - started))
        return ""


def checkpoint_writer(
    files: OutputFiles | None, interval: Interval, note: Callable[[str], None]
) -> CheckpointWriter | None:
    """The writer of a run's checkpoints, if it writes files and checkpoints are wanted."""
    return CheckpointWriter(files, interval, note) if files is not None and interval else None


def remove_checkpoints(files: OutputFiles) -> None:
    """Remove all checkpoints of a run that is complete or started anew."""
    for path in files.checkpoints():
        remove(path)
