"""``auto``: the engine and precision of a run, by a short timed trial on its device, kept in the cache."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.precision import DTYPES, float32_arithmetic, usable_precisions
from nst_fast.errors import DeviceError, OutputError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Objective
from nst_fast.options.config import DeviceOptions
from nst_fast.system.clock import make_clock
from nst_fast.system.files import cache_dir, sha256_bytes, write_atomic
from nst_fast.system.machine import cpu_model

TRIAL_SIDE = {"cpu": 192, "cuda": 512}  # of the picture in a trial, in pixels
TRIAL_TURNS = 3  # timed; precisions take turns, the best of each counts
TRIAL_SECONDS = 10.0  # a trial that would take longer ends early
NARROW = ("bf16", "tf32")  # the narrowest first
LEAST_COSINE = 0.99  # between the gradients in one of these and in fp32
GAIN = 1.1  # a narrower precision must be faster by this factor to be worth its rounding


@dataclass(frozen=True)
class Choice:
    """The engine and precision of a run.

    Attributes:
        reason: of the choice, for the user.
        milliseconds: per step of the trial, by precision, if there was one.
        kernels: whether the fast engine may use the Triton kernels on a GPU.
    """

    engine: str
    precision: str
    reason: str
    milliseconds: dict[str, float]
    kernels: bool = True

    def __str__(self) -> str:
        return f"engine {self.engine}, {self.precision}: {self.reason}"


def without_trial(options: DeviceOptions) -> Choice:
    """The options with ``auto`` resolved to what every device computes."""
    engine = "fast" if options.engine == "auto" else options.engine
    return Choice(engine, "fp32" if options.precision == "auto" else options.precision, "as asked", {})


def choose(options: DeviceOptions, encoder: Encoder, device: torch.device) -> Choice:
    """Resolve ``auto`` in engine and precision.

    Raises:
        DeviceError: the device does not compute the precision, or the engine does not offer it.
    """
    choice, usable = without_trial(options), usable_precisions(device)
    if choice.engine in ("eager", "ort"):
        offered = ["fp32"]
        if choice.engine == "ort":
            offered += ["tf32", "fp16"] if "tf32" in usable else ["fp16"]
        if choice.precision not in offered:
            message = (
                f"engine {choice.engine} computes in {' or '.join(offered)} on {device}, not in {choice.precision}"
            )
            raise DeviceError(message, "Use `engine` fast")
        return choice
    if options.precision != "auto":
        if choice.precision not in usable:
            raise DeviceError(f"{device} does not compute {choice.precision}", f"It computes {', '.join(usable)}")
        return choice
    if len(usable) == 1:
        return replace(choice, reason="the only precision of this device")
    return fastest(choice.engine, remembered_trial(encoder, device, usable))


def fastest(engine: str, milliseconds: dict[str, float]) -> Choice:
    """The fastest precision of a trial; a wider one unless a narrower is faster by :data:`GAIN`."""
    chosen = next(iter(milliseconds))
    for precision, time_taken in milliseconds.items():  # the widest first
        if time_taken * GAIN < milliseconds[chosen]:
            chosen = precision
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in milliseconds.items())
    return Choice(engine, chosen, f"fastest in a trial here ({times} a step)", milliseconds)


def confirm_precision(choice: Choice, encoder: Encoder, objective: Objective, pastiche: Tensor) -> Choice:
    """The choice, or a wider precision where the gradient of this problem differs in direction; worst of a batch."""

    @functools.cache
    def gradient(precision: str) -> Tensor:
        with float32_arithmetic(precision):
            return FastEvaluator(encoder, objective, DTYPES[precision], kernels=False)(pastiche).gradient.flatten(1)

    def cosine(precision: str) -> float:
        return float(torch.nn.functional.cosine_similarity(gradient("fp32"), gradient(precision), dim=1).min())

    return narrowest_accurate(choice, pastiche.device, cosine)


def narrowest_accurate(choice: Choice, device: torch.device, cosine_to_fp32: Callable[[str], float]) -> Choice:
    """The narrowest precision, from the chosen one on, whose gradient has the direction of the one in fp32.

    Rounding flips decisions of ReLUs and maxima. With VGG-19's weights the cosine to fp32 is 0.998 and the final loss
    the same; with random weights it was below 0.98 and the loss a tenth higher (docs/performance.md).
    """
    if choice.precision not in NARROW:
        return choice
    reason, usable = choice.reason, [choice.precision, *usable_precisions(device)]
    for precision in NARROW[NARROW.index(choice.precision) :]:
        if precision in usable:
            cosine = cosine_to_fp32(precision)
            if cosine >= LEAST_COSINE:
                return replace(choice, precision=precision, reason=reason)
            reason = f"{precision} bends the gradient here (cosine {cosine:.3f} to fp32)"
    return replace(choice, precision="fp32", reason=reason)


def remembered_trial(encoder: Encoder, device: torch.device, precisions: list[str]) -> dict[str, float]:
    """The trial of this machine, device and network, from the cache or made now."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    network = [encoder.network, encoder.pooling, list(encoder.layers)[-1]]
    facts = [hardware, str(device), torch.get_num_threads(), torch.__version__, *network, *precisions]
    path = cache_dir("trials") / f"{sha256_bytes(json.dumps(facts).encode())[:16]}.json"
    try:
        found = json.loads(path.read_text())
        return {precision: float(found[precision]) for precision in precisions}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        milliseconds = trial(encoder, device, precisions)
    with suppress(OutputError):  # without a cache every run makes a trial
        write_atomic(path, json.dumps(milliseconds).encode())
    return milliseconds


def trial(encoder: Encoder, device: torch.device, precisions: list[str]) -> dict[str, float]:
    """Milliseconds of a forward and backward pass of the fast network, per precision, the widest first."""
    side = TRIAL_SIDE.get(device.type, 256)
    image = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)).to(device)
    clock = make_clock(device)
    best: dict[str, float] = {}
    deadline = time.monotonic() + TRIAL_SECONDS
    networks = {precision: FastNetwork(encoder, DTYPES[precision], kernels=False) for precision in precisions}
    for turn in range(1 + TRIAL_TURNS):
        for precision, network in networks.items():
            with float32_arithmetic(precision):
                started = clock()
                network.vjp(image)[1](_features_as_seed)
                taken = 1e3 * (clock() - started)
            if turn:  # the first turn warms up
                best[precision] = min(taken, best.get(precision, taken))
        if turn and time.monotonic() > deadline:
            break
    return best


def _features_as_seed(tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
    """The cheapest seed."""
    return features.clone() if gradient is None else gradient.add_(features)
