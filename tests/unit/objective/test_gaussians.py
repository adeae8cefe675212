from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nst_fast.objective.gaussians import (
    PRODUCT_SPREAD,
    TARGET_SPREAD,
    eye,
    moments,
    moments_loss,
    ridge,
    roots,
    schedule,
    split,
    target_root,
    trace,
    trace_of_root,
    wasserstein_loss,
)


def features(seed: int, channels: int = 24, side: int = 30, batch: int = 1) -> Tensor:
    """As of a ReLU: correlated, of unlike strength, and one channel that never fires."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
    found = torch.randn(batch, channels, side * side, dtype=torch.float64, generator=generator)
    strong = torch.logspace(-1.5, 1, channels, dtype=torch.float64)[:, None]
    found = ((mixed @ found) * strong).relu()
    found[:, channels // 2] = 0
    return found.view(batch, channels, side, side)


def matrix_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.sqrt()) @ vectors.transpose(1, 2)


def plain_wasserstein(statistic: Tensor, target: Tensor) -> Tensor:
    """The distance by eigenvalues, for autograd to differentiate."""
    (mean, covariance, _), (of_style, style_covariance, energy) = split(statistic), split(target)
    noise = ridge(target) * eye(covariance)
    root = matrix_root(style_covariance + noise)
    shared = torch.linalg.eigvalsh(root @ (covariance + noise) @ root).sqrt().sum(1)
    spread = trace(covariance + style_covariance + 2 * noise) - 2 * shared
    return ((mean - of_style).square().sum(1) + spread) / energy


def test_mean_and_covariance_are_those_of_all_positions() -> None:
    given = features(1, batch=2)
    mean, covariance, energy = split(moments(given))
    for index in range(2):
        rows = given[index].flatten(1)
        torch.testing.assert_close(mean[index], rows.mean(1))
        torch.testing.assert_close(covariance[index], torch.cov(rows, correction=0))
        torch.testing.assert_close(energy[index], rows.square().sum(0).mean())


def test_moments_are_compared_relative_to_those_of_the_style() -> None:
    own, style = features(1), features(2)
    rows, target = own.flatten(2)[0], style.flatten(2)[0]
    means = (rows.mean(1) - target.mean(1)).square().sum() / target.mean(1).square().sum()
    covariances = [torch.cov(each, correction=0) for each in (rows, target)]
    expected = means + (covariances[0] - covariances[1]).square().sum() / covariances[1].square().sum()
    torch.testing.assert_close(moments_loss(moments(own), moments(style))[0], expected)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_wasserstein_distance_and_gradient_are_those_by_eigenvalues(scale: float) -> None:
    statistic, target = moments(scale * features(1, batch=2)).requires_grad_(True), moments(features(2, batch=2))
    found = wasserstein_loss(statistic, target, target_root(target))
    expected = plain_wasserstein(statistic, target)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    (slope,), (plain,) = (torch.autograd.grad(each.sum(), statistic) for each in (found, expected))
    torch.testing.assert_close(slope, plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item())


def test_wasserstein_distance_of_known_gaussians() -> None:
    """Of independent channels: the sum of squared differences of means and of deviations."""
    deviations, others = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.5, 1.0]).double()

    def statistic(mean: Tensor, deviation: Tensor) -> Tensor:
        gram = torch.diag(deviation**2) + mean[:, None] * mean
        return torch.cat([gram, mean[:, None]], 1)[None]

    means = torch.tensor([0.5, 1.0, -1.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    own, target = statistic(means[0], deviations), statistic(means[1], others)
    noise = ridge(target).item()
    deviations, others = (deviations**2 + noise).sqrt(), (others**2 + noise).sqrt()
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations - others) ** 2).sum()
    energy = target[0, :, :-1].trace()
    torch.testing.assert_close(wasserstein_loss(own, target, target_root(target))[0], expected / energy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distance_to_itself_is_rounding(dtype: torch.dtype) -> None:
    statistic = moments(features(3).to(dtype)).requires_grad_(True)
    distance = wasserstein_loss(statistic, statistic.detach(), target_root(statistic.detach()))
    (slope,) = torch.autograd.grad(distance.sum(), statistic)
    rounding = 1e3 * torch.finfo(dtype).eps
    assert abs(distance.item()) < rounding
    # Times the statistic: where features are near zero the slope is of a ratio of roundings, and moves nothing.
    assert (slope[:, :, :-1] @ statistic[:, :, :-1]).abs().max() < rounding


def test_an_all_dark_style_gives_no_division_by_zero() -> None:
    dark = moments(torch.zeros(1, 8, 4, 4))
    for loss in (moments_loss, lambda own, target: wasserstein_loss(own, target, target_root(target))):
        statistic = dark.clone().requires_grad_(True)
        value = loss(statistic, dark)
        (slope,) = torch.autograd.grad(value.sum(), statistic)
        assert torch.isfinite(value).all() and torch.isfinite(slope).all()


@pytest.mark.parametrize("smallest", [TARGET_SPREAD, PRODUCT_SPREAD])
def test_roots_of_badly_conditioned_matrices(smallest: float) -> None:
    values = torch.logspace(2 * torch.log10(torch.tensor(1.5 * smallest)).item(), 0, 16, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    matrix = (7 * (basis * values) @ basis.T)[None]
    root, inverse = roots(matrix, schedule(smallest, 8))
    torch.testing.assert_close(root, matrix_root(matrix), rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse @ root, torch.eye(16, dtype=torch.float64)[None], rtol=0, atol=1e-6)
    torch.testing.assert_close(trace_of_root(matrix)[0], (7 * values).sqrt().sum(), rtol=1e-12, atol=0)
