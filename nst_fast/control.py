"""Options of control, fit, scales, stopping, finish and report; :mod:`nst_fast.config` combines them with the others.

Standard library only. They stand in a file of their own so that neither file is too long for one reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from nst_fast.errors import UsageError
from nst_fast.options import Options, option

# The weight of style runs over this ratio between strength 0 and 1, in equal factors for equal steps of the dial.
STRENGTH_RANGE = 100.0
# --until-converged: so many steps without improvement.
CONVERGED_PATIENCE = 50
# --style-crop: what of a style image's width and height is kept at least.
LEAST_KEPT = 0.1


# Units of --max-memory; IEC's and SI's, as people write them.
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(text: str) -> int:
    """``4GiB``, ``1500MB`` or a plain number of bytes, as bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise UsageError(f"--max-memory {text!r}: not an amount of memory", "Write it as 4GiB, 1500MB or in bytes")
    return round(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(Options):
    """Memory."""

    max_memory: str | None = option(
        None,
        "Memory that the run may take beyond the program itself, as 4GiB or 1500MB; by default most of what is free.",
        metavar="AMOUNT",
        cosmetic=True,
    )
    tile_size: int = option(
        0, "Longest side of a tile, in pixels; 0 leaves it to the planner.", minimum=0, maximum=32768, cosmetic=True
    )
    on_oom: str = option(
        "error",
        "When memory runs out in spite of the plan: end with an error, or go on once in tiles.",
        choices=("error", "tile"),
        cosmetic=True,
    )

    @property
    def max_memory_bytes(self) -> int | None:
        return None if self.max_memory is None else parse_bytes(self.max_memory)

    def contradictions(self) -> list[str]:
        limit = self.max_memory_bytes  # refuses what is no amount
        problems = ["--max-memory 0: nothing fits into that"] if limit == 0 else []
        return problems + super().contradictions()


@dataclass(frozen=True, kw_only=True)
class ControlOptions(Options):
    """Control."""

    strength: float = option(
        1.0, "How much style is applied; 0 is the content image itself, 1 the weights as given.", minimum=0, maximum=1
    )
    style_weight_each: str = option(
        "", "Blend weights of several style images, in their order: NUMBER,...; by default equal.", metavar="NUMBERS"
    )

    @property
    def style_factor(self) -> float:
        """What the weights of style and total variation are multiplied by: (R^s - 1) / (R - 1), s the strength.

        Style weights are felt by their ratio, so the dial is geometric with R = ``STRENGTH_RANGE``; taking 1 away from
        both ends makes it exactly 0 at 0 and exactly 1 at 1. It grows with s, everywhere.
        """
        return float((STRENGTH_RANGE**self.strength - 1) / (STRENGTH_RANGE - 1))

    @property
    def blend_weights(self) -> list[float] | None:
        """One weight per style image, or None for equal shares."""
        try:
            weights = [float(part) for part in self.style_weight_each.split(",") if part.strip()]
        except ValueError:
            raise UsageError(f"--style-weight-each {self.style_weight_each!r}: not numbers", "Write 0.7,0.3") from None
        return weights or None

    def contradictions(self) -> list[str]:
        weights = self.blend_weights
        if weights is not None and (not all(0 <= weight < float("inf") for weight in weights) or not sum(weights)):
            return [f"--style-weight-each {self.style_weight_each}: must be at least 0 and not all 0"]
        return super().contradictions()


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Fit."""

    content_fit: str = option(
        "keep",
        "Shape of the pastiche: the content image's own, or stretched to a square.",
        choices=("keep", "square"),
    )
    style_fit: str = option(
        "keep",
        "Shape of the style images: their own, or stretched to exactly the size of the pastiche.",
        choices=("keep", "match"),
    )
    style_crop: str = option(
        "auto",
        "Border of the style images that is left out: 'auto' looks for paper edges, frames and bars, 'none' keeps "
        "all, or LEFT,TOP,RIGHT,BOTTOM in per cent of the sides.",
        metavar="auto|none|L,T,R,B",
    )

    @property
    def style_borders(self) -> tuple[float, float, float, float] | None:
        """Shares of the sides to be left out: left, top, right, bottom; None where they are to be looked for."""
        if self.style_crop == "auto":
            return None
        if self.style_crop == "none":
            return 0.0, 0.0, 0.0, 0.0
        try:
            left, top, right, bottom = (float(part) / 100 for part in self.style_crop.split(","))
        except ValueError:
            raise UsageError(
                f"--style-crop {self.style_crop!r}: not auto, none or four numbers",
                "Write LEFT,TOP,RIGHT,BOTTOM in per cent, as 0,3,0,0",
            ) from None
        return left, top, right, bottom

    def contradictions(self) -> list[str]:
        left, top, right, bottom = self.style_borders or (0.0, 0.0, 0.0, 0.0)
        most = 1 - LEAST_KEPT
        good = min(left, top, right, bottom) >= 0 and left + right <= most and top + bottom <= most  # NaN is not
        rule = f"each at least 0, left and right, or top and bottom, at most {100 * most:g} together"
        return ([] if good else [f"--style-crop {self.style_crop}: must be {rule}"]) + super().contradictions()


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(Options):
    """Coarse to fine."""

    scales: int = option(
        0,
        "Sizes that the picture passes through. 1 is the final size only; 0 begins at --min-size, whatever the "
        "final size, so that the look is the same at all of them.",
        minimum=0,
        maximum=16,
    )
    scale_factor: float = option(
        2.0, "Growth from one size to the next; with --scales 0 about.", minimum=1.1, maximum=4
    )
    min_size: int = option(
        0,
        "Longest side of the first size; shorter ones are left out. 0: 256 with --scales 0, and else 96.",
        minimum=0,
        maximum=32768,
    )
    scale_steps_ratio: float = option(1.0, "Steps at a scale relative to the next finer one.", minimum=0.05, maximum=20)

    @property
    def coarsest_side(self) -> int:
        """Longest side, in pixels, below which no scale is."""
        return self.min_size or (96 if self.scales else 256)


@dataclass(frozen=True, kw_only=True)
class StopOptions(Options):
    """Guard and stopping."""

    divergence_factor: float = option(
        10.0, "A loss beyond this multiple of the best one is a divergence; 0 turns the guard off.", minimum=0
    )
    until_converged: bool = option(False, "Stop when the loss no longer improves; the same as --patience 50.")
    patience: int = option(0, "Stop when N steps have not improved the loss by --min-improvement; 0: never.", minimum=0)
    min_improvement: float = option(
        0.01, "The fraction by which the loss must fall to count as improved.", minimum=0, maximum=0.99
    )
    time_budget: str = option("", "End in time with the best so far: 90, 60s, 5m or 1h.", metavar="TIME")

    @property
    def patience_steps(self) -> int:
        return self.patience or (CONVERGED_PATIENCE if self.until_converged else 0)

    @property
    def budget_seconds(self) -> float:
        """The time budget in seconds; 0 means none."""
        return parse_duration(self.time_budget) if self.time_budget else 0.0

    def contradictions(self) -> list[str]:
        parse_duration(self.time_budget or "1s")
        return super().contradictions()


def parse_duration(text: str, flag: str = "--time-budget") -> float:
    """``90``, ``60s``, ``5m`` or ``1h`` in seconds; anything else raises :class:`UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{flag} {text!r}: is no duration", "Write seconds, or 60s, 5m, 1h")
    return seconds


@dataclass(frozen=True, kw_only=True)
class FinishOptions(Options):
    """Finish."""

    color: str = option(
        "none",
        "Colours: 'keep' takes the content's chroma for the final picture; 'match' gives the style image the "
        "content's colour statistics first; 'luma' transfers luminance only.",
        choices=("none", "keep", "match", "luma"),
    )
    denoise: float = option(
        0.0, "Strength of an edge-preserving filter on the final picture; 0 is none.", minimum=0, maximum=1
    )
    bit_depth: int = option(8, "Bits per channel of the final picture; 16 for PNG and TIFF.", minimum=8, maximum=16)

    def contradictions(self) -> list[str]:
        problems = [] if self.bit_depth in (8, 16) else [f"--bit-depth {self.bit_depth}: must be 8 or 16"]
        return problems + super().contradictions()


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Report."""

    checkpoint_every: str = option(
        "60s",
        "Keep what it takes to go on after an interruption, every N steps (200) or as time passes (30s, 5m); 0: never.",
        metavar="STEPS|TIME",
        cosmetic=True,
    )
    save_format: str = option(
        "same", "Format of the snapshots: the output's own, or another.", choices=("same", "png", "jpg"), cosmetic=True
    )
    log_every: int = option(
        0, "A log line every N steps on standard error; 0: progress as time passes.", minimum=0, cosmetic=True
    )
    log_format: str = option(
        "plain",
        "The log line: 'step N/M total ...', 'run [N]: Style Loss: ...', or 'Epoch N, Loss: ...'.",
        choices=("plain", "run", "epoch"),
        cosmetic=True,
    )

    @property
    def checkpoint_interval(self) -> Interval | None:
        """How often the state is kept; None for never."""
        text = self.checkpoint_every.strip()
        if not text.isdecimal():
            return Interval(seconds=parse_duration(text, "--checkpoint-every"))
        return Interval(steps=int(text)) if int(text) else None

    def contradictions(self) -> list[str]:
        _ = self.checkpoint_interval  # refuses what is none
        return super().contradictions()


class Interval(NamedTuple):
    """A number of steps, or of seconds; the other is 0."""

    steps: int = 0
    seconds: float = 0.0
