"""Small problems for the tests of what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_fast.images import load_image
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.optimizers import Stepper, learning_rate_at
from nst_fast.options.config import StylizeConfig

SHALLOW = {"content_taps": "relu2_1", "style_taps": "relu1_1,conv2_1", "weights": "random:0", "style_weight": 10.0}
BLOCKS = {"content_taps": "relu3_2", "style_taps": "relu1_1,relu2_1,relu3_1"}


def smooth(height: int, width: int, seed: int) -> Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def problem(
    height: int = 33, width: int = 46, images: tuple[Tensor, Tensor] | None = None, **changes: Any
) -> tuple[StylizeConfig, Encoder, Objective, Tensor]:
    """Options, encoder, objective and a pastiche to start from."""
    options = StylizeConfig(**{**SHALLOW, **changes})
    encoder, _ = make_encoder(options.weights, options.network, options.taps, **options.encoder_keywords)
    content, style = images or (smooth(height, width, 1), smooth(40, 31, 2))
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    return options, encoder, objective, torch.rand(content.shape, generator=torch.Generator().manual_seed(3))


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def real_pictures(assets: Path) -> tuple[Tensor, Tensor]:
    """A photograph and a painting, for the argument ``images`` of :func:`problem`."""
    content, style = (assets / "images" / name for name in ("tubingen.png", "starry_night.jpg"))
    return load_image(content, longest_side=64).tensor, load_image(style, longest_side=64).tensor


def steps(stepper: Stepper, options: StylizeConfig, count: int, first: int = 0) -> Tensor:
    """The pastiche after so many steps at the rates of the schedule."""
    for step in range(first, first + count):
        rate = learning_rate_at(options, step)
        stepper.evaluate(rate)
        stepper.update(rate)
    return stepper.pastiche.clone()


def check_same_end(actual: Tensor, expected: Tensor, reference: Any) -> None:
    """The losses lie within 0.5 % of each other, the pictures within a mean of 2 levels of 255."""
    assert abs(float(reference(actual).total) / float(reference(expected).total) - 1) < 0.005
    assert float((actual - expected).abs().mean()) < 2 / 255
