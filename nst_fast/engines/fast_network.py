"""The encoder as straight-line code: forward, then backward by one rule per layer. No autograd, little memory.

Channels last, in the precision asked for, frozen weights prepared once. The rules, with g the gradient that arrives:

    conv   y = w * x + b      conv of g with w flipped in space and transposed in channels
    relu   y = max(x, 0)      g where y > 0; done in place, y is all that is kept
    max    y = max of 2x2     g to the first maximum of each window, looked for again: see max_pooling
    mean   y = s mean of 2x2  s g / 4 to each of the window

What is kept between the passes is one tensor per ReLU and per tap, each let go as soon as it was used. A convolution
and its ReLU are one call of cuDNN's where there is cuDNN: a pass over the features each for bias and ReLU, which that
saves, costs half as much as the convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from nst_fast.engines.crop_network import Backward, Seed
from nst_fast.engines.max_pooling import MaxPooling
from nst_fast.network.vgg import AVERAGE_POOLING_SCALE, Encoder

PAD_BACKWARD: dict[str, Callable[[Tensor, Tensor, list[int]], Tensor]] = {
    "replicate": torch.ops.aten.replication_pad2d_backward,
    "reflect": torch.ops.aten.reflection_pad2d_backward,
}


# With three channels cuDNN leaves the tensor cores idle: at 1024 pixels on an H200 the first convolution took 0.32 ms
# with 3 or 8 of them and 0.17 with 16, its way back 0.25 with 3 and 0.18 with 8 or 16.
CHANNELS_ON_TENSOR_CORES = 16
# Numbers in a result of the joined call. Beyond, indices need 64 bits, which only conv2d looks after.
LARGEST_JOINED = 2**31


class Convolution:
    """A frozen 3x3 convolution, forward and backward with respect to its input.

    Args:
        layer: whose weights are copied.
        dtype: of the copies.
        padding: ``zeros``, ``reflect`` or ``replicate``.
        channels: of the input; weights for those that the layer does not have are 0.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, padding: str, channels: int) -> None:
        weight = functional.pad(layer.weight.detach(), (0, 0, 0, 0, 0, channels - layer.in_channels))
        assert layer.bias is not None  # every convolution of VGG has one
        self.padding = padding
        self.bias = layer.bias.detach().to(dtype)
        self.weight = _prepared(weight, dtype)
        self.flipped = _prepared(weight.flip(2, 3).transpose(0, 1), dtype)
        self.joined = weight.is_cuda and torch.version.cuda is not None  # with its ReLU, by cuDNN; AMD's is another

    def forward(self, x: Tensor, *, rectify: bool) -> Tensor:
        """``rectify``: the ReLU that follows, too."""
        margin = 1
        if self.padding != "zeros":
            x, margin = functional.pad(x, (1, 1, 1, 1), mode=self.padding), 0
        if rectify and self._joins(x):
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, [1, 1], [margin, margin], [1, 1], 1)
        y = functional.conv2d(x, self.weight, self.bias, padding=margin)
        return y.relu_() if rectify else y

    def _joins(self, x: Tensor) -> bool:
        """Whether cuDNN has a joined call for it that is fast: not in IEEE fp32, which has no tensor cores."""
        quick = x.dtype == torch.bfloat16 or torch.backends.cudnn.allow_tf32
        return self.joined and quick and x[:, 0].numel() * len(self.bias) < LARGEST_JOINED

    def backward(self, gradient: Tensor, x: Tensor | None) -> Tensor:
        """``x`` is the input, needed only for padding that repeats it."""
        if self.padding == "zeros" or x is None:
            return functional.conv2d(gradient, self.flipped, padding=1)
        return PAD_BACKWARD[self.padding](functional.conv2d(gradient, self.flipped, padding=2), x, [1, 1, 1, 1])


class FastNetwork:
    """An encoder's layers, ready to run in both directions. Offers what the tiled evaluator asks of an engine.

    ``kernels``: with our own on a GPU, see :func:`nst_fast.run.scales.kernels_pay`.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype, *, kernels: bool = True) -> None:
        self.dtype = dtype
        self.normalize = encoder.normalize
        self.pooling = encoder.pooling
        self.taps = frozenset(encoder.taps)
        self.order = list(encoder.layers)
        device = next(encoder.parameters()).device
        self.channels = CHANNELS_ON_TENSOR_CORES if on_tensor_cores(device, dtype) else 3
        self.convolutions: dict[str, Convolution] = {}
        for name, layer in encoder.layers.items():
            if isinstance(layer, nn.Conv2d):
                first = name == "conv1_1"
                padding, channels = (encoder.padding, self.channels) if first else ("zeros", layer.in_channels)
                self.convolutions[name] = Convolution(layer, dtype, padding, channels)
        self.max_pooling = MaxPooling(device, own=kernels)
        self.masked = self._masked()

    def _masked(self) -> frozenset[str]:
        """The ReLUs through which our way back through the pooling above has gone already."""
        if self.pooling != "max" or self.max_pooling.kernels is None:
            return frozenset()
        pairs = zip(self.order, self.order[1:], strict=False)
        return frozenset(layer for layer, above in pairs if above.startswith("pool") and layer not in self.taps)

    def compile(self) -> None:
        """Let TorchInductor compile both passes at their first call, for one shape.

        It joins steps itself, so it is given the plain ones.
        """
        self.max_pooling.kernels = None
        self.masked = frozenset()
        for convolution in self.convolutions.values():
            convolution.joined = False
        self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[method-assign]
        self.backward = torch.compile(self.backward, dynamic=False)  # type: ignore[method-assign]

    @torch.no_grad()
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image [B, 3, H, W] to what the way back needs: the output of every ReLU and of every tap, by name."""
        x = self.normalize(image)
        if self.channels > 3:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.channels - 3))
        x = x.to(self.dtype, memory_format=torch.channels_last)
        kept = {"input": x}
        for name in self.order:
            if name in self.convolutions:
                x = self.convolutions[name].forward(x, rectify=name not in self.taps)
            elif name.startswith("relu"):
                x = torch.relu(x) if f"conv{name[4:]}" in self.taps else x  # else the convolution has done it
                kept[name] = x
            elif self.pooling == "max":
                x = self.max_pooling.forward(x)
            else:
                x = functional.avg_pool2d(x, 2).mul_(AVERAGE_POOLING_SCALE)
            if name in self.taps:
                kept[name] = x
        return kept

    @torch.no_grad()
    def backward(self, kept: dict[str, Tensor], seed: Seed) -> Tensor:
        """The gradient with respect to the image, float32 [B, 3, H, W]. Empties ``kept`` on its way."""
        gradient: Tensor | None = None
        for index in range(len(self.order) - 1, -1, -1):
            name = self.order[index]
            before = self.order[index - 1] if index else "input"
            if name in self.taps:
                gradient = seed(name, kept[name], gradient)
            assert gradient is not None  # the deepest layer is a tap: the encoder is cut there
            if name not in self.masked:
                gradient = self._layer_backward(name, before, gradient, kept)
            if name not in ("input", before):
                kept.pop(name, None)
        assert gradient is not None
        return self._through_normalization(gradient)

    def _layer_backward(self, name: str, before: str, gradient: Tensor, kept: dict[str, Tensor]) -> Tensor:
        if name in self.convolutions:
            return self.convolutions[name].backward(gradient, kept.get(before))
        if name.startswith("relu"):
            # In place: the gradient is ours. The mask is y > 0, the same as x > 0.
            return torch.ops.aten.threshold_backward.grad_input(gradient, kept[name], 0, grad_input=gradient)  # type: ignore[no-any-return]
        source = kept[before]
        if self.pooling == "max":
            return self.max_pooling.backward(gradient, source)
        gradient = gradient * AVERAGE_POOLING_SCALE
        return torch.ops.aten.avg_pool2d_backward(gradient, source, [2, 2], [2, 2], [0, 0], False, True, None)  # type: ignore[no-any-return]

    def _through_normalization(self, gradient: Tensor) -> Tensor:
        wide = gradient[:, :3].to(torch.promote_types(self.dtype, torch.float32)).contiguous()
        return wide / self.normalize.std if not isinstance(self.normalize, nn.Identity) else wide

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        """Tap -> features [B, C, h, w], see :class:`nst_fast.engines.crop_network.CropNetwork`."""
        return self.vjp(image)[0]

    def vjp(self, image: Tensor) -> tuple[dict[str, Tensor], Backward]:
        kept = self.forward(image)
        return {tap: kept[tap] for tap in self.taps}, lambda seed: self.backward(kept, seed).to(image.dtype)


def on_tensor_cores(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype == torch.bfloat16


def _prepared(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)
