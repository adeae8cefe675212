"""Small problems for the tests of what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective, build_targets
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
