"""The layers of VGG-16 and VGG-19 as data (Simonyan & Zisserman 2015, arXiv:1409.1556, table 1: D and E).

A tap is a named intermediate activation: ``conv3_1`` (before the ReLU), ``relu3_1`` (after it) or ``pool3``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nst_fast.errors import UsageError, nearest

CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
BLOCK_CHANNELS = (64, 128, 256, 512, 512)
Wraps = tuple[bool, bool]  # whether rows, and columns, of a picture continue at its opposite side
NO_WRAP: Wraps = (False, False)


def layer_names(network: str) -> list[str]:
    """All layers of a network in order, named as taps; the position is torchvision's index in ``features``."""
    names = []
    for block, convs in enumerate(CONVS_PER_BLOCK[network], start=1):
        for conv in range(1, convs + 1):
            names += [f"conv{block}_{conv}", f"relu{block}_{conv}"]
        names.append(f"pool{block}")
    return names


def check_network(network: str) -> None:
    """Raise :class:`UsageError` unless it is the name of a network."""
    if network not in CONVS_PER_BLOCK:
        hint = nearest(network, CONVS_PER_BLOCK)
        raise UsageError(f"unknown network {network!r}", f"{hint} Networks are {', '.join(CONVS_PER_BLOCK)}".strip())


def check_taps(network: str, taps: Iterable[str]) -> None:
    """Raise :class:`UsageError` for a tap that the network does not have, naming the nearest that it has."""
    known = layer_names(network)
    for tap in taps:
        if tap not in known:
            hint = nearest(tap, known) or "Taps are named like conv3_1, relu3_1 or pool3."
            raise UsageError(f"unknown tap {tap!r} for {network}", f"{hint} `nst-fast taps` lists all")


def cut(network: str, taps: Iterable[str]) -> list[str]:
    """The layers needed to compute the taps: everything up to and including the deepest of them."""
    wanted = set(taps)
    check_taps(network, sorted(wanted))
    names = layer_names(network)
    return names[: 1 + max(names.index(tap) for tap in wanted)]


def block_of(layer: str) -> int:
    """The block (1 to 5) that a layer belongs to: 3 for ``relu3_1``."""
    match = re.fullmatch(r"(?:conv|relu|pool)(\d)(?:_\d)?", layer)
    if match is None:
        raise UsageError(f"not a layer name: {layer!r}", "Layers are named like conv3_1, relu3_1 or pool3")
    return int(match[1])


def channels_of(layer: str) -> int:
    return BLOCK_CHANNELS[block_of(layer) - 1]


def convolutions(network: str) -> dict[str, tuple[int, int, int]]:
    """Conv layer -> (index in torchvision's ``features``, input channels, output channels), in order."""
    shapes = {}
    inputs = 3
    for index, name in enumerate(layer_names(network)):
        if name.startswith("conv"):
            shapes[name] = (index, inputs, channels_of(name))
            inputs = channels_of(name)
    return shapes


def halvings_of(tap: str) -> int:
    """The number of pools between the image and a tap, a pool itself included."""
    return block_of(tap) - (0 if tap.startswith("pool") else 1)


def tap_size(tap: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of a tap for an image of the given size; pooling floors."""
    return height >> halvings_of(tap), width >> halvings_of(tap)


def smallest_side(taps: Iterable[str]) -> int:
    """The shortest image side, in pixels, for which every tap has at least one cell."""
    return max(1 << halvings_of(tap) for tap in taps)
