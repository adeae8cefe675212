"""Texture synthesis: a picture with a style's Gram matrices and no content (Gatys et al. 2015, arXiv:1505.07376)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import cast

from nst_fast.errors import UsageError
from nst_fast.jobs.series import Axes, Inputs, Series, make_series, parse_seeds, picture_labels
from nst_fast.options.commands import TextureConfig
from nst_fast.run.scales import checked_size, seamless_size


def parse_size(text: str) -> tuple[int, int]:
    """``384x256`` (width x height) -> (256, 384), height first as in tensors. Raises :class:`UsageError`."""
    width, _, height = text.lower().partition("x")
    try:
        return checked_size((int(height), int(width)))
    except ValueError:
        raise UsageError(f"`size` {text!r} is no size", "Write WIDTHxHEIGHT, as 384x256") from None


def tap_sets(text: str, *, cumulative: bool) -> list[str]:
    """``a;a,b`` -> the sets ``a`` and ``a,b``; ``a,b,c`` cumulatively -> ``a``, ``a,b``, ``a,b,c``."""
    sets = [part.strip() for part in text.split(";") if part.strip()]
    if not sets:
        raise UsageError("`style_taps` is empty", "Name at least one tap, as relu1_1,relu2_1")
    if not cumulative:
        return sets
    if len(sets) > 1:
        raise UsageError("`cumulative` makes several sets of one", "Give one set, or leave `cumulative` out")
    return list(accumulate(sets[0].split(","), lambda before, tap: f"{before},{tap}"))


def plan_textures(
    styles: Sequence[Path], sets: Sequence[str], seeds: str, config: TextureConfig, size: tuple[int, int] | None
) -> Series:
    """One job per style, seed and set of taps; columns are sets of taps, or seeds where there is only one set.

    Args:
        sets: taps of the style loss, as ``relu1_1,relu2_1``.
        seeds: of the noise that each texture starts from, as ``0,1``.
        size: height and width of the textures; by default a square of ``image_size``.
    """

    def inputs_of(values: dict[str, object]) -> Inputs:
        style = cast(Path, values["style"])
        return config.replace(style_taps=values["style-taps"], seed=values["seed"]), None, (style,)

    by_seed, by_taps = parse_seeds(seeds), {taps: taps for taps in sets}
    axes: Axes = {"style": picture_labels(styles), "seed": by_seed, "style-taps": by_taps}
    if len(by_taps) == 1:
        axes = {"style": axes["style"], "style-taps": by_taps, "seed": by_seed}
    size = size or (config.image_size, config.image_size)
    title = f"texture of {', '.join(picture_labels(styles))}"
    return make_series("texture", title, axes, inputs_of, seamless_size(config, *size))
