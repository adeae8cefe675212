"""``nst-fast taps``: the names under which the activations of a network are known."""

from __future__ import annotations

from typing import Annotated

import typer

from nst_fast.cli.completion import words
from nst_fast.cli.console import emit_result
from nst_fast.cli.options import Json
from nst_fast.network.taps import CONVS_PER_BLOCK, channels_of, layer_names, tap_size
from nst_fast.options.config import EncoderOptions


def taps(
    network: Annotated[
        str, typer.Option("--network", help="vgg16 or vgg19.", autocompletion=words(*CONVS_PER_BLOCK))
    ] = EncoderOptions().network,
    weights: Annotated[
        str | None, typer.Option("--weights", help="List only the taps that this file can serve.", metavar="SOURCE")
    ] = None,
    image_size: Annotated[int, typer.Option("--image-size", help="Show sizes for a square image.", min=16)] = 512,
    as_json: Json = False,
) -> None:
    """List the taps of a network: conv (before the ReLU), relu (after it) and pool, block by block."""
    EncoderOptions(network=network)  # refuses an unknown network
    names = layer_names(network)
    if weights is not None:
        from nst_fast.network.weights import available_taps

        names = available_taps(weights, network)
    sizes = {name: (channels_of(name), *tap_size(name, image_size, image_size)) for name in names}
    facts = {"schema": "nst-fast/taps/1", "network": network, "image_size": image_size, "taps": sizes}
    head = f"{network}: tap, channels, size for an image of {image_size}x{image_size}"
    lines = [f"{name:<8} {channels:>4}  {width}x{height}" for name, (channels, height, width) in sizes.items()]
    emit_result(facts, head, *lines, as_json=as_json)
