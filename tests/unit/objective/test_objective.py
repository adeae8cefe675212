from __future__ import annotations

import pytest
import torch

from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.guides import PLAIN, StylePart
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.objective.style import blended
from nst_fast.options.config import ObjectiveOptions

OPTIONS = ObjectiveOptions(
    content_taps="relu2_1", style_taps="relu1_1:0.5,relu2_1", tv_weight=3.0, chroma_tv_weight=4.0
)


def objective(encoder: Encoder, content: torch.Tensor, style: torch.Tensor) -> Objective:
    return Objective(OPTIONS, build_targets(encoder, OPTIONS, content, [style]))


def test_the_terms_vanish_on_their_own_targets(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    made = objective(shallow_encoder, picture, picture)
    terms = made.terms(made.measure(shallow_encoder(picture)), picture)
    assert list(terms) == made.term_names == ["content/relu2_1", "style/relu1_1", "style/relu2_1", "tv"]
    assert all(terms[name].item() < 1e-9 for name in made.term_names if name != "tv")
    torch.testing.assert_close(terms["tv"], losses.tv_loss(picture, losses.tv_colors(3.0, 4.0)))


def test_terms_are_weighted_by_kind_and_by_tap(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    made = objective(shallow_encoder, picture, picture.flip(3) ** 2)
    other = picture.flip(2)
    statistics = made.measure(shallow_encoder(other))
    terms = made.terms(statistics, other)
    unweighted = losses.style_loss(
        statistics.style["style/relu1_1"], made.targets.style["style/relu1_1"], "relative", 1.0, 0
    )
    torch.testing.assert_close(terms["style/relu1_1"], OPTIONS.style_weight * 0.5 * unweighted)


def test_a_style_of_another_size_gives_the_same_target_when_it_repeats(
    shallow_encoder: Encoder, picture: torch.Tensor
) -> None:
    options = ObjectiveOptions(
        style_taps="relu1_1", content_weight=0, gram_normalization="none", style_normalization="sum"
    )
    pixels = picture[..., :1, :1].expand(1, 3, 8, 8)
    targets = build_targets(shallow_encoder, options, None, [pixels])
    made = Objective(options, targets)
    gram = targets.style["style/relu1_1"]
    assert made.style_term("style/relu1_1", gram, positions=999).item() == 0  # sums are compared at the pastiche's size


def test_blended_targets_have_the_gradient_of_the_weighted_sum_of_losses() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other, gram = (torch.randn(1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    gram.requires_grad_(True)

    def loss(target: torch.Tensor) -> torch.Tensor:
        return losses.style_loss(gram, target, "mean", 1.0, 1).sum()

    (separate,) = torch.autograd.grad(0.25 * loss(one) + 0.75 * loss(other), gram)
    name = "style/relu1_1"
    parts = [StylePart(gram, PLAIN, weight) for weight in (1.0, 3.0)]
    mixture = blended(ObjectiveOptions(style_taps="relu1_1"), parts, [{name: one}, {name: other}])[name]
    (together,) = torch.autograd.grad(loss(mixture), gram)
    torch.testing.assert_close(together, separate)


def test_a_batch_is_a_set_of_independent_problems(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    pair = torch.cat([picture, picture.flip(3)])
    batched = Objective(OPTIONS, build_targets(shallow_encoder, OPTIONS, pair, [pair.flip(0)]))
    other = pair**2
    together = batched.terms(batched.measure(shallow_encoder(other)), other)
    for index in range(2):
        alone = objective(shallow_encoder, pair[index : index + 1], pair.flip(0)[index : index + 1])
        image = other[index : index + 1]
        for name, term in alone.terms(alone.measure(shallow_encoder(image)), image).items():
            torch.testing.assert_close(together[name][index], term[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("content_weight", [0.0, 1.0])
def test_targets_hold_only_what_is_weighted(
    shallow_encoder: Encoder, picture: torch.Tensor, content_weight: float
) -> None:
    options = ObjectiveOptions(content_taps="relu2_1", style_taps="relu1_1", content_weight=content_weight)
    targets = build_targets(shallow_encoder, options, picture, [picture])
    assert list(targets.content) == (["relu2_1"] if content_weight else [])


@pytest.mark.parametrize("new", [True, False])
def test_a_step_has_directions_of_its_own_where_new_ones_are_asked_for(
    new: bool, shallow_encoder: Encoder, picture: torch.Tensor
) -> None:
    options = OPTIONS.replace(style_loss="sliced", sliced_directions="new" if new else "fixed")
    made = Objective(options, build_targets(shallow_encoder, options, picture, [picture.flip(3) ** 2]))
    features = shallow_encoder(picture)
    found = []
    for seed, step in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        made.begin_step(seed, step)
        found.append(float(made.terms(made.measure(features), picture)["style/relu2_1"]))
    assert found[0] == found[3]
    assert len(set(found)) == (3 if new else 1)
