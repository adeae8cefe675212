"""``auto``: the engine, precision and convolutions of a run, by short timed trials on its device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.precision import DTYPES, float32_arithmetic, usable_precisions
from nst_fast.engines.trial import Note, precision_trial, winograd_trial
from nst_fast.errors import DeviceError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Objective
from nst_fast.options.config import DeviceOptions

NARROW = ("bf16", "tf32")  # the narrowest first
LEAST_COSINE = 0.99  # between the gradients in one of these and in fp32
GAIN = 1.1  # a narrower precision or Winograd's algorithm must be faster by this factor to be worth its rounding


@dataclass(frozen=True)
class Choice:
    """The engine and precision of a run.

    Attributes:
        reason: of the choice, for the user.
        milliseconds: per step of the trial, by precision, if there was one.
        kernels: whether the fast engine may use the Triton kernels on a GPU.
        winograd: the layers that it convolves by Winograd's algorithm on a CPU.
    """

    engine: str
    precision: str
    reason: str
    milliseconds: dict[str, float]
    kernels: bool = True
    winograd: tuple[str, ...] = ()

    @property
    def convolution(self) -> str:
        return "winograd" if self.winograd else "direct"

    def __str__(self) -> str:
        convolutions = f", {len(self.winograd)} convolutions by Winograd's algorithm" if self.winograd else ""
        return f"engine {self.engine}, {self.precision}{convolutions}: {self.reason}"


def without_trial(options: DeviceOptions) -> Choice:
    """The options with ``auto`` resolved to what every device computes."""
    engine = "fast" if options.engine == "auto" else options.engine
    return Choice(engine, "fp32" if options.precision == "auto" else options.precision, "as asked", {})


def silent(text: str) -> None:
    """Take no notice."""


def choose(
    options: DeviceOptions, encoder: Encoder, device: torch.device, *, long: bool = True, note: Note = silent
) -> Choice:
    """Resolve ``auto`` in engine, precision and convolution.

    ``long``: whether the run is long enough for kernels that take time to start. ``note`` is told when the device has
    to be tried first.

    Raises:
        DeviceError: the device does not compute the precision, or the engine does not offer it.
    """
    choice, usable = replace(without_trial(options), kernels=long), usable_precisions(device)
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
    if options.precision != "auto" and choice.precision not in usable:
        raise DeviceError(f"{device} does not compute {choice.precision}", f"It computes {', '.join(usable)}")
    if choice.precision == "fp32":
        choice = replace(choice, winograd=winograd_layers(options, encoder, device, long, note))
    if options.precision != "auto":
        return choice
    if len(usable) == 1:
        return replace(choice, reason="the only precision of this device")
    return fastest(choice, precision_trial(encoder, device, usable, choice.winograd, note))


def winograd_layers(
    options: DeviceOptions, encoder: Encoder, device: torch.device, long: bool, note: Note
) -> tuple[str, ...]:
    """The layers that this machine convolves faster by Winograd's algorithm, where that is wanted and pays."""
    wanted = options.convolution == "winograd" or (options.convolution == "auto" and long)
    if device.type != "cpu" or options.engine == "compiled" or any(encoder.wraps) or not wanted:
        return ()
    milliseconds = winograd_trial(encoder, note)
    return tuple(layer for layer, (direct, winograd) in milliseconds.items() if winograd * GAIN < direct)


def fastest(choice: Choice, milliseconds: dict[str, float]) -> Choice:
    """The fastest precision of a trial; a wider one unless a narrower is faster by :data:`GAIN`."""
    widest = chosen = next(iter(milliseconds))
    for precision, time_taken in milliseconds.items():  # the widest first
        if time_taken * GAIN < milliseconds[chosen]:
            chosen = precision
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in milliseconds.items())
    reason = f"fastest in a trial here ({times} a step)"
    winograd = choice.winograd if chosen == widest else ()
    return replace(choice, precision=chosen, reason=reason, milliseconds=milliseconds, winograd=winograd)


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
