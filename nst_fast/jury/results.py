"""What the jury says, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst_fast import __version__
from nst_fast.jury.columns import COLUMNS
from nst_fast.run.record import rounded
from nst_fast.system.files import shown

SCHEMA = "nst-fast/evaluate/1"


@dataclass(frozen=True)
class Scores:
    """One picture's scores.

    Attributes:
        picture: as given.
        sha256: of the file's bytes.
        size: width and height in pixels, at which everything was compared.
        scores: column -> score, in the order of :data:`nst_fast.jury.columns.COLUMNS`; None for one that could not be
            had.
        notes: what a user should know of the file.
    """

    picture: Path
    sha256: str
    size: tuple[int, int]
    scores: Mapping[str, float | None]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        facts = {"picture": shown(self.picture), "sha256": self.sha256, "size": list(self.size)}
        return facts | {"scores": rounded(dict(self.scores)), "notes": list(self.notes)}


@dataclass(frozen=True)
class Evaluation:
    """What the jury says: scores of all pictures, and what they depend on.

    Attributes:
        content, style: name and sha256 of the pictures.
        weights: source and sha256 of the network's weights; scores of others cannot be compared with these.
        options: every other option.
        pictures: one entry per picture, in order.
        notes: why a column is empty.
    """

    content: Mapping[str, Any]
    style: Mapping[str, Any]
    weights: Mapping[str, str]
    options: Mapping[str, Any]
    pictures: tuple[Scores, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the meaning of every column."""
        facts: dict[str, Any] = {"schema": SCHEMA, "status": "complete", "nst_fast": __version__}
        facts |= {"content": dict(self.content), "style": dict(self.style), "weights": dict(self.weights)}
        facts |= {"options": dict(self.options), "columns": [column.as_dict() for column in COLUMNS]}
        return facts | {"pictures": [each.as_dict() for each in self.pictures], "notes": list(self.notes)}
