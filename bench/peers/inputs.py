"""What every program is given: the same pictures, read once by nst-fast's reader, and the same weights."""

from __future__ import annotations

from pathlib import Path

import torch

from nst_fast.images import load_image, save_image
from nst_fast.network.weights import load_weights
from nst_fast.system.files import write_atomic

RAW_FILE = "vgg19-raw-bgr.pth"  # neural-style-pt tells the network from the file's name
HUB_FOLDER = "torch-home"  # TORCH_HOME of style-transfer-pytorch
HUB_FILE = Path(HUB_FOLDER, "hub", "checkpoints", "vgg19-dcbb9e9d.pth")
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}  # torchvision builds it before it is cut off
DEEPEST = ("relu5_4",)


def prepare(picture: Path, folder: Path, side: int | None) -> Path:
    """A picture as an upright sRGB PNG, with a longest side if one is given: programs read and resize in many ways."""
    target = folder / (f"{picture.stem}-{side}.png" if side else f"{picture.stem}.png")
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(load_image(picture, longest_side=side).tensor, target)
    return target


def write_raw(folder: Path) -> None:
    """The original weights as published, for BGR from 0 to 255 less the means: the form of neural-style-pt."""
    weights = load_weights("original", "vgg19", DEEPEST)
    _write(folder / RAW_FILE, weights.state | weights.raw)


def write_hub(folder: Path) -> None:
    """The same for torchvision's input, with a classifier of zeros, where torch.hub would keep torchvision's own."""
    state = dict(load_weights("original", "vgg19", DEEPEST).state)
    for index, shape in CLASSIFIER.items():
        state[f"classifier.{index}.weight"] = torch.zeros(1, 1).expand(shape)
        state[f"classifier.{index}.bias"] = torch.zeros(1).expand(shape[0])
    _write(folder / HUB_FILE, state)


def _write(path: Path, state: dict[str, torch.Tensor]) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda stream: torch.save(state, stream))
