"""Images in, pastiche out: what a program calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nst_fast.config import StylizeConfig
from nst_fast.errors import UsageError
from nst_fast.options import known
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Networks, load_problem
from nst_fast.ranks.group import Ranks
from nst_fast.run import Listeners, Pastiche, Run, run
from nst_fast.shared_run import run_shared


def stylize(
    content: str | Path,
    style: str | Path | Sequence[str | Path],
    config: StylizeConfig | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    listeners: Listeners | None = None,
    networks: Networks | None = None,
    ranks: Ranks | None = None,
    **options: object,
) -> Pastiche:
    """Paint the content image in the style of one or more style images (Gatys et al. 2016).

    Args:
        content: the picture whose scene is kept.
        style: the picture, or pictures, whose manner is taken; several are blended as ``style_weight_each`` says.
        config: every option; by default ``StylizeConfig()``.
        output: the picture to write, checked before any work; nothing is written without it.
        overwrite: replace an output that exists.
        listeners: hear of events and notes; may stop the run.
        networks: shares loaded networks between several calls.
        ranks: the processes that share the picture, see :func:`nst_fast.ranks.group.joined`; each of them makes the
            same call, and rank 0 writes.
        **options: fields of :class:`StylizeConfig` that differ from ``config``, as ``steps=100``.

    Returns:
        The picture and its record.

    Raises:
        NstFastError: one of the tree in :mod:`nst_fast.errors`, according to what is wrong.
    """
    config = (config or StylizeConfig()).replace(**known(StylizeConfig, options))
    styles = [Path(style)] if isinstance(style, (str, Path)) else [Path(item) for item in style]
    if not styles:
        raise UsageError("no style image was given", "Name at least one")
    files = OutputFiles(Path(output)) if output is not None else None
    if files is not None:
        files.check(overwrite=overwrite, inputs=[Path(content), *styles])
    problem = load_problem(config, Path(content), styles, networks or Networks())
    listeners = listeners or Listeners()
    pastiche = run(problem, files, listeners) if ranks is None else run_shared(problem, files, listeners, ranks)
    if files is not None and (ranks is None or ranks.rank == 0):
        files.save(pastiche.image, pastiche.record)
    if pastiche.failure is not None:
        raise pastiche.failure
    return pastiche


__all__ = ["Listeners", "Networks", "Pastiche", "Run", "run", "stylize"]
