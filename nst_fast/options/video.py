"""Options of films: those of stills, and how frames follow each other. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from nst_fast.errors import UsageError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared, option
from nst_fast.options.regions import SEPARATOR
from nst_fast.options.values import Parsed, Shares, seconds_of

# What is of single pictures, and no flag of a film.
VIDEO_FIXED = (
    *("save_every", "save_format", "checkpoint_every", "monitor_every", "monitor_provider", "time_budget"),
    *("bit_depth", "metadata"),
)
KEYED = ("strength", "style_weight", "content_weight", "style_weight_each")  # what may change over a film
FRAME_PATIENCE = 5  # a frame that follows others ends when so many steps have not gained `min_improvement`
FIRST_SHARE = 3  # a scene's first frame has so many times the steps of the others

Numbers = tuple[float, ...]


class Moment(Parsed, float):
    """A time in a film, in seconds: ``90``, ``2.5s``, ``1m``, or a number."""

    @classmethod
    def of(cls, given: object) -> Self:
        seconds = seconds_of(str(given))
        if seconds is None or isinstance(given, bool):
            raise UsageError("is no time in a film", "Write seconds, or 2.5s, 1m")
        moment = cls(seconds)
        moment.text = str(given)
        return moment


@dataclass(frozen=True)
class Keys(Parsed):
    """Values that options have at times: ``TIME:OPTION=VALUE``, several joined by semicolons.

    ``values``: option -> (seconds, numbers) in the order of time.
    """

    values: Mapping[str, tuple[tuple[float, Numbers], ...]] = field(default_factory=dict, compare=False)
    text: str = ""

    @classmethod
    def of(cls, given: object) -> Self:
        if not isinstance(given, str | Iterable):
            raise UsageError("must be text", cls.FORM)
        parts = given.split(SEPARATOR) if isinstance(given, str) else [str(part) for part in given]
        found: dict[str, list[tuple[float, Numbers]]] = {}
        for part in filter(str.strip, parts):
            name, moment, numbers = cls._key(part)
            found.setdefault(name, []).append((moment, numbers))
        for name, keys in found.items():
            if len({len(numbers) for _, numbers in keys}) > 1 or len({moment for moment, _ in keys}) < len(keys):
                raise UsageError(f"{name.replace('_', '-')}: two values at one time, or other numbers of shares")
        return cls({name: tuple(sorted(keys)) for name, keys in found.items()}, SEPARATOR.join(parts))

    FORM = "Write TIME:OPTION=VALUE, as 2.5s:strength=0.3"

    @classmethod
    def _key(cls, text: str) -> tuple[str, float, Numbers]:
        time, colon, rest = text.partition(":")
        name, equals, value = rest.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not colon or not equals:
            raise UsageError(f"{text!r} is no time with an option and a value", cls.FORM)
        if name not in KEYED:
            names = ", ".join(each.replace("_", "-") for each in KEYED)
            raise UsageError(f"{text!r}: {name or 'nothing'} does not change over a film", f"Those that do are {names}")
        item = declared(StylizeConfig)[name]
        checked = item.checked(item.read(value.strip()))
        return name, Moment.of(time), tuple(checked) if isinstance(checked, Shares) else (checked,)

    def at(self, seconds: float) -> dict[str, Any]:
        """Option -> its value at a time: straight from key to key, the same before the first and after the last."""
        found: dict[str, Any] = {}
        for name, keys in self.values.items():
            after = bisect_right([moment for moment, _ in keys], seconds)
            (start, first), (end, last) = keys[max(0, after - 1)], keys[min(after, len(keys) - 1)]
            share = (seconds - start) / (end - start) if end > start and seconds > start else 0.0
            numbers = [a + share * (b - a) for a, b in zip(first, last, strict=True)]
            found[name] = numbers if name == "style_weight_each" else numbers[0]
        return found


@dataclass(frozen=True, kw_only=True)
class VideoConfig(StylizeConfig):
    """Film."""

    temporal_weight: float = option(
        100.0,
        "Weight of a loss on what changes between frames but for the motion of the scene; 0 leaves the start alone.",
        minimum=0,
    )
    frame_steps: int = option(
        0, "Steps at most of a frame that follows others; 0: a third of `steps`.", minimum=0, maximum=1_000_000
    )
    passes: int = option(
        1,
        "Passes through each scene, forward and backward by turns; more even out what differs.",
        minimum=1,
        maximum=100,
    )
    flow: str = option(
        "dis",
        "How motion is found: 'dis' (OpenCV), or 'raft' (torchvision's network, whose weights must be in the cache of "
        "PyTorch's hub).",
        choices=("dis", "raft"),
    )
    key: Keys = option(
        "",
        "A value that an option has at a time, as 5s:strength=1; may be repeated, and runs straight from key to key. "
        f"For {', '.join(name.replace('_', '-') for name in KEYED)}.",
        metavar="TIME:OPTION=VALUE",
        repeatable=True,
    )
    start: Moment | None = option(None, "Begin at this time of the film, as 2.5s or 1m.", metavar="TIME")
    end: Moment | None = option(None, "End at this time of the film.", metavar="TIME")

    def still(self, seconds: float) -> StylizeConfig:
        """The options of a frame at a time of the film, as of a picture by itself."""
        own = {name: getattr(self, name) for name in declared(StylizeConfig)}
        return StylizeConfig(**own).replace(monitor_every=0, checkpoint_every="0", **self.key.at(seconds))

    def following(self, seconds: float) -> StylizeConfig:
        """The options of a frame that follows others: it starts near its end, at its final size."""
        found, steps = self.still(seconds), self.frame_steps or max(1, self.steps // FIRST_SHARE)
        return found.replace(scales=1, steps=steps, patience=found.patience_steps or FRAME_PATIENCE)

    def contradictions(self) -> list[str]:
        problems = []
        if self.engine == "ort":
            problems.append("`engine` ort: has no temporal loss; use `engine` fast")
        if self.start is not None and self.end is not None and self.start >= self.end:
            problems.append(f"`start` {self.start}, `end` {self.end}: nothing is between them")
        return problems + super().contradictions()
