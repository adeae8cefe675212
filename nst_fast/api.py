"""Images in, pastiche out: what a program calls.

May import: distributed, errors, images, options, run, system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nst_fast.distributed.group import Ranks
from nst_fast.errors import OutputError, ResumeError, UsageError
from nst_fast.images import check_output_suffix
from nst_fast.images.given import Picture, Source, source_of, sources_of
from nst_fast.options.commands import TextureConfig
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import known
from nst_fast.options.layers import find_preset
from nst_fast.run.checkpoint import checkpoint_writer, remove_checkpoints
from nst_fast.run.forecast import Forecast, forecast
from nst_fast.run.notebook import ProgressBar
from nst_fast.run.observer import Listeners, Observer, StepEvent, sums_by_kind
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Networks, check_blend, files_read, load_problem
from nst_fast.run.record import read_record
from nst_fast.run.resumption import (
    ENDED,
    check_output,
    check_same,
    continued_config,
    ended,
    found_pictures,
    newest,
    picture_of,
)
from nst_fast.run.run import run
from nst_fast.run.scales import checked_size
from nst_fast.run.together import check_joinable, run_together
from nst_fast.system.files import lock, shown
from nst_fast.system.isolation import own_state
from nst_fast.system.machine import present_devices


@own_state()
def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    config: StylizeConfig | Mapping[str, object] | None = None,
    *,
    preset: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    listeners: Observer | None = None,
    networks: Networks | None = None,
    ranks: Ranks | None = None,
    **options: object,
) -> Pastiche:
    """Paint the content image in the style of one or more style images (Gatys et al. 2016).

    Any thread may call this, in any mode of PyTorch (``inference_mode``, autocast, another default dtype or device):
    the picture does not depend on it, and neither modes nor random numbers are changed. Only the number of threads is
    the caller's. A process forked from one that has called this may not: threads do not survive a fork.

    Args:
        content: the picture whose scene is kept: a path, a PIL image, an array [H, W, 3 or 4] of uint8, uint16 or
            floats in [0, 1], a tensor [3, H, W] or [1, 3, H, W] of floats in [0, 1], or the bytes of a picture file.
        style: the picture, or pictures, whose manner is taken; several are blended as ``style_weight_each`` says.
        config: every option, or a mapping of some; by default ``StylizeConfig()``.
        preset: a recipe by name, as ``bold``, whose values replace those of ``config``.
        output: the picture to write, checked before any work; nothing is written without it.
        overwrite: replace an output that exists.
        listeners: the observer of the run; may stop it.
        networks: shares loaded networks between several calls.
        ranks: the processes that share the picture, see :func:`nst_fast.distributed.group.joined`; each of them
            makes the same call, and rank 0 writes.
        **options: fields of :class:`StylizeConfig` that differ from preset and ``config``, as ``steps=100``.

    Returns:
        The picture and its record.

    Raises:
        NstFastError: one of the tree in :mod:`nst_fast.errors`, according to what is wrong.
    """
    config = configured(config, preset, options)
    source, styles = source_of(content), sources_of(style)
    if not styles:
        raise UsageError("no style image was given", "Name at least one")
    files = OutputFiles.of(output) if output is not None else None
    written = files if ranks is None or ranks.rank == 0 else None  # by this process
    listeners, networks = companions(listeners, networks)
    with held(written, listeners):
        if files is not None:
            check_files(files, config, [source, *styles], overwrite=overwrite)
        problem = load_problem(config, source, styles, networks)
        if written is not None:
            remove_checkpoints(written)
        writer = checkpoint_writer(written, config.checkpoint_every, listeners.note)
        pastiche = run(problem, files, listeners, writer, ranks=ranks)
        return saved(pastiche, written)


@own_state()
def stylize_together(
    contents: Sequence[Picture],
    style: Picture | Sequence[Picture],
    config: StylizeConfig | Mapping[str, object] | None = None,
    *,
    preset: str | None = None,
    outputs: Sequence[str | Path] | None = None,
    overwrite: bool = False,
    listeners: Observer | None = None,
    networks: Networks | None = None,
    **options: object,
) -> list[Pastiche]:
    """Paint several content images in one style, those of one size in one loop: more pictures per second on a GPU.

    The pictures are those of :func:`stylize` but for their last bits, except that ``patience`` ends a loop when none of
    its pictures improves any more, and that all return to their best when one diverges. There is no monitor, and there
    are no checkpoints.

    Args:
        contents: pictures whose scenes are kept, of any sizes; as many at a time as memory holds.
        style, config, preset, networks, **options: as for :func:`stylize`.
        outputs: the pictures to write, one per content image, checked before any work; nothing is written without.
        overwrite: replace outputs that exist.
        listeners: the observer of the runs; the losses of its events are means.

    Returns:
        The pictures and their records, in the order of ``contents``. A record's seconds are those of its whole loop,
        of which ``plan["together"]`` says how many pictures it had.

    Raises:
        NstFastError: as :func:`stylize` does, and :class:`UsageError` for an option that needs a picture to itself.
            When pictures diverge beyond repair, that is raised once everything is written.
    """
    config = configured(config, preset, options)
    check_joinable(config)
    listeners, networks = companions(listeners, networks)
    sources, styles = sources_of(contents), sources_of(style)
    if not (sources and styles):
        raise UsageError(f"no {'style' if sources else 'content'} image was given", "Name at least one")
    files = output_files(outputs, len(sources), config)
    made: dict[int, Pastiche] = {}
    with ExitStack() as stack:
        for file in filter(None, files):
            stack.enter_context(held(file, listeners))
            check_files(file, config, [*sources, *styles], overwrite=overwrite)
        problems = [load_problem(config, source, styles, networks) for source in sources]
        for file in filter(None, files):
            remove_checkpoints(file)
        for index, pastiche in run_together(problems, files, listeners):
            made[index] = pastiche
            write(pastiche, files[index])
    if failure := next((pastiche.failure for pastiche in made.values() if pastiche.failure), None):
        raise failure
    return [made[index] for index in range(len(sources))]


def output_files(outputs: Sequence[str | Path] | None, count: int, config: StylizeConfig) -> list[OutputFiles | None]:
    """One entry per picture. Raises :class:`UsageError` unless there is one output for each, of files of its own."""
    if outputs is None:
        return [None] * count
    files = [OutputFiles.of(output) for output in ([outputs] if isinstance(outputs, str | os.PathLike) else outputs)]
    names = [path.absolute() for each in files for path in (*each.ends_with, *each.snapshots(config))]
    if len(set(names)) != len(names) or len(files) != count:
        message = f"{len(files)} outputs for {count} content images"
        raise UsageError(message, "Name one for each, all different, also without their suffixes")
    return [*files]


@own_state()
def texture(
    style: Picture | Sequence[Picture],
    size: tuple[int, int],
    config: TextureConfig | Mapping[str, object] | None = None,
    *,
    listeners: Observer | None = None,
    networks: Networks | None = None,
    **options: object,
) -> Pastiche:
    """Make a texture with the look of one or more style images and no scene, from noise (Gatys et al. 2015).

    Args:
        style, listeners, networks: as for :func:`stylize`.
        size: height and width in pixels; sides that join (``seamless``) become multiples of a cell.
        config: every option, or a mapping of some; by default those of ``nst-fast texture``.
        **options: fields that differ from ``config``, as ``seamless="xy"``; ``image_size`` is the longest side of the
            style image.

    Raises:
        NstFastError: as :func:`stylize` does.
    """
    styles, chosen = sources_of(style), TextureConfig.of(config).replace(**options)
    if not styles:
        raise UsageError("no style image was given", "Name at least one")
    listeners, networks = companions(listeners, networks)
    problem = load_problem(chosen, None, styles, networks, size=checked_size(size))
    return saved(run(problem, None, listeners), None)


@own_state()
def resume(
    output: str | Path,
    *,
    content: Picture | None = None,
    style: Picture | Sequence[Picture] = (),
    overwrite: bool = False,
    listeners: Observer | None = None,
    networks: Networks | None = None,
    **options: object,
) -> Pastiche:
    """Continue an interrupted run of :func:`stylize` from its newest checkpoint, to the picture it would have made.

    On a CPU the picture has the same pixels, bit by bit, and the loss history the same values; only times differ.

    Args:
        output: the picture that the run was to write.
        content, style: where the pictures are now, if they have been moved; the pictures, if they were in memory.
        overwrite: replace a picture that is not the one which the run left when it was stopped.
        listeners, networks: as for :func:`stylize`.
        **options: changes of options that do not change the picture, as ``monitor_every=0``.

    Returns:
        The picture and its record, as if there had been no interruption.

    Raises:
        ResumeError: there is no checkpoint, or pictures, weights, options or device are not those of the run.
        NstFastError: as :func:`stylize` does.
    """
    files = OutputFiles.of(output)
    listeners, networks = companions(listeners, networks)
    check_output_suffix(files.picture)
    if (record := ended(files)) is not None:
        raise ResumeError(
            f"{shown(files.picture)} is finished: {record['status']}, {record['steps']} steps",
            f"To continue from it, use stylize with {shown(files.picture)} as `init`",
        )
    with held(files, listeners):
        checkpoint = newest(files, listeners.note)
        check_output(checkpoint, files, overwrite=overwrite)
        files = replace(files, keeps_snapshots=not overwrite)
        config = continued_config(checkpoint, known(StylizeConfig, options))
        source, styles = found_pictures(
            checkpoint, source_of(content) if content is not None else None, sources_of(style)
        )
        check_files(files, config, [source, *styles], overwrite=True)
        problem = load_problem(config, source, styles, networks)
        check_same(checkpoint, problem, listeners.note)
        kept = [path.name for path in files.snapshots(config) if path.exists()] if not overwrite else []
        if kept:
            listeners.note(f"{len(kept)} snapshots stay as they are, the last {shown(kept[-1])}")
        listeners.note(f"going on after step {checkpoint.step} of {config.steps}")
        writer = checkpoint_writer(files, config.checkpoint_every, listeners.note)
        return saved(run(problem, files, listeners, writer, checkpoint), files)


def plan(content: tuple[int, int], styles: Sequence[tuple[int, int]], config: StylizeConfig) -> Forecast:
    """What :func:`stylize` would take for pictures of these heights and widths in pixels; nothing is loaded.

    Raises:
        OutOfMemoryError: nothing fits; the message names the largest picture that does.
        UsageError: there are other blend weights than styles.
        DeviceError: there is no such device.
    """
    check_blend(config, len(styles))
    return forecast(config, content, styles)


def devices() -> list[str]:
    """The devices of this machine, the best first."""
    return present_devices()[0]


def is_unfinished(output: str | Path) -> bool:
    """Whether :func:`resume` has something to go on from."""
    return bool(OutputFiles.of(output).checkpoints())


def finished_record(output: str | Path) -> Mapping[str, Any] | None:
    """The record of a picture whose run came to its end; None where there is none, or something is left to be done."""
    return ended(OutputFiles.of(output))


def configured(
    config: StylizeConfig | Mapping[str, object] | None, preset: str | None, options: dict[str, object]
) -> StylizeConfig:
    """The config with the values of a preset and then the options. Raises :class:`UsageError` for unknown names."""
    values = find_preset(preset).values if preset is not None else {}
    return StylizeConfig.of(config).replace(**values | options)


def companions(listeners: Observer | None, networks: Networks | None) -> tuple[Observer, Networks]:
    """What a program gave, or new ones. Raises :class:`UsageError` for anything of another kind."""
    for given, kind, usual in ((listeners, Observer, "Listeners"), (networks, Networks, "Networks")):
        if not isinstance(given, kind | None):
            raise UsageError(f"{type(given).__name__} is no {kind.__name__}", f"Give {usual}(...)")
    return Listeners() if listeners is None else listeners, Networks() if networks is None else networks


def check_files(files: OutputFiles, config: StylizeConfig, sources: Sequence[Source], *, overwrite: bool) -> None:
    """Raise :class:`OutputError` or :class:`UsageError` unless the files can be written and replace no input.

    Nor are the checkpoints of an unfinished run lost, unless that is wanted.
    """
    if (kept := files.checkpoints()) and not overwrite:
        picture = picture_of(kept[0], files)
        raise OutputError(
            f"{shown(picture)} is the picture of an unfinished run, which left {shown(kept[0].name)}",
            f"Go on with it by `nst-fast resume {shown(picture)}`, or use `overwrite` to begin anew",
        )
    files.check(
        overwrite=overwrite,
        inputs=files_read(config, sources),
        bit_depth=config.bit_depth,
        side=config.image_size,
        snapshots=files.snapshots(config),
    )


@contextmanager
def held(files: OutputFiles | None, listeners: Observer) -> Iterator[None]:
    """The right to write these files, which a picture of the same stem would share, and the curve.

    Raises :class:`BusyError` at once when another run has it.
    """
    with ExitStack() as stack:
        if files is not None:
            title = f"{shown(files.picture)}, or a file of that name beside it,"
            try:
                for path in (files.picture, files.loss_curve):
                    stack.enter_context(lock(path.with_suffix(""), title=title))
            except OutputError as error:  # a cache that cannot be written costs a safeguard, not the run
                listeners.note(f"another run to {shown(files.picture)} would not be noticed: {error.message}")
        yield


def saved(pastiche: Pastiche, files: OutputFiles | None) -> Pastiche:
    """Write what a run has made. Raises its failure, if it is one."""
    write(pastiche, files)
    if pastiche.failure is not None:
        raise pastiche.failure
    return pastiche


def write(pastiche: Pastiche, files: OutputFiles | None) -> None:
    """Write what a run has made; its checkpoints go when it is complete, and stay when it was stopped or failed."""
    if files is not None:
        files.save(pastiche.image, pastiche.record, pastiche.alpha)
        if pastiche.record.status in ENDED:
            remove_checkpoints(files)


__all__ = [
    "Forecast",
    "Listeners",
    "Networks",
    "Observer",
    "Pastiche",
    "ProgressBar",
    "StepEvent",
    "devices",
    "finished_record",
    "is_unfinished",
    "plan",
    "read_record",
    "resume",
    "stylize",
    "stylize_together",
    "sums_by_kind",
    "texture",
]
