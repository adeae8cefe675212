"""Losses that compare features position by position, and so need a whole picture.

Of the picture every position counts; of the style a sample of its positions does. Each loss first finds, without a
gradient, what every position (or sample) is compared with, and then is a plain function of features: at ties and
where an assignment changes the losses have kinks, elsewhere this is their gradient.

Sources: Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis" (arXiv:2006.07229), equation 2;
Risser, Wilmot & Barnes 2017, "Stable and Controllable Neural Texture Synthesis and Style Transfer Using Histogram
Losses" (arXiv:1701.08893), equation 5; Zhang et al. 2022, "ARF" (arXiv:2206.06360), equation 1, for the nearest
neighbours of CNNMRF (Li & Wand 2016, arXiv:1601.04589) without patches; Kolkin, Salavon & Shakhnarovich 2019
(arXiv:1904.12785), equations 5 and 6 for the relaxed earth mover's distance, 8 for self-similarity.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096  # positions whose similarities to all samples are in memory at once
SHORTEST = 0.03  # features shorter than this fraction of the style's are divided by it, not by their own length
GRID = 1024  # positions of self-similarity, whose memory and time grow with their square
SMALLEST = 1e-30


def sampled(features: Tensor, count: int) -> Tensor:
    """Features [B, C, H, W] of ``count`` positions, [B, C, count]: one from each of as many equal runs of positions.

    Where there are fewer positions each is taken equally often. Always the same ones, of the same size.
    """
    rows = features.flatten(2)
    found: Tensor = rows[:, :, _chosen(count, rows.shape[2], rows.device)]
    return found


@functools.lru_cache(maxsize=64)  # also because nothing can be copied to a GPU while a CUDA graph is captured
def _chosen(count: int, positions: int, device: torch.device) -> Tensor:
    """Which of the positions :func:`sampled` takes [count]."""
    within = torch.zeros(count, dtype=torch.float64)
    if count < positions:
        within = torch.rand(count, generator=torch.Generator().manual_seed(positions), dtype=torch.float64)
    chosen = ((torch.arange(count, dtype=torch.float64) + within) * positions / count).long()
    return chosen.clamp_max(positions - 1).to(device)


def directions(channels: int, like: Tensor, entropy: Sequence[int] = ()) -> Tensor:
    """Orthonormal directions [C, C], random and always the same for the same ``entropy``, numbers of at least 0."""
    seed = int(np.random.SeedSequence([*entropy, channels]).generate_state(1)[0]) if entropy else channels
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(random)[0]
    return basis.to(like)


def quantiles(ordered: Tensor, count: int) -> Tensor:
    """Sorted samples [B, K, N] of levels (j + 1/2) / N, at the levels (i + 1/2) / ``count``, linear between."""
    samples = ordered.shape[2]
    if samples == count:
        return ordered
    at = ((torch.arange(count, dtype=torch.float64) + 0.5) * (samples / count) - 0.5).clamp(0, samples - 1)
    low = at.long()
    share = (at - low).to(ordered)
    low = low.to(ordered.device)
    high = (low + 1).clamp_max(samples - 1)
    if ordered.device.type != "cpu":
        return torch.lerp(ordered[:, :, low], ordered[:, :, high], share)
    found = ordered.new_empty(*ordered.shape[:2], count)
    for row, between in zip(ordered.flatten(0, 1), found.flatten(0, 1), strict=True):  # a row stays in the cache
        torch.lerp(row.index_select(0, low), row.index_select(0, high), share, out=between)
    return found


def ascending(values: Tensor) -> Tensor:
    """Values [B, K, N], each row sorted; NumPy's sort takes a twentieth of the time of PyTorch's."""
    return values.sort(2)[0] if values.device.type != "cpu" else torch.from_numpy(np.sort(values.numpy(), axis=2))


class Sliced:
    """The sliced Wasserstein distance to samples [B, C, N] of a style: Heitz et al. 2021, equation 2.

    sum over directions k of mean (q_k - s_k)² / E|f_s|², q_k and s_k the sorted projections of picture and style.
    Differs from Heitz et al., whose directions are independent, and new at every step: here they are an orthonormal
    basis, and as long as :meth:`turn` is not called the objective is one function, which L-BFGS needs.
    ``along``: directions [C, C]; the axes, for a distance of histograms (Risser et al. 2017, equation 5).
    """

    def __init__(self, target: Tensor, along: Tensor) -> None:
        self.target, self.along = target, along
        self.ordered = ascending(along @ target)
        self.energy = target.square().sum(1).mean(1) + SMALLEST
        self.levels = self.ordered  # at as many levels as the last picture had positions

    def turn(self, along: Tensor) -> None:
        """Project along other directions from now on. What a CUDA graph reads stays where it is."""
        self.along.copy_(along)
        self.ordered.copy_(ascending(along @ self.target))
        if self.levels is not self.ordered:
            self.levels.copy_(quantiles(self.ordered, self.levels.shape[2]))

    def __call__(self, features: Tensor) -> Tensor:
        rows = features.flatten(2)
        if self.levels.shape[2] != rows.shape[2]:
            self.levels = quantiles(self.ordered, rows.shape[2])
        distance: Tensor = _SlicedDistance.apply(rows, self.along, self.levels)
        return distance / self.energy


class _SlicedDistance(torch.autograd.Function):
    """Of rows [B, C, M]: sum over k, i of (p_k(i) - s_k(i))² / M, p the projections and s what each is moved to.

    Which level a projection is moved to is constant around it, so the derivative by p_k(i) is 2 (p_k(i) - s_k(i)) / M.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, along: Tensor, levels: Tensor) -> Tensor:
        moves = less_levels(along @ rows, levels)  # [B, K, M]
        ctx.save_for_backward(moves, along)
        distance: Tensor = torch.linalg.vector_norm(moves, dim=(1, 2)).square() / rows.shape[2]
        return distance

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        moves, along = ctx.saved_tensors
        # As products of positions and channels, which is how features are laid out in memory.
        factor = 2 / moves.shape[2] * slopes[0][:, None, None]
        return (moves.transpose(1, 2) @ (along * factor)).transpose(1, 2), None, None


def less_levels(values: Tensor, levels: Tensor) -> Tensor:
    """Each of values [B, K, M] less what it is moved to: the smallest of a row to the first of ``levels``, and so on.

    ``levels`` [1 or B, K, M] ascend. The values are overwritten.
    """
    if values.dtype == torch.float32 and values.device.type == "cpu":
        from nst_fast.objective.transport import subtract_levels  # and with it Numba

        subtract_levels(values, levels)
        return values
    wanted = torch.empty_like(values).scatter_(2, values.argsort(2), levels.expand_as(values))
    return values.sub_(wanted)


class Nearest:
    """The mean cosine distance to the nearest of a style's samples [B, C, N]: Zhang et al. 2022, equation 1.

    mean over positions i of min over samples j of 1 - cos(f_i, s_j).
    """

    def __init__(self, target: Tensor) -> None:
        self.shortest = shortest(target)
        self.samples = unit(target.transpose(1, 2), self.shortest)

    def __call__(self, features: Tensor) -> Tensor:
        cosine: Tensor = _NearestCosine.apply(by_position(features), self.samples, self.shortest)
        return 1 - cosine


class RelaxedTransport(Nearest):
    """The relaxed earth mover's distance of Kolkin et al. 2019, equations 5 and 6, [B].

    The larger of two means of cosine distances: from every position to the nearest sample, and the reverse.
    """

    def __call__(self, features: Tensor) -> Tensor:
        rows = by_position(features)
        nearest = unit(picked(rows, nearest_of(rows.detach(), self.samples, self.shortest)), self.shortest)
        return torch.maximum(super().__call__(features), 1 - (nearest * self.samples).sum(2).mean(1))


class _NearestCosine(torch.autograd.Function):
    """The mean [B] over rows f [B, M, C] of the largest cosine to samples s [B, N, C] of length 1.

    The derivative of a cosine c = f·s / |f| by f is (s - c f / |f|) / |f|. It is written piece by piece: what autograd
    keeps of the same formula takes the memory of a dozen copies of the features.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, samples: Tensor, least: Tensor) -> Tensor:
        columns, matches, cosines, lengths = samples.transpose(1, 2), [], [], []
        similar = rows.new_empty(len(rows), CHUNK, samples.shape[1])  # one buffer: the heap would be full of holes
        for part in torch.split(rows, CHUNK, 1):
            matches.append(largest(torch.bmm(part, columns, out=similar[:, : part.shape[1]])))
            lengths.append(lengths_of(part, least))
            cosines.append((part * picked(samples, matches[-1])).sum(2, keepdim=True) / lengths[-1])
        ctx.save_for_backward(rows, samples, least, torch.cat(matches, 1), torch.cat(cosines, 1), torch.cat(lengths, 1))
        return torch.cat(cosines, 1).mean((1, 2))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        rows, samples, least, matches, cosines, lengths = ctx.saved_tensors
        factor = slopes[0][:, None, None] / rows.shape[1] / lengths
        along = torch.where(lengths > least, factor * cosines / lengths, torch.zeros_like(factor))
        gradient = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        for start in range(0, rows.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            by_part = gradient[:, part]
            torch.mul(picked(samples, matches[:, part]), factor[:, part], out=by_part)
            by_part.addcmul_(rows[:, part], along[:, part], value=-1)
        return gradient, None, None


def by_position(features: Tensor) -> Tensor:
    """Features [B, C, H, W] as [B, M, C]."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def shortest(target: Tensor) -> Tensor:
    """The length [B, 1, 1] below which features are short, of those of a style [B, C, N]; see :data:`SHORTEST`."""
    return SHORTEST * target.square().sum(1, keepdim=True).mean(2, keepdim=True).sqrt() + SMALLEST


def lengths_of(rows: Tensor, least: Tensor) -> Tensor:
    """The lengths [B, M, 1] of rows [B, M, C], at least ``least``."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return lengths.clamp_min(least)


def unit(rows: Tensor, least: Tensor) -> Tensor:
    """Features [B, M, C] divided by their lengths, or by ``least``."""
    return rows / lengths_of(rows, least)


def picked(rows: Tensor, match: Tensor) -> Tensor:
    """Of rows [B, N, C] those that ``match`` [B, M] names, [B, M, C]."""
    first = rows.shape[1] * torch.arange(len(rows), device=match.device)[:, None]
    found = rows.flatten(0, 1).index_select(0, (first + match).flatten())
    return found.view(*match.shape, rows.shape[2])


@torch.no_grad()
def nearest_of(rows: Tensor, samples: Tensor, least: Tensor) -> Tensor:
    """For every one of samples [B, N, C] of length 1 the most similar of rows [B, M, C], by cosine, [B, N].

    Not all similarities are in memory at once.
    """
    found, best = [], []
    similar = rows.new_empty(len(rows), samples.shape[1], CHUNK)  # one buffer: the heap would be full of holes
    for index, part in enumerate(torch.split(rows, CHUNK, 1)):
        closeness = similar.view(len(rows), -1)[:, : samples.shape[1] * part.shape[1]]
        closeness = closeness.view(len(rows), samples.shape[1], part.shape[1])
        at = largest(torch.bmm(samples, unit(part, least).transpose(1, 2), out=closeness))
        found.append(at + index * CHUNK)
        best.append(closeness.gather(2, at[:, :, None])[:, :, 0])
    first = torch.stack(best).argmax(0, keepdim=True)
    return torch.stack(found).gather(0, first)[0]


def largest(values: Tensor) -> Tensor:
    """The index [B, R] of the largest of every row of [B, R, N]; NumPy's is five times as fast as PyTorch's."""
    return values.argmax(2) if values.device.type != "cpu" else torch.from_numpy(values.numpy().argmax(2))


class SelfSimilarity:
    """How far the distances between positions are from those of the content [B, C, h, w]: Kolkin et al., equation 8.

    mean over j of sum over i of |D_ij / sum_i D_ij - the same of the content|, D the cosine distances of at most
    :data:`GRID` positions. Differs from Kolkin et al. by a factor: they divide by the square of their number.
    """

    def __init__(self, target: Tensor) -> None:
        self.count = min(GRID, target.shape[2] * target.shape[3])
        rows = sampled(target, self.count)
        self.shortest = shortest(rows)
        self.shares = self._shares(rows)

    def __call__(self, features: Tensor) -> Tensor:
        return (self._shares(sampled(features, self.count)) - self.shares).abs().sum(1).mean(1)

    def _shares(self, rows: Tensor) -> Tensor:
        rows = unit(rows.transpose(1, 2), self.shortest)
        distances = 1 - rows @ rows.transpose(1, 2)
        return distances / (distances.sum(1, keepdim=True) + SMALLEST)
