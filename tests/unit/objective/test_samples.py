from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nst_fast.objective import samples
from nst_fast.objective.samples import (
    Nearest,
    RelaxedTransport,
    SelfSimilarity,
    Sliced,
    directions,
    less_levels,
    quantiles,
    sampled,
)


def features(seed: int, height: int = 9, width: int = 14, channels: int = 6, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator) + 0.3


def rows(given: Tensor) -> Tensor:
    return given.flatten(2)


def agree(loss: samples.Sliced | samples.Nearest | samples.SelfSimilarity, plain: object, given: Tensor) -> None:
    """Value and gradient are those of the plain formula, which autograd differentiates."""
    one, other = (given.clone().requires_grad_(True) for _ in range(2))
    found, expected = loss(one), plain(other)  # type: ignore[operator]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    weights = torch.tensor([1.0, 3.0], dtype=given.dtype)
    slopes = [
        torch.autograd.grad((weights * value).sum(), leaf)[0] for value, leaf in ((found, one), (expected, other))
    ]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("style_size", [(9, 14), (5, 8), (20, 21)])
def test_sliced_wasserstein_is_the_distance_of_sorted_projections(style_size: tuple[int, int]) -> None:
    style, along = rows(features(2, *style_size)), directions(6, torch.zeros(1, dtype=torch.float64))

    def plain(given: Tensor) -> Tensor:
        own = torch.sort(along @ rows(given), 2)[0]
        wanted = quantiles(torch.sort(along @ style, 2)[0], own.shape[2])
        return (own - wanted).square().sum(1).mean(1) / style.square().sum(1).mean(1)

    agree(Sliced(style, along), plain, features(1))


def test_directions_are_orthonormal_and_always_the_same() -> None:
    basis = directions(16, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(16, dtype=torch.float64))
    assert torch.equal(basis, directions(16, basis))


@pytest.mark.parametrize("style_size", [(9, 14), (5, 8)])
def test_turned_directions_are_those_of_a_loss_made_with_them(style_size: tuple[int, int]) -> None:
    style, like = rows(features(2, *style_size)), torch.zeros(1, dtype=torch.float64)
    other, again = (directions(6, like, [7, step]) for step in (3, 4))
    assert not torch.equal(other, again) and torch.equal(other, directions(6, like, [7, 3]))
    turned = Sliced(style, directions(6, like))
    first, address = turned(features(1)), turned.levels.data_ptr()
    turned.turn(other)
    assert torch.equal(turned(features(1)), Sliced(style, other)(features(1)))
    assert not torch.equal(turned(features(1)), first)
    assert turned.levels.data_ptr() == address


def test_quantiles_of_a_line_are_on_the_line() -> None:
    line = torch.linspace(0, 1, 101, dtype=torch.float64)[None, None]
    found = quantiles(line, 37)[0, 0]
    torch.testing.assert_close(found[18].item(), 0.5)
    assert bool((found.diff() > 0).all())
    assert quantiles(line, 101) is line


def test_quantiles_of_another_number_of_positions_lie_between_the_samples() -> None:
    rows = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    assert quantiles(rows, 2).tolist() == [[[0.5, 2.5]]]
    assert quantiles(rows, 8).tolist() == [[[0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]]]
    assert quantiles(rows[:, :, :1], 3).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("count", [1, 7, 1000, 20_000])
def test_every_level_is_taken_once_in_the_order_of_values(count: int) -> None:
    """On a CPU in float32, where bins are narrower than 1: whole numbers are in order."""
    values = torch.randint(-2000, 2000, (2, 3, count), generator=torch.Generator().manual_seed(count)).float()
    values[:, :, ::5] = 0.0
    values[:, :, ::10] = -0.0
    values[:, 1] = 7.0
    levels = torch.arange(count).expand(1, 3, -1).float() - 3
    found = values - less_levels(values.clone(), levels)
    torch.testing.assert_close(found.sort(2)[0], levels.expand(2, -1, -1), rtol=0, atol=0)
    for value, rank in zip(values.flatten(0, 1), found.flatten(0, 1), strict=True):
        assert bool((value[rank.argsort()].diff() >= 0).all())
    torch.testing.assert_close(found[:, 1], levels[:, 1].expand(2, -1))  # ties


def test_levels_of_a_batch_are_each_pictures_own() -> None:
    values = torch.tensor([[[3.0, 1.0, 2.0]], [[3.0, 1.0, 2.0]]])
    levels = torch.tensor([[[10.0, 20.0, 30.0]], [[0.0, 5.0, 6.0]]])
    found = values - less_levels(values.clone(), levels)
    assert found.tolist() == [[[30.0, 10.0, 20.0]], [[6.0, 0.0, 5.0]]]


def test_a_value_that_is_no_number_stays_one_and_spoils_no_other_row() -> None:
    values = torch.randn(1, 3, 500, generator=torch.Generator().manual_seed(0))
    levels, whole = values.sort(2)[0], less_levels(values.clone(), values.sort(2)[0])
    values[0, 1, ::7] = torch.nan
    values[0, 1, 3] = torch.inf
    found = less_levels(values.clone(), levels)
    assert bool(found[0, 1, ::7].isnan().all())
    assert torch.equal(found[:, ::2], whole[:, ::2])


@pytest.mark.parametrize("chunk", [5, 4096])
def test_nearest_is_the_mean_of_the_smallest_cosine_distances(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK", chunk)
    style = rows(features(2))[:, :, ::3]

    def distances(given: Tensor) -> Tensor:
        own, theirs = (each / each.norm(dim=1, keepdim=True) for each in (rows(given), style))
        return 1 - own.transpose(1, 2) @ theirs

    agree(Nearest(style), lambda given: distances(given).amin(2).mean(1), features(1))

    def relaxed(given: Tensor) -> Tensor:
        found = distances(given)
        return torch.maximum(found.amin(2).mean(1), found.amin(1).mean(1))

    agree(RelaxedTransport(style), relaxed, features(1))
    agree(RelaxedTransport(style), relaxed, features(1) + torch.tensor([4.0, 0, 0, 0, 0, 0])[:, None, None])


def test_features_near_zero_have_a_gradient_that_is_no_larger_than_others() -> None:
    style, given = rows(features(2)), features(1)
    given[:, :, 0, 0] *= 1e-9
    given[:, :, 0, 1] = 0
    given.requires_grad_(True)
    (slope,) = torch.autograd.grad(Nearest(style)(given).sum(), given)
    lengths = slope.norm(dim=1)
    assert bool(torch.isfinite(slope).all())
    assert lengths[:, 0, :2].max() < 100 * lengths.median()


def test_self_similarity_compares_shares_of_distances_and_not_features(monkeypatch: pytest.MonkeyPatch) -> None:
    content = features(2)

    def shares(given: Tensor) -> Tensor:
        unit = rows(given) / rows(given).norm(dim=1, keepdim=True)
        distances = 1 - unit.transpose(1, 2) @ unit
        return distances / distances.sum(1, keepdim=True)

    loss = SelfSimilarity(content)
    agree(loss, lambda given: (shares(given) - shares(content)).abs().sum(1).mean(1), features(1))
    assert loss(content).max() < 1e-12
    assert loss(3 * content).max() < 1e-12
    monkeypatch.setattr(samples, "GRID", 50)
    assert SelfSimilarity(content).shares.shape == (2, 50, 50)


def test_a_sample_has_one_position_of_every_run_and_is_always_the_same() -> None:
    count = torch.arange(103.0)[None, None, None]
    found = sampled(count, 10)[0, 0]
    assert torch.equal(found, sampled(count, 10)[0, 0])
    assert bool((found >= torch.arange(10) * 10.3 - 1).all() and (found < torch.arange(1, 11) * 10.3).all())
    more = sampled(count[..., :4], 10)[0, 0].long()
    assert torch.bincount(more).tolist() == [3, 2, 3, 2]
