"""Targets that several runs share: measured once for the same encoder, taps and pixels."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from torch import Tensor

from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Statistics, build_targets
from nst_fast.options.config import ObjectiveOptions

KEPT_BYTES = 2**28  # the content targets of large pictures take gigabytes; those are worth building again


class TargetCache:
    """The targets used last, content and style apart, by what decides them."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes = kept_bytes
        self.built = 0
        self._kept: OrderedDict[tuple[Hashable, ...], Statistics] = OrderedDict()

    def build(
        self,
        encoder: Encoder,
        options: ObjectiveOptions,
        content_image: Tensor | None,
        style_images: Sequence[Tensor],
        style_weights: Sequence[float] | None = None,
    ) -> Statistics:
        """As :func:`build_targets`; the encoder counts as another one when it is another object."""
        content = self._build(encoder, options, content_image, (), None)
        style = self._build(encoder, options, None, style_images, style_weights)
        return Statistics(content.content, style.grams, {})

    def _build(
        self,
        encoder: Encoder,
        options: ObjectiveOptions,
        content_image: Tensor | None,
        style_images: Sequence[Tensor],
        style_weights: Sequence[float] | None,
    ) -> Statistics:
        taps = options.content_tap_weights if content_image is not None else options.style_tap_weights
        images = [content_image] if content_image is not None else list(style_images)
        if not (taps and images):
            return Statistics({}, {}, {})
        prints = tuple(fingerprint(image) for image in images)
        key = (encoder, content_image is None, tuple(taps), prints, tuple(style_weights or ()))
        found = self._kept.pop(key, None)
        if found is None:
            found = build_targets(encoder, options, content_image, style_images, style_weights)
            self.built += 1
        self._kept[key] = found
        while sum(map(size_of, self._kept.values())) > self.kept_bytes:
            self._kept.popitem(last=False)
        return found


def size_of(targets: Statistics) -> int:
    """Bytes that the tensors of targets take."""
    return sum(tensor.nbytes for tensor in [*targets.content.values(), *targets.grams.values()])


def fingerprint(image: Tensor) -> str:
    """What tells one image from another: its shape, device and pixels."""
    pixels = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()
    return f"{tuple(image.shape)} {image.device} {pixels}"
