"""Films: containers that PyAV reads and writes, animations (GIF, APNG, WebP) and numbered pictures (docs/video.md)."""

from __future__ import annotations

from pathlib import Path

from nst_fast.errors import InputError
from nst_fast.images.decoding import Limits
from nst_fast.images.film.animations import open_animation
from nst_fast.images.film.containers import open_container
from nst_fast.images.film.facts import Film, FilmInfo, Frame, Part, Pixels
from nst_fast.images.film.sequences import is_pattern, open_sequence
from nst_fast.images.film.writing import check_film_output, film_files, write_film
from nst_fast.images.sources import check_signature
from nst_fast.images.text import MAX_MEGAPIXELS
from nst_fast.system.files import AnyPath, check_local, shown

__all__ = ["Film", "FilmInfo", "Frame", "Pixels", "check_film_output", "film_files", "open_film", "write_film"]


def open_film(
    path: AnyPath,
    *,
    start: float | None = None,
    end: float | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Film:
    """Open a film, or the part of it between two times.

    Args:
        path: a container that PyAV reads; a GIF, APNG or WebP animation; numbered pictures (``frames/%04d.png``), 25 of
            which are a second.
        start: seconds from the first frame; frames that begin earlier are left out.
        end: frames that begin at this time or later are left out.
        max_megapixels: refuse frames whose header claims more, before they are decoded.

    Raises:
        InputError: missing, damaged, cut short, without pictures, too large, under 16 pixels on a side, HDR, or
            without a frame in the part.
        UsageError: ``end`` is not after ``start``; a package is missing.
    """
    path, part, limits = Path(path), Part(start, end), Limits(None, max_megapixels)
    if is_pattern(path):
        return open_sequence(path, part, limits)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        check_local(path)
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(f"{shown(path)} cannot be read: {reason.lower()}", "Check the path") from error
    if not head:
        raise InputError(f"{shown(path)} is empty", "Give a film")
    try:
        check_signature(head, "")
    except InputError:  # no picture, still or animated
        return open_container(path, part, limits)
    return open_animation(path, part, limits)
