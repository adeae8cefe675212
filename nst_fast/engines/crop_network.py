"""What tiled evaluation needs of an engine: features of a crop without a graph, and the gradient with respect to it.

The network does not depend on losses, halos or own cells: the evaluator adds, tap by tap, the derivative of the total
with respect to that tap's features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from nst_fast.network.taps import layer_names
from nst_fast.network.vgg import Encoder

# (tap, its features [B, C, h, w], the gradient from the taps above it, None at the deepest) -> that gradient plus the
# derivative of the total with respect to the features, in place where possible; shape and dtype of the features.
Seed = Callable[[str, Tensor, Tensor | None], Tensor]
# From the seeds to the gradient with respect to the crop; may be called once.
Backward = Callable[[Seed], Tensor]


class CropNetwork(Protocol):
    """The two operations on one crop [B, 3, h, w] of the picture."""

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        """Tap -> features [B, C, h', w'] in the engine's precision and layout, without a graph."""
        ...

    def vjp(self, image: Tensor) -> tuple[dict[str, Tensor], Backward]:
        """The features, and the backward pass from them: one forward pass for both.

        The backward pass calls the seed once for every tap, the deepest first, when it arrives there, so that no two
        seeds are in memory together. It returns [B, 3, h, w] in the crop's dtype. To save memory, drop the features
        before.
        """
        ...


class EagerNetwork:
    """Autograd through the encoder; the seeds of inner taps are added by hooks."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        order = layer_names(encoder.network)
        self.taps = sorted(encoder.taps, key=order.index, reverse=True)  # the deepest first

    @torch.no_grad()
    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        return self.encoder(image)  # type: ignore[no-any-return]  # a module call has no type

    def vjp(self, image: Tensor) -> tuple[dict[str, Tensor], Backward]:
        image = image.detach().requires_grad_(True)
        with torch.enable_grad():
            features = dict(self.encoder(image))
        # Aliases without a graph: a hook that refers to its own tensor would be a cycle, which only the garbage
        # collector frees. Each is dropped after its use.
        held = {tap: features[tap].detach() for tap in self.taps}

        def backward(seed: Seed) -> Tensor:
            deepest, *inner = self.taps
            for tap in inner:
                features[tap].register_hook(lambda gradient, tap=tap: seed(tap, held.pop(tap), gradient.clone()))
            last = features.pop(deepest)
            features.clear()
            (found,) = torch.autograd.grad(last, image, seed(deepest, held.pop(deepest), None))
            return found

        return dict(held), backward
