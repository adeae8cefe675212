"""``evaluate``: what programs call to have pictures scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nst_fast.errors import UsageError
from nst_fast.images import LoadedImage
from nst_fast.images.given import Picture, sources_of
from nst_fast.jury.judge import Jury, load_encoder
from nst_fast.jury.results import Evaluation
from nst_fast.options.declaration import known
from nst_fast.options.evaluate import EvaluateConfig


def evaluate(
    content: Picture,
    style: Picture,
    pictures: Picture | Sequence[Picture],
    config: EvaluateConfig | None = None,
    **options: object,
) -> Evaluation:
    """Score pictures of any program against the content and the style they were made from; docs/jury.md.

    Args:
        content: the picture whose scene was to be kept; resized to each picture's size.
        style: the picture whose manner was to be taken; its longest side becomes the picture's, or a fraction of it.
        pictures: one or more, each of the content's shape, of any size.
        config: every option; by default ``EvaluateConfig()``.
        **options: fields of :class:`EvaluateConfig` that differ from ``config``, as ``weights="random:0"``.

    Raises:
        InputError: a picture that cannot be read, or that has another shape than the content.
        UsageError: no picture; an option that makes no sense.
        WeightsError, DeviceError: weights or device that are not there.
    """
    config = (config or EvaluateConfig()).replace(**known(EvaluateConfig, options))
    sources = sources_of(pictures)
    if not sources:
        raise UsageError("no picture was given", "Name at least one")
    encoder, weights = load_encoder(config)
    jury = Jury(content, style, config, encoder)
    loaded = [jury.read(source) for source in sources]  # all are checked before the first is scored
    scores = tuple(map(jury.score, loaded))
    inputs = map(described, jury.inputs())
    options = {name: value for name, value in config.as_dict().items() if name != "weights"}
    return Evaluation(next(inputs), next(inputs), weights, options, scores, tuple(filter(None, [jury.note])))


def described(picture: LoadedImage) -> dict[str, Any]:
    return {"name": picture.path.name, "sha256": picture.sha256, "size": list(picture.original_size)}
