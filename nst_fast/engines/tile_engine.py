"""What the tiled evaluator asks of an engine: features without a graph, and the gradient of a crop for given seeds.

An engine that offers these two operations can be tiled. It needs to know nothing of losses, halos or own cells: the
tiled evaluator hands it, tap by tap, the derivative of the total with respect to that tap's features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from nst_fast.network.taps import layer_names
from nst_fast.network.vgg import Encoder

# (tap, its features [B, C, h, w], the gradient that has come up to it, None at the deepest tap) -> that gradient with
# the derivative of the total by the features added, in place where there was one; shape and dtype of the features.
Seed = Callable[[str, Tensor, Tensor | None], Tensor]
# The way back of a forward pass whose activations were kept: a seed to the gradient with respect to the crop.
WayBack = Callable[[Seed], Tensor]


class TileEngine(Protocol):
    """The two operations on one crop [B, 3, h, w] of the picture."""

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        """Tap -> features [B, C, h', w'] in the engine's precision and layout, without a graph."""
        ...

    def gradient(self, image: Tensor, seed: Seed) -> Tensor:
        """The gradient with respect to the crop, [B, 3, h, w] in the crop's dtype.

        ``seed`` is called once for every tap, the deepest first, at the moment the backward pass arrives there, so
        that no two seeds need to be in memory together.
        """
        ...

    def open(self, image: Tensor) -> tuple[dict[str, Tensor], WayBack]:
        """The features, and what :meth:`gradient` does from there: one forward pass for both, all of it kept.

        The way can be gone once. The features are the caller's to let go of before that.
        """
        ...


class EagerTileEngine:
    """Autograd through the encoder as it stands; the seeds of inner taps are added by hooks."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        order = layer_names(encoder.network)
        self.taps = sorted(encoder.taps, key=order.index, reverse=True)  # the deepest first

    @torch.no_grad()
    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        return self.encoder(image)  # type: ignore[no-any-return]

    def gradient(self, image: Tensor, seed: Seed) -> Tensor:
        return self.open(image)[1](seed)

    def open(self, image: Tensor) -> tuple[dict[str, Tensor], WayBack]:
        image = image.detach().requires_grad_(True)
        with torch.enable_grad():
            features = dict(self.encoder(image))
        # Aliases without a graph: a hook that held the tensor it hangs on would be a cycle, freed only by the
        # garbage collector, and each is let go as soon as it was used.
        held = {tap: features[tap].detach() for tap in self.taps}

        def back(seed: Seed) -> Tensor:
            deepest, *inner = self.taps
            for tap in inner:
                features[tap].register_hook(lambda gradient, tap=tap: seed(tap, held.pop(tap), gradient.clone()))
            last = features.pop(deepest)
            features.clear()
            (found,) = torch.autograd.grad(last, image, seed(deepest, held.pop(deepest), None))
            return found

        return dict(held), back
