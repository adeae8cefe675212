"""What to measure: the options of the benchmark, and scenarios, which are options in a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.errors import InputError, UsageError, nearest
from nst_fast.network.taps import smallest_side
from nst_fast.options.config import DeviceOptions, MonitorOptions, ObjectiveOptions, OptimizerOptions, StylizeConfig
from nst_fast.options.declaration import declared, option
from nst_fast.options.providers import PLUGIN_NAME, PROVIDERS
from nst_fast.system.files import shown, user_path

SAMPLE = "sample"  # in place of a pair of files: two pictures that nst-fast draws


@dataclass(frozen=True, kw_only=True)
class BenchConfig(MonitorOptions, OptimizerOptions, ObjectiveOptions):
    """Benchmark."""

    sizes: str = option("256,512", "Sizes of the pictures, in pixels: SIDE or WIDTHxHEIGHT,...", metavar="SIZES")
    engines: str = option(
        DeviceOptions.engine,
        "Engines of the loop: ENGINE[:PRECISION],...; eager, the measure of all, is always added. None: ''.",
        metavar="ENGINES",
    )
    providers: str = option(
        "cpu,cuda,tensorrt", "ONNX Runtime providers of the evaluation: PROVIDER,... None: ''.", metavar="PROVIDERS"
    )
    device: str = option(
        DeviceOptions.device, "Where PyTorch runs: auto, cpu, cuda, cuda:1, rocm, mps, xpu.", metavar="DEVICE"
    )
    engine_provider: str = option(
        DeviceOptions.engine_provider,
        "The ONNX Runtime provider of the engine ort; 'auto' is the device's own.",
        choices=("auto", *PROVIDERS),
        also=PLUGIN_NAME,
    )
    cuda_graph: str = option(
        DeviceOptions.cuda_graph,
        "Whether launches on a GPU are captured once and replayed.",
        choices=("auto", "on", "off"),
    )
    init: str = option("content", "Where the pastiche starts.", choices=("content", "noise"))
    batch: int = option(1, "Pictures that the loop takes together, each with its own targets.", minimum=1, maximum=1024)
    warmup: int = option(3, "Steps, or evaluations, before the first that is timed.", minimum=1, maximum=10_000)
    repeats: int = option(9, "Timed turns of every row; rows that are compared take turns.", minimum=1, maximum=1000)
    turn_seconds: float = option(0.3, "How long a turn lasts at least; a turn is at least one step.", minimum=0.001)
    steps: int = option(
        50, "Length of the run whose final loss is compared with eager's; 0 leaves it out.", minimum=0, maximum=100_000
    )
    pairs: str = option(
        "",
        "Measure time to quality instead of speed, on these pictures: CONTENT+STYLE,...; 'sample' is a pair drawn by "
        "nst-fast. --steps is then the length of the runs.",
        metavar="PAIRS",
    )
    plain: str = option(
        "adam:0.02,adam:0.05,lbfgs:1",
        "Time to quality: PyTorch's optimisers that eager is tried with (L-BFGS with its line search), the best of "
        "which is the goal: OPTIMIZER:RATE,...",
        metavar="OPTIMIZERS",
    )
    jury: str = option(
        "",
        "Time to quality: add the scores of `evaluate` for every run's last picture, its network with these weights, "
        "as 'original'; by default none.",
        metavar="SOURCE",
        names_file=True,
    )
    memory: bool = option(True, "Measure peak memory, each row in a fresh process.")

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every picture."""
        return [_size(part) for part in _split(self.sizes)]

    @property
    def engine_precisions(self) -> list[tuple[str, str]]:
        """Engine and precision of every loop to time, eager's first; empty when none was asked for."""
        pairs = [("eager", "fp32")] if _split(self.engines) else []
        for part in _split(self.engines):
            engine, colon, precision = part.partition(":")
            pairs.append((engine, precision if colon else "fp32" if engine == "eager" else "auto"))
        return list(dict.fromkeys(pairs))

    @property
    def provider_names(self) -> list[str]:
        """The providers; a comma before KEY=VALUE belongs to the plugin's options."""
        return list(dict.fromkeys(part.strip() for part in re.split(r",(?![^,:]*=)", self.providers) if part.strip()))

    @property
    def picture_pairs(self) -> list[tuple[str, str] | None]:
        """Content and style file of every pair, or None for the sample pictures."""
        pairs: list[tuple[str, str] | None] = []
        for part in _split(self.pairs):
            content, plus, style = part.partition("+")
            if part != SAMPLE and not (content and plus and style):
                raise UsageError(f"`pairs` {part!r} is no pair", f"Write CONTENT+STYLE, or {SAMPLE}")
            pairs.append(None if part == SAMPLE else (str(user_path(content)), str(user_path(style))))
        return pairs

    @property
    def inputs(self) -> list[Path]:
        """The files that are read."""
        pictures = [Path(name) for pair in self.picture_pairs if pair is not None for name in pair]
        return [*pictures, *(path for path in (self.weights_file, Path(self.jury)) if path is not None)]

    @property
    def plain_optimizers(self) -> list[tuple[str, float]]:
        """Optimiser and learning rate of every plain run."""
        found = []
        for part in _split(self.plain):
            name, _, rate = part.partition(":")
            try:
                found.append((name, float(rate)))
            except ValueError:
                raise UsageError(f"`plain` {part!r} has no rate", "Write OPTIMIZER:RATE, as adam:0.02") from None
        return found

    def contradictions(self) -> list[str]:
        problems = super().contradictions()
        if self.picture_pairs and not self.plain_optimizers:
            problems.append("`plain` '': time to quality needs at least one to compare with")
        if self.batch > 1 and any(engine == "ort" for engine, _ in self.engine_precisions):
            problems.append(f"`batch` {self.batch}: engine ort takes one picture at a time")
        if self.batch > 1 and self.picture_pairs:
            problems.append(f"`batch` {self.batch}: time to quality is that of single pictures")
        engines, precisions = zip(*self.engine_precisions, strict=True) if self.engine_precisions else ((), ())
        run_options = declared(StylizeConfig)
        for option_name, names, known in (
            ("engines", engines, run_options["engine"].option),
            ("engines", precisions, run_options["precision"].option),
            ("providers", self.provider_names, run_options["monitor_provider"].option),
            ("plain", [name for name, _ in self.plain_optimizers], run_options["optimizer"].option),
        ):
            unknown = dict.fromkeys(name for name in names if not known.takes(name))
            problems += [f"`{option_name}` {name}: must be among {', '.join(known.choices)}" for name in unknown]
        if not problems and min(map(min, self.image_sizes), default=0) < (least := smallest_side(self.taps)):
            problems.append(f"`sizes` {self.sizes!r}: the taps need sides of at least {least} pixels")
        return problems


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    try:
        return int(height if cross else width), int(width)
    except ValueError:
        raise UsageError(f"`sizes` {text!r} is no size", "Write SIDE or WIDTHxHEIGHT, as 256,512x384") from None


def _split(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def load_scenario(path: Path, changes: Sequence[str] = ()) -> tuple[str, BenchConfig]:
    """Description and options of a scenario file; ``changes`` (``NAME=VALUE``) replace its own options.

    Raises:
        InputError: the file cannot be read or is not TOML.
        UsageError: it holds something else than ``description`` and ``[options]``, or an option that makes no sense.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{shown(path)}: cannot be read as TOML: {error}") from error
    unknown = ", ".join(data.keys() - {"description", "options"})
    if unknown:
        raise UsageError(f"{shown(path)}: unknown key {unknown}", "A scenario has a description and [options]")
    options = data.get("options", {}) | dict(map(_assignment, changes))
    return data.get("description", ""), BenchConfig().replace(**options)


def _assignment(text: str) -> tuple[str, object]:
    """``NAME=VALUE`` as an option of a scenario, text without quotes, other values as in TOML.

    Raises:
        UsageError: no such option, or not a value.
    """
    name, equals, value = text.partition("=")
    items = declared(BenchConfig)
    if not equals or name not in items:
        raise UsageError(f"{text!r} is not NAME=VALUE of an option", nearest(name, items) or "As weights=FILE")
    try:
        return name, value if items[name].kind is str else tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise UsageError(f"{text!r}: {name} takes no text", "Write the value as in TOML: 3, 0.5 or true") from None
