"""What each style loss measures at a tap, and how far a measurement is from its target.

A statistic is one tensor. Those that are means over positions (:attr:`StyleTerm.additive`) are all that tiles,
processes and several styles need to know: they add them up, weighted, and the loss follows from the result. The others
are the features of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nst_fast.objective import losses
from nst_fast.objective.gaussians import moments, moments_loss, target_root, wasserstein_loss
from nst_fast.objective.guides import StylePart
from nst_fast.objective.samples import Nearest, RelaxedTransport, Sliced, directions, sampled
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import SAMPLES, StyleTerm

# A statistic [B, ...] and h * w of the tap in the pastiche to the loss [B], without the term's weight.
Distance = Callable[[Tensor, float], Tensor]

# What each loss is multiplied by, so that the style weights that suit Grams suit it.
SCALES = {"moments": 0.4, "wasserstein": 1.5, "sliced": 2.5, "histogram": 2.5, "nearest": 1.0, "remd": 1.0}


def statistic_size(term: StyleTerm, channels: int) -> tuple[int, int]:
    """The shape, without that of the batch, of an additive statistic."""
    return channels, channels + (term.statistic == "moments")


def measure_style(term: StyleTerm, features: Tensor, weights: Tensor | None = None) -> Tensor:
    """The statistic [B, ...] of a term's features [B, C, H, W].

    ``weights`` [1, 1, H, W]: how much each position counts, where the statistic is additive.
    """
    if term.statistic == "samples":
        return features
    weights = weights.to(features.dtype) if weights is not None else None
    return moments(features, weights) if term.statistic == "moments" else losses.gram_matrix(features, weights)


def measure_target(term: StyleTerm, features: Tensor, weights: Tensor | None, share: float) -> Tensor:
    """What of a style image's features [B, C, H, W] becomes part of the target, of which the style has a share.

    ``weights`` as for :func:`measure_style`.
    """
    if term.additive:
        return measure_style(term, features, weights)
    positions = features.shape[2] * features.shape[3]
    return sampled(features, round(share * SAMPLES[term.loss]) if share < 1 else min(SAMPLES[term.loss], positions))


def blended(
    options: ObjectiveOptions, parts: Sequence[StylePart], measured: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """One target from what was measured of several styles, per term: that of their mixture.

    A style may lack some of the terms, those of other regions. The weighted sum of squared distances to several Grams
    differs from the squared distance to their weighted mean by a constant, so both have the same gradient (for
    normalisations that do not depend on the target).
    """
    terms = {name: term for part in parts for name, term in part.guides.terms(options).items()}
    found = {}
    for name, term in terms.items():
        having = [(part, each[name]) for part, each in zip(parts, measured, strict=True) if name in each]
        if term.additive:
            weights = [part.weight * part.guides.factors[term.region] for part, _ in having]
            shares = [weight / sum(weights) for weight in weights]
            found[name] = torch.stack([share * each for share, (_, each) in zip(shares, having, strict=True)]).sum(0)
        else:
            found[name] = torch.cat([each for _, each in having], 2)
    return found


def distance_to(term: StyleTerm, target: Tensor, options: ObjectiveOptions) -> Distance:
    """The loss of a term as a function of the statistic; what depends on the target alone is computed here, once."""
    if term.loss == "gram":
        return GramDistance(target, options)
    if term.loss == "moments":
        return lambda statistic, positions: SCALES["moments"] * moments_loss(statistic, target)
    if term.loss == "wasserstein":
        root = target_root(target)
        return lambda statistic, positions: SCALES["wasserstein"] * wasserstein_loss(statistic, target, root)
    return SampledDistance(term, target)


class GramDistance:
    """:func:`losses.style_loss` to a target, as a :data:`Distance`; its derivative is written out.

    Autograd needs three times as many operators for it, which on a GPU take longer to start than to run.
    """

    def __init__(self, target: Tensor, options: ObjectiveOptions) -> None:
        self.target, self.options = target, options
        self.energy = losses.above_zero(target.square().sum((1, 2)))

    def __call__(self, gram: Tensor, positions: float) -> Tensor:
        return self._normalized((gram - self.target).square().sum((1, 2)), positions)

    def derivative(self, gram: Tensor, positions: float, weight: float) -> tuple[Tensor, Tensor]:
        """``weight`` times the loss [B], and the derivative of that by ``gram`` [B, C, C]."""
        difference = gram - self.target
        loss = weight * self._normalized(difference.square().sum((1, 2)), positions)
        slope = self._normalized(torch.full_like(loss, weight), positions)
        return loss, 2 * difference * slope[:, None, None]

    def _normalized(self, squares: Tensor, positions: float) -> Tensor:
        options, channels = self.options, self.target.shape[1]
        factor = losses.gram_factor(options.gram_normalization, channels, positions)
        return losses.style_normalized(squares, self.energy, options.style_normalization, factor, channels, positions)


class SampledDistance:
    """The loss of a term whose statistic are the features, as a :data:`Distance`."""

    def __init__(self, term: StyleTerm, target: Tensor) -> None:
        self.scale, self.drawn = SCALES[term.loss], term.loss == "sliced"
        if self.drawn:
            self.loss: Sliced | Nearest = Sliced(target, directions(target.shape[1], target))
        elif term.loss == "histogram":
            self.loss = Sliced(target, torch.eye(target.shape[1]).to(target))
        else:
            self.loss = Nearest(target) if term.loss == "nearest" else RelaxedTransport(target)

    def __call__(self, features: Tensor, positions: float) -> Tensor:
        return self.scale * self.loss(features)

    def draw(self, seed: int, step: int) -> None:
        """The directions of a step, where there are any."""
        if self.drawn and isinstance(self.loss, Sliced):
            along = self.loss.along
            self.loss.turn(directions(along.shape[1], along, [seed, step]))
