"""Defaults of the commands that run a series; every option is :class:`StylizeConfig`'s own."""

from __future__ import annotations

from dataclasses import dataclass

from nst_fast.config import StylizeConfig
from nst_fast.options import option

# The fields that a series fills in itself, by command: they are no flags of it.
RECONSTRUCT_FIXED = ("content_taps", "content_weight", "style_taps", "style_weight", "seed")
TEXTURE_FIXED = ("content_taps", "content_weight", "style_taps", "seed")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(StylizeConfig):
    """Sweep."""

    monitor_every: int = option(
        0, "Evaluate a snapshot with ONNX Runtime every N steps; 0 turns the monitor off.", minimum=0, cosmetic=True
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(SweepConfig):
    """Reconstruction."""

    style_weight: float = option(0.0, "Weight of the style loss.", minimum=0)
    # What the shallow taps do not see stays noise: measured at relu1_2, 0 gives 19 dB, 0.01 gives 40 dB.
    tv_weight: float = option(0.01, "Weight of the total variation loss, which smooths.", minimum=0)
    optimizer: str = option("lbfgs", "The optimiser of the pixels.", choices=("adam", "lbfgs"))
    steps: int = option(200, "Optimiser updates.", minimum=1, maximum=1_000_000)
    init: str = option("noise", "Where the pastiche starts: 'noise', or an image file.", metavar="noise|FILE")
    image_size: int = option(256, "Longest side of the pastiche, in pixels.", minimum=16, maximum=32768)


@dataclass(frozen=True, kw_only=True)
class TextureConfig(SweepConfig):
    """Texture."""

    content_weight: float = option(0.0, "Weight of the content loss.", minimum=0)
    optimizer: str = option("lbfgs", "The optimiser of the pixels.", choices=("adam", "lbfgs"))
    steps: int = option(300, "Optimiser updates.", minimum=1, maximum=1_000_000)
    init: str = option("noise", "Where the pastiche starts: 'noise', or an image file.", metavar="noise|FILE")
    scales: int = option(
        3, "How many sizes the picture passes through; 1 works at the final size only.", minimum=1, maximum=16
    )
    image_size: int = option(
        256,
        "Longest side of the style image, and of a texture without --size, in pixels.",
        minimum=16,
        maximum=32768,
    )
