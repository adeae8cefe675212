"""Which files torchvision publishes, their hashes, and the addresses they can be fetched from.

Environment: ``NST_FAST_WEIGHTS_URL`` names the folders to fetch from in place of torchvision's, tried in order and
separated by spaces.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nst_fast.errors import UsageError, WeightsError, nearest
from nst_fast.network.taps import CONVS_PER_BLOCK
from nst_fast.system.files import cache_dir, shown

BASE_ADDRESS = "https://download.pytorch.org/models/"
MIRRORS_VARIABLE = "NST_FAST_WEIGHTS_URL"


@dataclass(frozen=True)
class HubFile:
    """A checkpoint as torchvision publishes it: ``vgg19-dcbb9e9d.pth``, where dcbb9e9d begins its SHA-256.

    Attributes:
        name: of the file.
        hash_prefix: the first digits of its SHA-256.
        mirrors: folders to fetch it from in place of those that the environment names, and of torchvision's.
    """

    name: str
    hash_prefix: str
    mirrors: tuple[str, ...] = ()

    @property
    def addresses(self) -> list[str]:
        """Where to ask for the file, in order."""
        folders = self.mirrors or os.environ.get(MIRRORS_VARIABLE, BASE_ADDRESS).split() or (BASE_ADDRESS,)
        return [folder.rstrip("/") + "/" + self.name for folder in folders]

    @property
    def target(self) -> Path:
        return cache_dir("weights") / self.name

    def is_content(self, sha256: str) -> bool:
        """Whether the published file has this SHA-256."""
        return sha256.startswith(self.hash_prefix)

    def refusal(self, why: str) -> WeightsError:
        """No pretrained weights: what went wrong, how to supply the file by hand, and the choices that remain."""
        return WeightsError(
            f"cannot get the pretrained weights: {why}",
            f"Fetch {self.addresses[0]} (its sha256 begins with {self.hash_prefix}) on any machine, then `nst-fast "
            f"weights import FILE` or put it at {shown(self.target)}; or give --weights FILE, or for vgg19 --weights "
            "original",
        )


def hub_file(network: str, mirrors: tuple[str, ...] = ()) -> HubFile:
    """The name and hash of a network's ImageNet checkpoint, from torchvision's own table."""
    from torchvision.models import VGG16_Weights, VGG19_Weights

    weights = {"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[network].IMAGENET1K_V1
    name = str(weights.url).rsplit("/", 1)[-1]
    return HubFile(name, re.findall(r"-([0-9a-f]{8,})\.", name)[0], mirrors)


def check_known(network: str) -> None:
    """Raise :class:`UsageError` unless it is the name of a network."""
    if network not in CONVS_PER_BLOCK:
        hint = nearest(network, CONVS_PER_BLOCK)
        raise UsageError(f"unknown network {network!r}", f"{hint} Networks are {', '.join(CONVS_PER_BLOCK)}".strip())
