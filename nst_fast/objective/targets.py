"""Targets that several runs share: measured once for the same encoder, taps and pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from nst_fast.network.vgg import Encoder
from nst_fast.objective.guides import Guides, fingerprint
from nst_fast.objective.objective import Statistics, build_targets, edges_of
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import SAMPLES

KEPT_BYTES = 2**28  # the content targets of large pictures take gigabytes; those are built again instead


class TargetCache:
    """The targets used last, content and style apart, by what decides them. ``built`` counts those measured."""

    def __init__(self) -> None:
        self.built = 0
        self._kept: OrderedDict[tuple[Hashable, ...], Statistics] = OrderedDict()

    def build(
        self,
        encoder: Encoder,
        options: ObjectiveOptions,
        content_image: Tensor | None,
        style_images: Sequence[Tensor],
        style_weights: Sequence[float] | None = None,
        style_guides: Sequence[Guides] | None = None,
    ) -> Statistics:
        """As :func:`build_targets`; the encoder counts as another one when it is another object."""
        content = style = Statistics({}, {}, {})
        key: tuple[Hashable, ...]
        if options.content_tap_weights and content_image is not None:
            key = ("content", encoder, tuple(options.content_tap_weights), fingerprint(content_image))
            content = self._found(key, lambda: build_targets(encoder, options, content_image, ()))
        if options.style_terms and style_images:
            images = tuple(map(fingerprint, style_images))
            masks = tuple(each.fingerprint for each in style_guides or ())
            terms = [
                (term.name, term.tap, term.statistic, SAMPLES.get(term.loss)) for term in options.style_terms.values()
            ]
            key = ("style", encoder, tuple(terms), images, tuple(style_weights or ()), masks)
            style = self._found(
                key, lambda: build_targets(encoder, options, None, style_images, style_weights, style_guides)
            )
        return Statistics(content.content, style.style, {}, edges_of(options, content_image))

    def _found(self, key: tuple[Hashable, ...], build: Callable[[], Statistics]) -> Statistics:
        found = self._kept.pop(key, None)
        if found is None:
            found = build()
            self.built += 1
        self._kept[key] = found
        while sum(map(size_of, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return found


def size_of(targets: Statistics) -> int:
    """Bytes that the tensors of targets take."""
    return sum(tensor.nbytes for tensor in [*targets.content.values(), *targets.style.values()])
