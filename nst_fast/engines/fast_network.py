"""The encoder as straight-line code: forward, then backward by one rule per layer, without autograd.

Channels last, in the chosen precision, weights prepared once. The rules, with g the gradient from the layer above:

    conv   y = w * x + b      conv of g with w flipped in space and transposed in channels
    relu   y = max(x, 0)      g where y > 0; done in place, only y is kept
    max    y = max of 2x2     g to the first maximum of each window, searched again: see max_pooling
    mean   y = s mean of 2x2  s g / 4 to each of the window

One tensor per ReLU and per tap is kept between the passes, and dropped after its use. With cuDNN a convolution and its
ReLU are one call, which spares two passes over the features, half the time of the convolution. On a CPU Winograd's
algorithm (:mod:`nst_fast.engines.winograd`) does so too, and its backward pass goes through the ReLU before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nst_fast.engines.checked_kernels import pooling_kernels
from nst_fast.engines.crop_network import Backward, Seed
from nst_fast.engines.max_pooling import MaxPooling
from nst_fast.network.padding import COLUMNS, ROWS, folded, modes_of, padded
from nst_fast.network.taps import Wraps
from nst_fast.network.vgg import AVERAGE_POOLING_SCALE, Encoder

if TYPE_CHECKING:
    from nst_fast.engines.winograd import Winograd

PAD_BACKWARD: dict[str, Callable[[Tensor, Tensor, list[int]], Tensor]] = {
    "replicate": torch.ops.aten.replication_pad2d_backward,
    "reflect": torch.ops.aten.reflection_pad2d_backward,
}

# With three channels cuDNN does not use tensor cores: at 1024 pixels on an H200 the first convolution took 0.32 ms with
# 3 or 8 channels and 0.17 with 16, backward 0.25 with 3 and 0.18 with 8 or 16.
CHANNELS_ON_TENSOR_CORES = 16
# Elements of a fused call's result; more need 64-bit indices, which only conv2d supports.
LARGEST_FUSED = 2**31


class Convolution:
    """A frozen 3x3 convolution, forward and backward with respect to its input.

    Args:
        layer: its weights are copied.
        dtype: of the copies.
        padding: ``zeros``, ``reflect`` or ``replicate``.
        channels: of the input; weights of channels beyond the layer's are 0.
        winograd: by Winograd's algorithm where there are enough tiles; with padding ``zeros`` on a CPU.
    """

    def __init__(
        self, layer: nn.Conv2d, dtype: torch.dtype, padding: str, channels: int, *, winograd: bool = False
    ) -> None:
        weight = functional.pad(layer.weight.detach(), (0, 0, 0, 0, 0, channels - layer.in_channels))
        assert layer.bias is not None  # every convolution of VGG has one
        self.padding = padding
        self.bias = layer.bias.detach().to(dtype)
        self.weight = _prepared(weight, dtype)
        self.flipped = _prepared(weight.flip(2, 3).transpose(0, 1), dtype)
        self.fusible = weight.is_cuda and torch.version.cuda is not None  # with its ReLU; not by AMD's library
        self.winograd: Winograd | None = None
        if winograd:
            from nst_fast.engines.winograd import Winograd  # imports Numba, which takes half a second

            self.winograd = Winograd(self.weight, self.flipped, self.bias)

    def forward(self, x: Tensor, *, rectify: bool) -> Tensor:
        """``rectify``: with the ReLU that follows."""
        if self.winograd is not None and self.winograd.serves(x):
            return self.winograd.forward(x, rectify=rectify)
        margin = 1
        if self.padding != "zeros":
            x, margin = functional.pad(x, (1, 1, 1, 1), mode=self.padding), 0
        if rectify and self._fuses(x):
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, [1, 1], [margin, margin], [1, 1], 1)
        y = functional.conv2d(x, self.weight, self.bias, padding=margin)
        return y.relu_() if rectify else y

    def _fuses(self, x: Tensor) -> bool:
        """Whether cuDNN has a fast fused call: not in exact fp32, which has no tensor cores."""
        quick = x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32)
        return self.fusible and quick and x[:, 0].numel() * len(self.bias) < LARGEST_FUSED

    def backward(self, gradient: Tensor, x: Tensor | None, *, masked: bool = False) -> Tensor:
        """``x``: the input, needed only for padding that repeats it; ``masked``: through the ReLU that made it."""
        if self.winograd is not None and self.winograd.serves(gradient):
            return self.winograd.backward(gradient, x if masked else None)
        if masked and x is not None:
            return relu_backward(self.backward(gradient, x), x)
        if self.padding == "zeros" or x is None:
            return functional.conv2d(gradient, self.flipped, padding=1)
        wide = functional.conv2d(gradient, self.flipped, padding=2)
        if torch.compiler.is_compiling():  # Inductor is wrong about the memory format of PyTorch's own
            return folded(folded(wide, ROWS, self.padding), COLUMNS, self.padding)
        return PAD_BACKWARD[self.padding](wide, x, [1, 1, 1, 1])


class WrappedConvolution(Convolution):
    """One of features that continue at the opposite side, along one axis or both: padded, then without padding."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, padding: str, channels: int, wraps: Wraps) -> None:
        super().__init__(layer, dtype, padding, channels)
        self.modes = modes_of(padding, wraps)

    def forward(self, x: Tensor, *, rectify: bool) -> Tensor:
        y = functional.conv2d(padded(x, self.modes), self.weight, self.bias)
        return y.relu_() if rectify else y

    def backward(self, gradient: Tensor, x: Tensor | None, *, masked: bool = False) -> Tensor:
        rows, columns = self.modes
        dx = folded(folded(functional.conv2d(gradient, self.flipped, padding=2), ROWS, rows), COLUMNS, columns)
        return relu_backward(dx, x) if masked and x is not None else dx


def relu_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """In place; the mask y > 0 of the result is the same as that of the input."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)
    return masked


class FastNetwork:
    """The layers of an encoder in both directions; a :class:`nst_fast.engines.crop_network.CropNetwork`.

    Args:
        encoder: whose weights are copied.
        dtype: of convolutions and features.
        kernels: whether Triton kernels may be used on a GPU.
        winograd: the layers, not the first one, that a CPU convolves by Winograd's algorithm.
    """

    def __init__(
        self, encoder: Encoder, dtype: torch.dtype, *, kernels: bool = True, winograd: Collection[str] = ()
    ) -> None:
        self.dtype = dtype
        self.normalize = encoder.normalize
        self.pooling = encoder.pooling
        self.taps = frozenset(encoder.taps)
        self.order = list(encoder.layers)
        device = next(encoder.parameters()).device
        self.tensor_cores = on_tensor_cores(device, dtype)
        self.channels = CHANNELS_ON_TENSOR_CORES if self.tensor_cores else 3
        self.convolutions: dict[str, Convolution] = {}
        for name, layer in encoder.layers.items():
            if isinstance(layer, nn.Conv2d):
                first = name == "conv1_1"
                padding, channels = (encoder.padding, self.channels) if first else ("zeros", layer.in_channels)
                self.convolutions[name] = (
                    WrappedConvolution(layer, dtype, padding, channels, encoder.wraps)
                    if any(encoder.wraps)
                    else Convolution(layer, dtype, padding, channels, winograd=name in winograd)
                )
        self.winograd = bool(winograd)
        self.max_pooling = MaxPooling(pooling_kernels(device, kernels=kernels, numba=self.winograd))
        self.masked = self._masked()

    def _masked(self) -> frozenset[str]:
        """The ReLUs whose backward pass is part of that of the layer above."""
        pooled = self.pooling == "max" and self.max_pooling.kernels is not None
        pairs = zip(self.order, self.order[1:], strict=False)
        return frozenset(
            layer
            for layer, above in pairs
            if layer.startswith("relu") and layer not in self.taps
            if (pooled if above.startswith("pool") else self.convolutions[above].winograd is not None)
        )

    @property
    def seed_kernels(self) -> ModuleType | None:
        """What adds a seed and goes back through its ReLU in one pass: on tensor cores, without which it is slower."""
        return self.picture_kernels if self.tensor_cores else None

    @property
    def picture_kernels(self) -> ModuleType | None:
        """What has total variation in one pass; not Numba's kernels, which only pool."""
        return None if self.winograd else self.max_pooling.kernels

    def compile(self) -> None:
        """Let TorchInductor compile and fuse both passes at their first call, for one shape."""
        self.max_pooling.kernels = None
        self.masked = frozenset()
        for convolution in self.convolutions.values():
            convolution.fusible = False
        # It warns of a missing CUDA, also where none was asked for.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[method-assign]  # compiled in place
        self.backward = torch.compile(self.backward, dynamic=False)  # type: ignore[method-assign]  # compiled in place

    @torch.no_grad()
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image [B, 3, H, W] to the outputs of ReLUs and taps, by name, for the backward pass."""
        x = self.normalize(image)
        if self.channels > 3:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.channels - 3))
        x = x.to(self.dtype, memory_format=torch.channels_last)
        kept = {"input": x}
        for name in self.order:
            if name in self.convolutions:
                x = self.convolutions[name].forward(x, rectify=name not in self.taps)
                x = x.contiguous(memory_format=torch.channels_last)  # some libraries write another, and kernels need it
            elif name.startswith("relu"):
                x = torch.relu(x) if f"conv{name[4:]}" in self.taps else x  # else part of the convolution
                kept[name] = x
            elif self.pooling == "max":
                x = self.max_pooling.forward(x)
            else:
                x = functional.avg_pool2d(x, 2).mul_(AVERAGE_POOLING_SCALE)
            if name in self.taps:
                kept[name] = x
        return kept

    @torch.no_grad()
    def backward(self, kept: dict[str, Tensor], seed: Seed, masked: Container[str] = ()) -> Tensor:
        """The gradient with respect to the image, float32 [B, 3, H, W]. Empties ``kept``.

        ``masked``: the ReLUs that the seed goes back through.
        """
        gradient: Tensor | None = None
        for index in range(len(self.order) - 1, -1, -1):
            name = self.order[index]
            before = self.order[index - 1] if index else "input"
            if name in self.taps:
                gradient = seed(name, kept[name], gradient)
            assert gradient is not None  # the deepest layer is a tap: the encoder is cut there
            if name not in self.masked and name not in masked:
                gradient = self._layer_backward(name, before, gradient, kept)
            if name not in ("input", before):
                kept.pop(name, None)
        assert gradient is not None
        return self._through_normalization(gradient)

    def _layer_backward(self, name: str, before: str, gradient: Tensor, kept: dict[str, Tensor]) -> Tensor:
        if name in self.convolutions:
            return self.convolutions[name].backward(gradient, kept.get(before), masked=before in self.masked)
        if name.startswith("relu"):
            return relu_backward(gradient, kept[name])
        source = kept[before]
        if self.pooling == "max":
            return self.max_pooling.backward(gradient, source)
        gradient = gradient * AVERAGE_POOLING_SCALE
        found: Tensor = torch.ops.aten.avg_pool2d_backward(gradient, source, [2, 2], [2, 2], [0, 0], False, True, None)
        return found

    def _through_normalization(self, gradient: Tensor) -> Tensor:
        wide = gradient[:, :3].to(torch.promote_types(self.dtype, torch.float32)).contiguous()
        return wide / self.normalize.std if not isinstance(self.normalize, nn.Identity) else wide

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        return self.vjp(image)[0]

    def vjp(self, image: Tensor) -> tuple[dict[str, Tensor], Backward]:
        kept = self.forward(image)
        return {tap: kept[tap] for tap in self.taps}, lambda seed: self.backward(kept, seed).to(image.dtype)


def on_tensor_cores(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype == torch.bfloat16


def _prepared(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)
