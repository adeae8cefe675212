"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) through torchmetrics, where all of its weights are on this machine.

torchmetrics carries the linear heads; the AlexNet below them is torchvision's, which torch.hub keeps. Nothing is
downloaded here: that file is there, or the measure is not.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_fast.system.files import sha256_of

EXTRA = "pip install 'nst-fast[jury]'"
SMALLEST_SIDE = 31  # pixels, below which nothing is left for AlexNet's third convolution


def backbone() -> Path:
    """Where torch.hub keeps torchvision's AlexNet; the file is named after the first digits of its sha256."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


def missing() -> str:
    """What LPIPS lacks on this machine, as a note; empty when nothing."""
    if find_spec("torchmetrics") is None:
        return f"no LPIPS: torchmetrics is not installed ({EXTRA})"
    file = backbone()
    if not file.is_file():
        return f"no LPIPS: torchvision's {file.name} is not in torch.hub's cache"
    if not sha256_of(file).startswith(file.stem.rpartition("-")[2]):  # torch.hub would load it unseen
        return f"no LPIPS: {file.name} in torch.hub's cache is damaged"
    return ""


@functools.cache
def _metric() -> Any:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


def lpips(image: Tensor, content: Tensor) -> float | None:
    """The distance of two images [1, 3, H, W] of one size, when nothing is :func:`missing`; None for too small ones."""
    return float(_metric()(image, content)) if min(image.shape[2:]) >= SMALLEST_SIDE else None
