"""Defaults of the commands that run a series; every option is :class:`StylizeConfig`'s own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.values import Taps

# The fields that a series fills in itself, by command: they are no flags of it.
RECONSTRUCT_FIXED = ("content_taps", "content_weight", "style_taps", "style_weight", "seed")
# Snapshots would stand among the pictures, and could take their names.
BATCH_FIXED = ("save_every", "save_format")
TEXTURE_FIXED = ("content_taps", "content_weight", "style_taps", "seed")


def default(name: str, value: object) -> Any:
    """A field of :class:`StylizeConfig` with another default; type, range and help stay as they are declared there."""
    return dataclasses.field(default=value, metadata={"option": declared(StylizeConfig)[name].option})


@dataclass(frozen=True, kw_only=True)
class SweepConfig(StylizeConfig):
    """Sweep."""

    monitor_every: int = default("monitor_every", 0)
    # What differs between the pictures must be what was varied, and the same after an interruption: not the outcome of
    # a trial of speed.
    precision: str = default("precision", "fp32")


@dataclass(frozen=True, kw_only=True)
class BatchConfig(StylizeConfig):
    """Batch."""

    monitor_every: int = default("monitor_every", 0)


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(SweepConfig):
    """Reconstruction."""

    style_weight: float = default("style_weight", 0.0)
    # What a tap does not see stays noise. Measured at 128 px: relu1_2 with 0 gives 18 dB, with 0.01 40 dB, with 0.1
    # 39 dB; relu3_1 with 0.01 gives 15 dB, with 0.1 28 dB.
    tv_weight: float = default("tv_weight", 0.1)
    chroma_tv_weight: float = default("chroma_tv_weight", 0.0)  # a reconstruction shows what a tap holds of colours
    optimizer: str = default("optimizer", "lbfgs")
    steps: int = default("steps", 200)
    init: str = default("init", "noise")
    image_size: int = default("image_size", 256)


@dataclass(frozen=True, kw_only=True)
class TextureConfig(SweepConfig):
    """Texture: ``image_size`` is the longest side of the style image, and of a texture whose size is not given."""

    content_weight: float = default("content_weight", 0.0)
    # With no content to spare, every tap counts alike; against the variation of the chroma style weighs more.
    style_weight: float = default("style_weight", 100.0)
    style_taps: Taps = default("style_taps", "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1")
    optimizer: str = default("optimizer", "lbfgs")
    steps: int = default("steps", 300)
    init: str = default("init", "noise")
    scales: int = default("scales", 3)
    min_size: int = default("min_size", 48)
    image_size: int = default("image_size", 256)
