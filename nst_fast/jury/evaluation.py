"""``evaluate``, which programs call to have pictures scored, and its result as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst_fast import __version__
from nst_fast.errors import UsageError
from nst_fast.images.given import Picture, sources_of
from nst_fast.jury.columns import COLUMNS
from nst_fast.jury.judge import Jury, load_encoder
from nst_fast.options.evaluate import EvaluateConfig
from nst_fast.system.files import shown
from nst_fast.system.isolation import own_state
from nst_fast.system.rounding import rounded

SCHEMA = "nst-fast/evaluate/1"


@dataclass(frozen=True)
class Scores:
    """One picture's scores.

    Attributes:
        picture: as given.
        sha256: of the file's bytes.
        size: width and height in pixels, at which everything was compared.
        scores: column -> score, in the order of :data:`nst_fast.jury.columns.COLUMNS`; None where there is none.
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
    """The scores of all pictures, and what they depend on.

    Attributes:
        content, style: name, sha256 and size of the pictures.
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


@own_state()
def evaluate(
    content: Picture,
    style: Picture,
    pictures: Picture | Sequence[Picture],
    config: EvaluateConfig | Mapping[str, object] | None = None,
    **options: object,
) -> Evaluation:
    """Score pictures of any program against the content and the style they were made from; docs/jury.md.

    Args:
        content: the content image; resized to each picture's size.
        style: the style image; its longest side becomes the picture's, or a fraction of it.
        pictures: one or more, each of the content's shape, of any size.
        config: every option, or a mapping of some; by default ``EvaluateConfig()``.
        **options: fields of :class:`EvaluateConfig` that differ from ``config``, as ``weights="random:0"``.

    Raises:
        InputError: a picture that cannot be read, or that has another shape than the content.
        UsageError: no picture; an option that makes no sense.
        WeightsError, DeviceError: weights or device that are not there.
    """
    config = EvaluateConfig.of(config).replace(**options)
    sources = sources_of(pictures)
    if not sources:
        raise UsageError("no picture was given", "Name at least one")
    encoder, weights = load_encoder(config)
    jury = Jury(content, style, config, encoder)
    loaded = [jury.read(source) for source in sources]  # all are checked before the first is scored
    scores = tuple(
        Scores(picture.path, picture.sha256, picture.original_size, jury.score(picture.tensor), picture.notes)
        for picture in loaded
    )
    inputs = [
        {"name": picture.path.name, "sha256": picture.sha256, "size": list(picture.original_size)}
        for picture in jury.inputs()
    ]
    options = {name: value for name, value in config.as_dict().items() if name != "weights"}
    return Evaluation(inputs[0], inputs[1], weights, options, scores, (jury.note,) if jury.note else ())
