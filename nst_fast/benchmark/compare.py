"""Two results of the benchmark side by side: both environments, the ratio of every figure, and what became worse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nst_fast.benchmark.report import Data, size_of
from nst_fast.benchmark.rows import FAILED, OK, SCHEMA
from nst_fast.errors import InputError, UsageError, VerificationError
from nst_fast.options.declaration import Options, option
from nst_fast.options.values import Percent
from nst_fast.system.files import shown
from nst_fast.system.rounding import rounded

COMPARISON_SCHEMA = "nst-fast/bench-compare/1"
# What says which case a row is; a column that a file or a kind does not have counts as empty.
IDENTITY = (
    *("kind", "engine", "runtime", "requested", "device", "precision", "width", "height", "batch"),
    *("pair", "recipe", "monitor_every"),
)
RAN_ON = ("provider", "actual")  # known of a row that ran
NAMED = ("engine", "runtime", "requested", "provider", "precision", "pair", "recipe")  # of these, in a row's title
# Kind -> figures that are compared; True where more is better.
FIGURES: dict[str, dict[str, bool]] = {
    "loop": {"step_ms": False, "peak_memory_mib": False, "final_loss": False},
    "evaluation": {"latency_ms": False, "peak_memory_mib": False},
    "quality": {"late_seconds": False},
    "monitor": {"steps_per_second": True},
}
# Options that say which rows there are and how long each is measured; all others decide what a row means.
FREE_OPTIONS = ("sizes", "engines", "providers", "warmup", "repeats", "turn_seconds", "memory")
SAME_MACHINE = ("cpu", "cpu_flags", "cores_physical", "torch_threads", "gpus")
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Options):
    """Compare."""

    fail_over: Percent | None = option(
        None,
        "End with exit code 9 if a figure is worse by more than this, or a row fails that did not, as 5%; by default "
        "the comparison is only shown.",
        metavar="PERCENT",
    )


@dataclass(frozen=True)
class Change:
    """One figure of one row in both results.

    Attributes:
        row: which case, in words.
        figure: the column.
        before, after: the values in A and in B.
        ratio: how many times as much it costs in B: above 1 is worse, whichever way the figure counts.
        beside_eager: of a step's time, the same relative to eager's own ratio at this size, which noise hits alike.
    """

    row: str
    figure: str
    before: float
    after: float
    ratio: float
    beside_eager: float | None = None


@dataclass(frozen=True)
class BenchComparison:
    """All that two results say about each other.

    Attributes:
        environment: of every fact its ``name``, the text ``before`` and ``after``, and whether it ``differs``.
        broken: a sentence for every row that is there in A and fails in B.
        notes: a sentence for all that could not be compared.
    """

    environment: Sequence[Data]
    changes: Sequence[Change]
    broken: Sequence[str]
    notes: Sequence[str]

    def worse(self, limit: float) -> list[str]:
        """A sentence for every figure that costs more than 1 + ``limit`` of what it did, and for every broken row."""
        over = [change for change in self.changes if change.ratio > 1 + limit]
        return [*(f"{change.row}: {change.figure} {change.ratio:.3f}x" for change in over), *self.broken]

    def check(self, limit: float) -> None:
        """Raise :class:`VerificationError` if something is worse than that."""
        if worse := self.worse(limit):
            message = f"worse by more than {100 * limit:g} %: {'; '.join(worse)}"
            raise VerificationError(message, "Measure both again on a quiet machine, or find what slowed down")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, rounded."""
        changes: list[dict[str, Any]] = rounded([asdict(change) for change in self.changes], DIGITS)
        found = {"environment": list(self.environment), "changes": changes}
        found |= {"broken": list(self.broken), "notes": list(self.notes)}
        return {"schema": COMPARISON_SCHEMA, "status": "complete"} | found


def read_results(path: Path) -> Data:
    """The results in a file of ``nst-fast bench --json``.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{shown(path)} is no result of the benchmark", "Give files of `nst-fast bench --json FILE`")
    return data


def compare(before: Data, after: Data) -> BenchComparison:
    """Compare two results, A and B.

    Raises:
        UsageError: they have no row in common; see also :func:`refuse`.
    """
    pairs, only = _matched(before, after)
    # A row that fails may not know its engine or precision, and then has no partner.
    broken = [f"{title(row)}: {FAILED}: {row['error']}" for row, of in only if of == "B" and row["status"] == FAILED]
    notes = [f"{title(row)}: only in {of}" for row, of in only if not (of == "B" and row["status"] == FAILED)]
    eager = {size_of(a): b["step_ms"] / a["step_ms"] for a, b in pairs if _timed_eager(a) and _timed_eager(b)}
    changes: list[Change] = []
    for a, b in pairs:
        if a["status"] == OK == b["status"] and (unlike := _ran_elsewhere(a, b)):
            notes.append(f"{title(a)}: ran on {unlike}")
        elif a["status"] == OK == b["status"]:
            changes += _changes(a, b, eager.get(size_of(a)))
            notes += [f"{title(a)}: `{name}` is in one only" for name in _halves(a, b)]
        elif a["status"] == OK:
            broken.append(f"{title(a)}: {b['status']}: {b['error']}")
        else:
            notes.append(f"{title(a)}: {a['status']} in A already: {a['error']}")
    if not changes and not broken:
        raise UsageError("the two results have no figure in common", "Measure the same sizes, engines and providers")
    return BenchComparison(environment(before, after), changes, broken, notes)


def refuse(before: Data, after: Data) -> None:
    """Raise :class:`UsageError` for results of different machines, or of different work."""
    unlike = [name for name in SAME_MACHINE if before["machine"].get(name) != after["machine"].get(name)]
    if unlike:
        values = "; ".join(
            f"{name} {_text(before['machine'], name)} and {_text(after['machine'], name)}" for name in unlike
        )
        raise UsageError(f"results of different machines say nothing of a change: {values}", "Measure both on one")
    options = {name: (text, other) for name, text, other in _options(before, after) if name not in FREE_OPTIONS}
    unlike = [f"`{name}` {text} and {other}" for name, (text, other) in options.items()]
    if unlike:
        message = f"the two did different work: {'; '.join(unlike)}"
        raise UsageError(message, "Measure one of them again with the other's options")


def environment(before: Data, after: Data) -> list[Data]:
    """Versions, machine and date of both, and the options in which they differ."""
    names = ("nst_fast", "created", "status", "device")
    texts = [(name, _text(before, name), _text(after, name)) for name in names]
    for name in dict.fromkeys([*before["machine"], *after["machine"]]):
        if name == "packages":
            ours, theirs = before["machine"][name], after["machine"][name]
            texts += [(each, _text(ours, each), _text(theirs, each)) for each in dict.fromkeys([*ours, *theirs])]
        elif name != "nst_fast":
            texts.append((name, _text(before["machine"], name), _text(after["machine"], name)))
    texts += [(f"--{name.replace('_', '-')}", a, b) for name, a, b in _options(before, after)]
    return [{"name": name, "before": a, "after": b, "differs": a != b} for name, a, b in texts]


def title(row: Data) -> str:
    """A row's case in words: ``loop, fast, fp32, 512x384``."""
    words = [str(row[name]) for name in NAMED if row.get(name)]
    return ", ".join([row["kind"], *words, size_of(row)])


def to_markdown(comparison: BenchComparison, names: Sequence[str], limit: float | None) -> str:
    """The report: both environments, every figure, what was not compared, and what is worse if there is a limit."""
    facts = [
        [fact["name"], fact["before"], fact["after"], "differs" if fact["differs"] else ""]
        for fact in comparison.environment
    ]
    rows = []
    for change in comparison.changes:
        beside = "" if change.beside_eager is None else f"{change.beside_eager:.3f}"
        figures = (f"{change.before:.5g}", f"{change.after:.5g}", f"{change.ratio:.3f}", beside)
        rows.append([change.row, change.figure, *figures])
    lines = ["# Benchmark, before and after", "", *_table(["", *names, ""], facts, text_columns=4), ""]
    lines += _table(["row", "figure", *names, "cost, B of A", "beside eager"], rows, text_columns=2)
    for heading, sentences in (
        ("Not compared", comparison.notes),
        ("Broken", comparison.broken),
        (
            f"Worse by more than {100 * (limit or 0):g} %",
            [] if limit is None else comparison.worse(limit) or ["Nothing."],
        ),
    ):
        lines += ["", f"## {heading}", "", *(f"- {sentence}" for sentence in sentences)] if sentences else []
    return "\n".join(lines) + "\n"


def _matched(before: Data, after: Data) -> tuple[list[tuple[Data, Data]], list[tuple[Data, str]]]:
    """The rows that both have, and each that one has, with which: A or B."""
    ours, theirs = dict(_identified(before["rows"])), dict(_identified(after["rows"]))
    only = [(row, "A") for key, row in ours.items() if key not in theirs]
    only += [(row, "B") for key, row in theirs.items() if key not in ours]
    return [(row, theirs[key]) for key, row in ours.items() if key in theirs], only


def _identified(rows: Sequence[Data]) -> Iterator[tuple[tuple[Any, ...], Data]]:
    """Rows and what tells them apart, a number last for those that nothing does: two engines that chose alike."""
    seen: dict[tuple[Any, ...], int] = {}
    for row in rows:
        key = tuple(row.get(name) or "" for name in IDENTITY)
        seen[key] = seen.get(key, 0) + 1
        yield (*key, seen[key]), row


def _changes(a: Data, b: Data, eager: float | None) -> Iterator[Change]:
    for name, more_is_better in FIGURES[a["kind"]].items():
        before, after = a.get(name), b.get(name)
        if before and after:
            ratio = before / after if more_is_better else after / before
            beside = ratio / eager if eager and name == "step_ms" else None
            yield Change(title(a), name, before, after, ratio, beside)


def _ran_elsewhere(a: Data, b: Data) -> str:
    """The two providers, if they are not one."""
    pairs = [(a.get(name), b.get(name)) for name in RAN_ON if a.get(name) and b.get(name)]
    return ", ".join(f"{one} and {other}" for one, other in pairs if one != other)


def _halves(a: Data, b: Data) -> list[str]:
    return [name for name in FIGURES[a["kind"]] if (a.get(name) is None) != (b.get(name) is None)]


def _timed_eager(row: Data) -> bool:
    return (row["kind"], row.get("engine")) == ("loop", "eager") and bool(row["step_ms"])


def _options(before: Data, after: Data) -> Iterator[tuple[str, str, str]]:
    """The options that both have and that differ."""
    for name, value in before["options"].items():
        if name in after["options"] and value != after["options"][name]:
            yield name, _text(before["options"], name), _text(after["options"], name)


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    if isinstance(value, list):
        return ", ".join(str(item["name"]) if isinstance(item, dict) else str(item) for item in value) or "none"
    return "none" if value is None or value == "" else str(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """A Markdown table whose source is aligned too; columns after the first few are figures, to the right."""
    widths = [max(3, *(len(row[index]) for row in [headings, *rows])) for index in range(len(headings))]
    rule = ["-" * width if index < text_columns else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    lines = []
    for cells in (headings, rule, *rows):
        padded = [
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return lines
