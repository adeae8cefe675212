"""Timed trials of precisions and convolutions on a device, kept in the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import torch
from torch import Tensor, nn

from nst_fast.engines.fast_network import Convolution, FastNetwork
from nst_fast.engines.precision import DTYPES, float32_arithmetic
from nst_fast.errors import OutputError
from nst_fast.network.taps import halvings_of
from nst_fast.network.vgg import Encoder
from nst_fast.system.clock import make_clock
from nst_fast.system.files import cache_dir, sha256_bytes, write_atomic
from nst_fast.system.machine import device_name

SIDE = {"cpu": 192, "cuda": 512}  # of the picture in a trial of precisions, in pixels
WINOGRAD_SIDE = 256
LEAST_SIDE = 24  # of a layer in it
HOW = ("direct", "winograd")
TURNS = 3  # timed; what is compared takes turns, the best of each counts
SECONDS = 10.0  # a trial that would take longer ends early
NOTE = "trying which arithmetic is fastest on this machine; once, for up to half a minute"
Note = Callable[[str], None]


def precision_trial(
    encoder: Encoder, device: torch.device, precisions: list[str], winograd: tuple[str, ...], note: Note
) -> dict[str, float]:
    """Milliseconds of a pass forward and back through the fast network, per precision, the widest first.

    ``winograd``: the layers that are convolved so in fp32. ``note`` is told when something has to be tried.
    """
    facts = [encoder.network, encoder.pooling, list(encoder.layers)[-1], *winograd]
    return remembered(facts, device, precisions, lambda: time_precisions(encoder, device, precisions, winograd), note)


def time_precisions(
    encoder: Encoder, device: torch.device, precisions: list[str], winograd: tuple[str, ...]
) -> dict[str, float]:
    side = SIDE.get(device.type, 256)
    image = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)).to(device)

    def case(precision: str) -> Callable[[], None]:
        layers = winograd if precision == "fp32" else ()
        network = FastNetwork(encoder, DTYPES[precision], kernels=False, winograd=layers)

        def run() -> None:
            with float32_arithmetic(precision):
                network.vjp(image)[1](_features_as_seed)

        return run

    return take_turns({precision: case(precision) for precision in precisions}, device)


def winograd_trial(encoder: Encoder, note: Note) -> dict[str, tuple[float, float]]:
    """Layer -> milliseconds of its convolution, forward and back, on the CPU: direct, and by Winograd's algorithm.

    Empty where Numba cannot be imported.
    """
    try:
        import numba
    except ImportError:
        return {}
    layers = {name: layer for name, layer in encoder.layers.items() if isinstance(layer, nn.Conv2d)}
    # The first layer's three channels are too few, and its padding may be another.
    kinds = {name: f"{layer.in_channels} to {layer.out_channels}" for name, layer in list(layers.items())[1:]}
    first_of = {kind: name for name, kind in reversed(kinds.items())}
    found = remembered(
        ["winograd", numba.__version__],
        torch.device("cpu"),
        [f"{kind}, {how}" for kind in first_of for how in HOW],
        lambda: time_convolutions({kind: (name, layers[name]) for kind, name in first_of.items()}),
        note,
    )
    return {name: (found[f"{kind}, direct"], found[f"{kind}, winograd"]) for name, kind in kinds.items()}


def time_convolutions(layers: dict[str, tuple[str, nn.Conv2d]]) -> dict[str, float]:
    """Milliseconds for kinds of convolutions, each given by a layer's name and the layer."""
    found: dict[str, float] = {}
    for kind, (name, layer) in layers.items():
        side = max(LEAST_SIDE, WINOGRAD_SIDE >> halvings_of(name))
        sizes = [(1, channels, side, side) for channels in (layer.in_channels, layer.out_channels)]
        x, y = (torch.ones(size).contiguous(memory_format=torch.channels_last) for size in sizes)

        def case(how: str, layer: nn.Conv2d = layer, x: Tensor = x, y: Tensor = y) -> Callable[[], None]:
            convolution = Convolution(layer, torch.float32, "zeros", layer.in_channels, winograd=how == "winograd")

            def run() -> None:
                convolution.forward(x, rectify=True)
                convolution.backward(y, x, masked=True)

            return run

        found |= take_turns({f"{kind}, {how}": case(how) for how in HOW}, torch.device("cpu"))
    return found


@torch.no_grad()
def take_turns(cases: dict[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """The milliseconds that each case takes at best, the cases taking turns."""
    clock = make_clock(device)
    best: dict[str, float] = {}
    deadline = time.monotonic() + SECONDS
    for turn in range(1 + TURNS):
        for name, run in cases.items():
            started = clock()
            run()
            taken = 1e3 * (clock() - started)
            if turn:  # the first turn warms up
                best[name] = min(taken, best.get(name, taken))
        if turn and time.monotonic() > deadline:
            break
    return best


def remembered(
    facts: list[str], device: torch.device, names: Collection[str], trial: Callable[[], dict[str, float]], note: Note
) -> dict[str, float]:
    """The results of a trial, with these names, for this machine, device and facts: from the cache, or made now."""
    known = [device_name(device), str(device), torch.get_num_threads(), torch.__version__, *facts, *names]
    path = cache_dir("trials") / f"{sha256_bytes(json.dumps(known).encode())[:16]}.json"
    try:
        found = json.loads(path.read_text())
        return {name: float(found[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        note(NOTE)
        milliseconds = trial()
    with suppress(OutputError):  # without a cache every run makes a trial
        write_atomic(path, json.dumps(milliseconds).encode())
    return milliseconds


def _features_as_seed(tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
    """The cheapest seed."""
    return features.clone() if gradient is None else gradient.add_(features)
