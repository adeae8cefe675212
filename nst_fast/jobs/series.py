"""A series: jobs that belong together on one sheet, as the cells of a sweep."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.errors import UsageError
from nst_fast.images.sheet import Heading
from nst_fast.jobs.runner import Job
from nst_fast.options.config import StylizeConfig

PLAIN_AXES = ("content", "style", "tap")  # whose values need no name beside them
LONGEST_NAME = 120  # of a job; file systems allow 255 bytes with suffix and snapshot number

Axes = Mapping[str, Mapping[str, object]]  # axis -> value as shown -> the value itself
Inputs = tuple[StylizeConfig, Path | None, Sequence[Path]]  # config, content and styles of a job


@dataclass(frozen=True)
class Series:
    """Jobs in the order of their sheet: the last axis runs fastest.

    Attributes:
        kind: ``sweep``, ``reconstruction`` or ``texture``.
        title: of the sheet.
        axes: axis -> its values; the columns of the sheet are the last axis, its rows all the others.
        jobs: one for each combination of values.
    """

    kind: str
    title: str
    axes: Mapping[str, Sequence[str]]
    jobs: Sequence[Job]

    def headings(self) -> tuple[list[list[Heading]], list[list[Heading]]]:
        """Of the columns and of the rows; no row headings when there is only one row."""
        *rows, columns = ([Heading(name, value) for value in values] for name, values in self.axes.items())
        return [[heading] for heading in columns], [list(row) for row in itertools.product(*rows)] if rows else []


def make_series(
    kind: str,
    title: str,
    axes: Axes,
    inputs_of: Callable[[dict[str, object]], Inputs],
    size: tuple[int, int] | None = None,
) -> Series:
    """The series over all combinations of the axes' values; axes with one value are left out of names and labels.

    Args:
        inputs_of: called with axis -> value itself.
        size: height and width of all pictures, if they are given.
    """
    shown = {name: values for name, values in axes.items() if len(values) > 1} or dict(list(axes.items())[-1:])
    combinations = list(itertools.product(*(values.items() for values in axes.values())))
    jobs = []
    for number, combination in enumerate(combinations, start=1):
        labels = {axis: label for axis, (label, _) in zip(axes, combination, strict=True) if axis in shown}
        config, content, styles = inputs_of({axis: it for axis, (_, it) in zip(axes, combination, strict=True)})
        name, count = job_name(labels), f"{number}/{len(combinations)}"
        jobs.append(Job(name, f"pictures/{name}.png", config, content, styles, size, count, labels))
    return Series(kind, title, {name: list(values) for name, values in shown.items()}, jobs)


def job_name(values: Mapping[str, str]) -> str:
    """A file name for the values: pictures and taps by name, options as ``name=value``; odd characters become ``_``."""
    text = "-".join(value if axis in PLAIN_AXES else f"{axis}={value}" for axis, value in values.items())
    name = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def picture_labels(paths: Sequence[Path]) -> dict[str, object]:
    """Label -> picture: by stem, by name where stems agree, by path where names agree; a repeated path counts once."""
    paths = list(dict.fromkeys(paths))
    stems, names = Counter(path.stem for path in paths), Counter(path.name for path in paths)

    def label(path: Path) -> str:
        if stems[path.stem] == 1:
            return path.stem
        return path.name if names[path.name] == 1 else str(path)

    return {label(path): path for path in paths}


def parse_seeds(text: str) -> dict[str, object]:
    """``0,1`` -> ``{"0": 0, "1": 1}``."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"`seeds` {text!r}: not whole numbers", "Write them as 0,1,2") from None
    if not seeds:
        raise UsageError("`seeds` is empty", "Name at least one, as 0")
    return {str(seed): seed for seed in seeds}
