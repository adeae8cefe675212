"""Sweeps: every combination of contents, styles and values of options, as one series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from nst_fast.errors import UsageError, nearest
from nst_fast.jobs.runner import Job
from nst_fast.jobs.series import Inputs, Measure, Series, make_series, picture_labels
from nst_fast.jury.judge import Panel
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import Declared, declared

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
BLEND = "style-weight-each"
NONE = "none"  # the value of an optional option that is left to its default


def plan_sweep(contents: Sequence[Path], styles: Sequence[Path], vary: Sequence[str], config: StylizeConfig) -> Series:
    """One job per combination. Axes in order: contents, styles, then the options as given.

    With ``style_weight_each``, varied or not, the styles are no axis: every job blends all of them.

    Args:
        vary: ``OPTION=VALUE,VALUE,...``; semicolons part values that hold commas themselves.
        config: the options that all have in common.

    Raises:
        UsageError: an unknown option, a value it cannot have, an option given twice, values that contradict others.
    """
    if not contents or not styles:
        raise UsageError("a sweep needs a content and a style image", "Name at least one of each")
    varied: dict[str, dict[str, object]] = {}
    for text in vary:
        item, values = parse_vary(text, type(config))
        name = item.name.replace("_", "-")
        if name in varied:
            raise UsageError(f"`vary` {name} was given twice", "Put all values into one")
        varied[name] = values
    by_style: dict[str, object] = {label: (path,) for label, path in picture_labels(styles).items()}
    if BLEND in varied or config.style_weight_each:
        by_style = {", ".join(by_style): tuple(styles)}
    axes = {"content": picture_labels(contents), "style": by_style, **varied}

    def inputs_of(values: dict[str, object]) -> Inputs:
        content, blended = cast(Path, values.pop("content")), cast(tuple[Path, ...], values.pop("style"))
        return config.replace(**{axis.replace("-", "_"): it for axis, it in values.items()}), content, blended

    parts = [*axes["content"]] if len(axes["content"]) == 1 else []
    parts += [f"in the style of {style}" for style in axes["style"]] if len(axes["style"]) == 1 else []
    return make_series("sweep", " ".join(parts), axes, inputs_of)


def parse_vary(text: str, config_class: type) -> tuple[Declared, dict[str, object]]:
    """``content-weight=0.01,1`` -> the option and its values by how they were written."""
    name, equals, given = text.partition("=")
    items = {name.replace("_", "-"): item for name, item in declared(config_class).items()}
    name = name.strip().removeprefix("--").replace("_", "-")
    if not equals or not given.strip():
        raise UsageError(f"`vary` {text!r}: no values", "Write OPTION=VALUE,VALUE as content-weight=0.01,1,100")
    if name not in items:
        raise UsageError(f"`vary` {text!r}: unknown option {name!r}", nearest(name, items))
    several = ";" in given or name == BLEND  # one of whose values has a number for each style
    parts = [part.strip() for part in given.split(";" if several else ",")]
    return items[name], {part: parse_value(items[name], part) for part in parts if part}


def parse_value(item: Declared, text: str) -> object:
    """The value of an option in its type; the config checks ranges and choices."""
    if item.optional and text.lower() == NONE:
        return None
    if item.kind is bool:
        if text.lower() not in WORDS:
            raise UsageError(f"`vary` {item.name}: {text!r} is not true or false")
        return WORDS[text.lower()]
    return item.number(text) if item.kind in (int, float) else text


def jury_measure(series: Series, weights: str) -> Measure:
    """The jury's scores of a job's picture, as further columns of the table; see :mod:`nst_fast.jury.columns`.

    Args:
        weights: of the jury's network, as ``original``; a sweep's own may differ.

    Raises:
        UsageError: pictures of another shape than the content's, which cannot be compared with it.
        WeightsError, DeviceError: weights or device that are missing.
    """
    if any(job.config.content_fit != "keep" for job in series.jobs):
        raise UsageError("`jury` needs pictures of the content's shape", "Leave `content_fit` at keep")
    panel = Panel(weights, series.jobs[0].config.device)

    def measure(job: Job, picture: Path) -> dict[str, float]:
        assert job.content is not None  # a sweep's job always has one
        jury = panel.jury(job.content, job.styles[0], job.config)
        scores = jury.score(jury.read(picture).tensor)
        return {name: score for name, score in scores.items() if score is not None}

    return measure
