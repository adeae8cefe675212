"""What a shell offers for the value of an option, from the options' declarations. Imports nothing that computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import typer

from nst_fast.errors import NstFastError
from nst_fast.network.taps import CONVS_PER_BLOCK, layer_names
from nst_fast.options.config import EncoderOptions
from nst_fast.options.declaration import Declared
from nst_fast.options.layers import own_preset_files
from nst_fast.options.presets import PRESETS
from nst_fast.options.style import CONTENT_LOSSES, STYLE_LOSSES
from nst_fast.options.values import Taps

Completion = Callable[..., Iterable[Any]]  # called by Typer by the types of its parameters; Typer drops what differs
WORD = re.compile(r"(?:^|\|)([a-z][a-z0-9+-]*)")  # that a metavar names: auto and none of auto|none|L,T,R,B


def words(*values: str) -> Completion:
    """Offers these values."""
    return lambda: values


def completion_of(item: Declared) -> Completion | None:
    """What is offered for a declared option: its choices, taps, or the words of its metavar; files where None."""
    if item.parsed is Taps:
        return taps(CONTENT_LOSSES if item.name == "content_taps" else STYLE_LOSSES)
    found = item.option.choices or WORD.findall(item.option.metavar or "")
    return words(*found) if found else None


def presets() -> list[tuple[str, str]]:
    """Every preset with its summary; a folder of the user's that cannot be used offers none."""
    try:
        own = own_preset_files()
    except NstFastError:  # which the command itself reports
        own = {}
    return [(preset.name, preset.summary) for preset in PRESETS.values()] + [(name, "yours") for name in own]


def taps(losses: Iterable[str] = ()) -> Completion:
    """Offers the network's taps after each comma, and the losses after a tap and its weight."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        tap, colon, rest = last.partition(":")
        weight, second, _ = rest.partition(":")
        if colon:
            return [f"{before}{comma}{tap}:{weight}:{loss}" for loss in losses] if second else []
        network = context.params.get("network") or EncoderOptions.network
        return [before + comma + name for name in layer_names(network if network in CONVS_PER_BLOCK else "vgg19")]

    return complete
