"""VGGs of the real depth and of few channels: quick enough for hundreds of pictures larger than a receptive field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

import nst_fast.network.taps
from nst_fast.engines.crop_network import CropNetwork, EagerNetwork
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.options.config import ObjectiveOptions


@contextmanager
def few_channels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nst_fast.network.taps, "BLOCK_CHANNELS", (5, 4, 4, 3, 3))
        yield


@cache
def narrow(options: ObjectiveOptions) -> Encoder:
    with few_channels():
        encoder, _ = make_encoder("random:2", options.network, options.taps, **options.encoder_keywords)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):  # so few channels would all be dark without
            parameter.uniform_(0, 0.2, generator=torch.Generator().manual_seed(3))
    return encoder.double()


def pictures(height: int, width: int, count: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    return [torch.rand(batch, 3, height, width, dtype=torch.float64, generator=generator) for _ in range(count)]


def crop_network(engine: str, encoder: Encoder) -> CropNetwork:
    return EagerNetwork(encoder) if engine == "eager" else FastNetwork(encoder, torch.float64)
