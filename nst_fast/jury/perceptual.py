"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) through torchmetrics, where all of its weights are on this machine.

torchmetrics carries the linear heads; the AlexNet below them is torchvision's, which torch.hub keeps. Nothing is
downloaded here: that file is there, or the measure is not.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

EXTRA = "pip install 'nst-fast[jury]'"


def backbone() -> Path:
    """Where torch.hub keeps torchvision's AlexNet."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


def missing() -> str:
    """What LPIPS lacks on this machine, as a note; empty when nothing."""
    if find_spec("torchmetrics") is None:
        return f"no LPIPS: torchmetrics is not installed ({EXTRA})"
    if not backbone().is_file():
        return f"no LPIPS: {backbone().name} is not in torch.hub's cache (put torchvision's AlexNet there)"
    return ""


def lpips(image: Tensor, content: Tensor) -> float:
    """The distance of two images [1, 3, H, W] of one size, on their device. Call it when nothing is :func:`missing`."""
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as distance

    return float(distance(image, content, net_type="alex", normalize=True))
