from __future__ import annotations

import pytest
import torch

from nst_fast.config import ObjectiveOptions
from nst_fast.evaluators import ENGINES
from nst_fast.objective import Objective, build_targets
from nst_fast.vgg import Encoder
from nst_fast.weights import make_encoder

OPTIONS = ObjectiveOptions(content_taps="relu2_1", style_taps="conv1_2,relu1_1,relu2_1,pool1", tv_weight=1.0)


@pytest.fixture(scope="module")
def double_encoder() -> Encoder:
    encoder, _ = make_encoder(
        "random:1", "vgg16", OPTIONS.taps, pooling="max", padding="replicate", normalize_input=True
    )
    return encoder.double()


def test_the_gradient_is_that_of_finite_differences(double_encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(3)
    content, style, image = (torch.rand(1, 3, 9, 11, dtype=torch.float64, generator=generator) for _ in range(3))
    objective = Objective(OPTIONS, build_targets(double_encoder, OPTIONS, content, [style]))
    evaluate = ENGINES["eager"](double_encoder, objective)
    evaluation = evaluate(image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=generator)
    step = 1e-6
    difference = (evaluate(image + step * direction).total - evaluate(image - step * direction).total) / (2 * step)
    expected = (evaluation.gradient * direction).sum()
    torch.testing.assert_close(difference.sum(), expected, rtol=1e-5, atol=0)


def test_terms_add_up_and_nothing_carries_a_graph(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    options = ObjectiveOptions(content_taps="relu2_1", style_taps="relu1_1,relu2_1")
    objective = Objective(options, build_targets(shallow_encoder, options, picture, [picture.flip(3)]))
    evaluation = ENGINES["eager"](shallow_encoder, objective)(picture**2)
    torch.testing.assert_close(evaluation.total, torch.stack(list(evaluation.terms.values())).sum(0))
    assert list(evaluation.terms) == objective.term_names
    assert not evaluation.total.requires_grad
    assert evaluation.gradient.shape == picture.shape


def test_no_gradient_is_computed_for_the_network(shallow_encoder: Encoder) -> None:
    assert not any(parameter.requires_grad for parameter in shallow_encoder.parameters())
