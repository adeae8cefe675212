"""Several finished runs compared: their loss curves in one plot, or every picture beside its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nst_fast.errors import UsageError
from nst_fast.images import load_image, to_uint8
from nst_fast.images.plots import AGAINST, TERM_COLORS, save_beside, save_comparison
from nst_fast.run.provenance import deciding_names
from nst_fast.run.record import read_record
from nst_fast.system.files import check_writable

MOST_DIFFERENCES = 3  # a legend that names more options than this cannot be read; then file names say more

Record = Mapping[str, Any]


def compare_curves(
    runs: Sequence[Path], output: Path, *, terms: Sequence[str] = ("total",), against: str = "step", overwrite: bool
) -> None:
    """Draw one loss curve per run; the legend names the options that differ.

    Args:
        runs: pictures, or the .json beside them.
        terms: losses, one panel each.
        against: ``step`` or ``seconds``.

    Raises:
        UsageError: an unknown loss or axis.
        InputError: a run without a record.
        OutputError: the output exists or cannot be written.
    """
    for name, given, known in [("terms", terms, TERM_COLORS), ("against", [against], AGAINST)]:
        if unknown := [value for value in given if value not in known]:
            raise UsageError(f"`{name}` {unknown[0]!r}: must be among {', '.join(known)}")
    records = [read_record(run) for run in runs]
    check_plot(output, runs, records, overwrite=overwrite)
    save_comparison(records, labels_of(runs, records), output, terms=terms, against=against)


def show_beside(runs: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    """Draw every run's picture with its loss curve beside it. Raises as :func:`compare_curves`."""
    records = [read_record(run) for run in runs]
    check_plot(output, runs, records, overwrite=overwrite)
    pictures = [picture_of(run, record) for run, record in zip(runs, records, strict=True)]
    arrays = [to_uint8(load_image(picture).tensor) for picture in pictures]
    save_beside(arrays, records, labels_of(runs, records), output)


def check_plot(output: Path, runs: Sequence[Path], records: Sequence[Record], *, overwrite: bool) -> None:
    """The picture of a run that is given by its record is read too, or stands for the run."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: plots are PNG files", "Give a name that ends in .png")
    check_writable(output, overwrite, [*runs, *map(picture_of, runs, records)])


def picture_of(run: Path, record: Record) -> Path:
    """The picture of a run that was given as a picture or as the record beside it."""
    return run.parent / Path(record["output"]).name if run.suffix.lower() == ".json" else run


def labels_of(runs: Sequence[Path], records: Sequence[Record]) -> list[str]:
    """Labels that distinguish the runs: the options and inputs that differ when they are few, else the file names."""
    facts = [facts_of(record) for record in records]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    differing = [name for name in names if len({fact.get(name) for fact in facts}) > 1]
    labels = [", ".join(f"{name} {fact.get(name, '?')}" for name in differing) for fact in facts]
    if 0 < len(differing) <= MOST_DIFFERENCES and len(set(labels)) == len(runs):
        return labels
    stems = [run.stem for run in runs]
    return stems if len(set(stems)) == len(runs) else [str(run) for run in runs]


def facts_of(record: Record) -> dict[str, str]:
    """The options that decide a picture, and the inputs, as text."""
    content, styles = record["inputs"]["content"], record["inputs"]["styles"]
    facts = {"content": content["name"] if content else "none", "style": "+".join(style["name"] for style in styles)}
    options = {name: value for name, value in record["options"].items() if name in deciding_names()}
    return facts | {
        name.replace("_", "-"): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in options.items()
    }
