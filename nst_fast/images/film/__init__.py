"""Films: containers that PyAV reads and writes, animations (GIF, APNG, WebP) and numbered pictures (docs/video.md)."""

from __future__ import annotations

from nst_fast.images.film.facts import Film, FilmInfo, Frame, Pixels
from nst_fast.images.film.reading import open_film
from nst_fast.images.film.writing import check_film_output, film_files, write_film

__all__ = ["Film", "FilmInfo", "Frame", "Pixels", "check_film_output", "film_files", "open_film", "write_film"]
