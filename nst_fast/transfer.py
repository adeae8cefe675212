"""Images in, pastiche out: loads pictures and network, builds the objective, runs loop and monitor, keeps the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.config import EncoderOptions, StylizeConfig
from nst_fast.errors import UsageError
from nst_fast.evaluators import ENGINES
from nst_fast.images import LoadedImage, load_image, resize_to
from nst_fast.loop import LossHistory, StepEvent, optimize
from nst_fast.machine import describe_machine, resolve_device
from nst_fast.monitor import Monitor
from nst_fast.objective import Objective, build_targets
from nst_fast.optimizers import learning_rate_at, make_optimizer
from nst_fast.options import known
from nst_fast.outputs import OutputFiles
from nst_fast.publish import open_monitor
from nst_fast.record import RunRecord
from nst_fast.vgg import Encoder
from nst_fast.weights import make_encoder

EVENT_SECONDS = 0.5  # the progress display is fed at least this often
EVENT_STEPS = 50  # and at least every so many steps, however fast they are


class Networks:
    """Encoders by what decides them, so that several runs in one process load a network once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], tuple[Encoder, dict[str, str]]] = {}

    def encoder(
        self, options: EncoderOptions, taps: Sequence[str], device: torch.device
    ) -> tuple[Encoder, dict[str, str]]:
        """The encoder that serves the taps, and where its weights come from (source, sha256)."""
        kind = (options.network, options.weights, options.pooling, options.padding, options.input_normalization)
        key = (*kind, tuple(taps), str(device))
        if key not in self._made:
            encoder, weights = make_encoder(
                options.weights,
                options.network,
                taps,
                pooling=options.pooling,
                padding=options.padding,
                normalize_input=options.input_normalization == "imagenet",
            )
            self._made[key] = (encoder.to(device), {"source": weights.source, "sha256": weights.sha256})
        return self._made[key]


@dataclass(frozen=True)
class Listeners:
    """Who hears of a run while it goes on. All are called on the thread that runs the loop.

    Attributes:
        event: every StepEvent.
        note: one sentence about something the user should know.
        stop: asked once a step; True ends the run in good order, with the picture it has.
    """

    event: Callable[[StepEvent], None] = lambda event: None
    note: Callable[[str], None] = lambda note: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Problem:
    """One optimisation problem, ready to run."""

    encoder: Encoder
    objective: Objective
    start: Tensor
    record: RunRecord


@dataclass(frozen=True)
class Pastiche:
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record."""

    image: Tensor
    record: RunRecord

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the picture with its record inside, and record and loss curve beside it."""
        files = OutputFiles(Path(path))
        files.check(overwrite=overwrite, inputs=())
        files.save(self.image, self.record)


def stylize(
    content: str | Path,
    style: str | Path | Sequence[str | Path],
    config: StylizeConfig | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    listeners: Listeners | None = None,
    networks: Networks | None = None,
    **options: object,
) -> Pastiche:
    """Paint the content image in the style of one or more style images (Gatys et al. 2016).

    Args:
        content: the picture whose scene is kept.
        style: the picture, or pictures, whose manner is taken; several are blended in equal shares.
        config: every option; by default ``StylizeConfig()``.
        output: the picture to write, checked before any work; nothing is written without it.
        overwrite: replace an output that exists.
        listeners: hear of events and notes; may stop the run.
        networks: shares loaded networks between several calls.
        **options: fields of :class:`StylizeConfig` that differ from ``config``, as ``steps=100``.

    Returns:
        The picture and its record.

    Raises:
        NstFastError: one of the tree in :mod:`nst_fast.errors`, according to what is wrong.
    """
    config = (config or StylizeConfig()).replace(**known(StylizeConfig, options))
    listeners = listeners or Listeners()
    content = Path(content)
    styles = [Path(style)] if isinstance(style, (str, Path)) else [Path(item) for item in style]
    if not styles:
        raise UsageError("no style image was given", "Name at least one")
    files = OutputFiles(Path(output)) if output is not None else None
    if files is not None:
        files.check(overwrite=overwrite, inputs=[content, *styles])
    problem = prepare(content, styles, config, networks or Networks(), listeners)
    pastiche = run(problem, config, files, listeners)
    if files is not None:
        files.save(pastiche.image, pastiche.record)
    return pastiche


def prepare(
    content: Path, styles: Sequence[Path], config: StylizeConfig, networks: Networks, listeners: Listeners
) -> Problem:
    """Load pictures and network and build the objective."""
    device = resolve_device(config.device)
    content_image = load(content, config, config.image_size)
    style_images = [load(path, config, round(config.image_size * config.style_scale)) for path in styles]
    encoder, weights = networks.encoder(config, config.taps, device)
    picture = content_image.tensor.to(device)
    targets = build_targets(encoder, config, picture, [image.tensor.to(device) for image in style_images])
    notes = [note for image in (content_image, *style_images) for note in image.notes]
    for note in notes:
        listeners.note(note)
    record = RunRecord(
        options=config.as_dict(),
        inputs={"content": provenance(content_image), "styles": [provenance(image) for image in style_images]},
        weights=weights,
        device=str(device),
        engine=config.engine,
        precision="fp32",
        machine=describe_machine(),
        warnings=notes,
    )
    return Problem(encoder, Objective(config, targets), starting_image(config, picture), record)


def load(path: Path, config: StylizeConfig, longest_side: int) -> LoadedImage:
    return load_image(
        path, longest_side=longest_side, background=config.background, max_megapixels=config.max_megapixels
    )


def provenance(image: LoadedImage) -> dict[str, object]:
    """What a record says of a picture: its name without folders, its hash and its size in pixels."""
    return {"name": image.path.name, "sha256": image.sha256, "size": list(image.original_size)}


def starting_image(config: StylizeConfig, content_image: Tensor) -> Tensor:
    """Where the pastiche starts, [1, 3, H, W] of the content image's size: content, uniform noise, or a file."""
    if config.init == "content":
        return content_image.clone()
    if config.init == "noise":
        generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same noise on every device
        return torch.rand(content_image.shape, generator=generator).to(content_image.device)
    image = load(Path(config.init), config, max(content_image.shape[2:]))
    return resize_to(image.tensor, (content_image.shape[2], content_image.shape[3])).to(content_image.device)


def run(problem: Problem, config: StylizeConfig, files: OutputFiles | None, listeners: Listeners) -> Pastiche:
    """Run the loop to its end, or until the listeners stop it, and complete the record."""
    record = problem.record
    pastiche = problem.start
    history = LossHistory(problem.objective.term_names, config.steps, pastiche.device)
    last: StepEvent | None = None
    with monitoring(problem, config, listeners) as monitor:
        for event in optimize(
            ENGINES[config.engine](problem.encoder, problem.objective),
            make_optimizer(pastiche, config),
            history,
            config.steps,
            learning_rate=lambda step: learning_rate_at(config, step),
            due=EventClock([config.monitor_every, config.save_every, EVENT_STEPS]),
            stop=listeners.stop,
        ):
            last = event
            if monitor is not None and event.step % config.monitor_every == 0:
                monitor.submit(event.step, event.pastiche.detach().to("cpu", copy=True))
            if files is not None and config.save_every and event.step and event.step % config.save_every == 0:
                files.save_snapshot(event.pastiche, event.step)
            listeners.event(event)
    assert last is not None  # the loop always reports its end
    record.status = "complete" if last.step == config.steps else "stopped"
    record.steps, record.seconds, record.steps_per_second = last.step, last.seconds, last.steps_per_second
    record.peak_memory_mib, record.losses, record.history = last.peak_memory_mib, last.terms, history.rows()
    if monitor is not None:
        add_readings(record, monitor)
    return Pastiche(pastiche.detach().clamp(0, 1).cpu(), record)


@contextmanager
def monitoring(problem: Problem, config: StylizeConfig, listeners: Listeners) -> Iterator[Monitor | None]:
    """The monitor for as long as the loop runs, or None when it is turned off."""
    if not config.monitor_every:
        yield None
        return
    weights = problem.record.weights["sha256"]
    with open_monitor(problem.encoder, problem.objective, config, weights, listeners.note) as monitor:
        yield monitor


def add_readings(record: RunRecord, monitor: Monitor) -> None:
    """Put the monitor's readings into the record, as columns like the loop's own history."""
    readings = monitor.readings()
    names = list(readings[0].terms) if readings else []
    record.provider = {"requested": monitor.session.requested, "actual": monitor.session.actual}
    record.monitor = {
        "steps": [reading.step for reading in readings],
        "terms": {name: [reading.terms[name] for reading in readings] for name in names},
        "latency_ms": [reading.latency_ms for reading in readings],
        "dropped": monitor.dropped,
    }
    record.warnings += monitor.warnings


@dataclass
class EventClock:
    """Says when an event is due: at multiples of the given steps, and when half a second has passed on the host."""

    every: Sequence[int]
    last: float = field(default_factory=time.monotonic)

    def __call__(self, step: int) -> bool:
        now = time.monotonic()
        if now - self.last > EVENT_SECONDS or any(step % every == 0 for every in self.every if every):
            self.last = now
            return True
        return False
