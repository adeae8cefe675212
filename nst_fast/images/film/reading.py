"""Open a film of any kind."""

from __future__ import annotations

from pathlib import Path

from nst_fast.images.decoding import Limits
from nst_fast.images.film.containers import open_container
from nst_fast.images.film.facts import Film, Part
from nst_fast.images.text import MAX_MEGAPIXELS
from nst_fast.system.files import AnyPath


def open_film(
    path: AnyPath, *, start: float | None = None, end: float | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Film:
    """Open a film, or the part of it between two times.

    Args:
        path: what PyAV reads.
        start: seconds from the first frame; frames that begin earlier are left out.
        end: frames that begin at this time or later are left out.
        max_megapixels: refuse frames whose header claims more, before they are decoded.

    Raises:
        InputError: missing, damaged, cut short, without pictures, too large, under 16 pixels on a side, HDR, or
            without a frame in the part.
        UsageError: ``end`` is not after ``start``.
    """
    return open_container(Path(path), Part(start, end), Limits(None, max_megapixels))
