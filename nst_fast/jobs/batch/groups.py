"""Which pictures of a batch share a loop: those that will have one size, as far as their headers say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nst_fast.images.decoding import size_at
from nst_fast.jobs.batch.inputs import stem_key
from nst_fast.options.config import StylizeConfig


@dataclass(frozen=True)
class Task:
    """One picture to be made.

    Attributes:
        name: of the input within the batch.
        path: of the input.
        output: path below the batch's folder, with slashes.
        title: number and name, for people.
    """

    name: str
    path: Path
    output: str
    title: str


def groups_of(tasks: Iterable[Task], together: int, config: StylizeConfig) -> Iterator[list[Task]]:
    """The tasks in groups of one size, at most so many in each; a group is given as soon as it is full.

    Pictures whose size is not known, and those that compete with another for one output, stand alone.
    """
    waiting: dict[tuple[int, int], list[Task]] = {}
    for task in tasks:
        size = size_of(task.path, config) if together > 1 else None
        group = waiting.setdefault(size, []) if size is not None else []
        if any(stem_key(other.name) == stem_key(task.name) for other in group):
            yield [task]
            continue
        group.append(task)
        if size is None:
            yield group
        elif len(group) == together:
            yield waiting.pop(size)
    yield from waiting.values()


def size_of(path: Path, config: StylizeConfig) -> tuple[int, int] | None:
    """Height and width of the pastiche of a picture; None when they are not known before it is decoded."""
    if config.content_fit == "square":
        return config.image_size, config.image_size
    return size_at(path, config.image_size, config.max_megapixels)
