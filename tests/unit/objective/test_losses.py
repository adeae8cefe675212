from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_fast.images.matching import gray, luminance
from nst_fast.objective import losses

DOUBLE = torch.float64


def features(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, height, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7))
def test_gram_matrix_is_the_mean_outer_product_of_positions(channels: int, height: int, width: int) -> None:
    given_features = features(channels, height, width)
    expected = torch.zeros(2, channels, channels, dtype=DOUBLE)
    for row in range(height):
        for column in range(width):
            cell = given_features[:, :, row, column]
            expected += cell[:, :, None] * cell[:, None, :]
    torch.testing.assert_close(losses.gram_matrix(given_features), expected / (height * width))


def test_gram_matrix_is_symmetric_and_does_not_depend_on_the_size_of_a_repeated_picture() -> None:
    small = features(3, 4, 5)
    gram = losses.gram_matrix(small)
    torch.testing.assert_close(gram, gram.transpose(1, 2))
    torch.testing.assert_close(losses.gram_matrix(small.repeat(1, 1, 3, 2)), gram)


@pytest.mark.parametrize(("normalization", "divisor"), [("mean", 3 * 4 * 5), ("half_sum", 2), ("size", 4 * 3 * 4 * 5)])
def test_content_loss_divides_as_its_table_says(normalization: str, divisor: float) -> None:
    one, other = features(3, 4, 5, 1), features(3, 4, 5, 2)
    expected = ((one - other) ** 2).sum((1, 2, 3)) / divisor
    torch.testing.assert_close(losses.content_loss(one, other, normalization), expected)


@pytest.mark.parametrize(
    ("style", "gram", "expected_divisor"),
    [
        ("mean", "none", 3**2),  # mean squared difference of F Fᵀ
        ("sum", "none", 1),
        ("gatys", "none", 4 * 3**2 * 20**2),  # equation 4
        ("mean", "chw", 3**2 * (3 * 20) ** 2),  # the PyTorch tutorial: Gram / (C H W), then MSE
        ("mean", "hw", 3**2 * 20**2),
    ],
)
def test_style_loss_divides_as_its_table_says(style: str, gram: str, expected_divisor: float) -> None:
    one, other = features(3, 4, 5, 1), features(3, 4, 5, 2)
    squared = ((losses.gram_sum(one) - losses.gram_sum(other)) ** 2).sum((1, 2))
    factor = losses.gram_factor(gram, channels=3, positions=20)
    actual = losses.style_loss(losses.gram_matrix(one), losses.gram_matrix(other), style, factor, positions=20)
    torch.testing.assert_close(actual, squared / expected_divisor)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_relative_losses_do_not_change_when_the_network_is_rescaled(scale: float) -> None:
    one, other = features(3, 4, 5, 1), features(3, 4, 5, 2)

    def both(factor: float) -> torch.Tensor:
        a, b = one * factor, other * factor
        style = losses.style_loss(losses.gram_matrix(a), losses.gram_matrix(b), "relative", 1.0, 20)
        return torch.stack([losses.content_loss(a, b, "relative"), style])

    torch.testing.assert_close(both(scale), both(1.0))


def test_relative_losses_of_an_all_zero_target_are_finite() -> None:
    zero = torch.zeros(1, 3, 4, 5)
    assert torch.isfinite(losses.content_loss(zero, zero, "relative")).all()
    assert torch.isfinite(losses.style_loss(zero[0], zero[0], "relative", 1.0, 20)).all()


def test_tv_loss_is_zero_for_a_flat_picture_and_known_for_a_step() -> None:
    colors = losses.tv_colors(1.0, 0.0)
    assert losses.tv_loss(torch.full((1, 3, 5, 6), 0.3), colors).item() == 0
    step = torch.zeros(1, 3, 4, 4)
    step[..., 2:] = 1  # one of three horizontal differences is 1
    torch.testing.assert_close(losses.tv_loss(step, colors), torch.tensor([1 / 3]))


def plain_tv(image: torch.Tensor) -> torch.Tensor:
    return sum((image.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3)), torch.zeros(()))


@pytest.mark.parametrize(("weight", "chroma_weight"), [(3.0, 0.0), (0.0, 40.0), (2.0, 5.0)])
def test_total_variation_is_the_weighted_sum_of_that_of_the_picture_and_of_its_chroma(
    weight: float, chroma_weight: float
) -> None:
    image = features(3, 5, 6)
    chroma = image - torch.cat([luminance(each[None]) for each in image])
    expected = weight * plain_tv(image) + chroma_weight * plain_tv(chroma)
    torch.testing.assert_close(losses.tv_loss(image, losses.tv_colors(weight, chroma_weight)), expected)


def test_a_grey_picture_has_no_variation_of_chroma() -> None:
    picture = gray(features(3, 5, 6)[:1])
    assert abs(losses.tv_loss(picture, losses.tv_colors(0.0, 1.0)).item()) < 1e-14 * plain_tv(picture).item()


def test_every_loss_returns_one_value_per_image() -> None:
    one, other = features(3, 4, 5, 1), features(3, 4, 5, 2)
    assert losses.content_loss(one, other, "mean").shape == (2,)
    assert losses.tv_loss(one, losses.tv_colors(1.0, 1.0)).shape == (2,)
