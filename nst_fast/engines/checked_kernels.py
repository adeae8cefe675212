"""Kernels of our own: Triton's where they work, since it needs a C compiler, which not every machine has; Numba's."""

from __future__ import annotations

import functools
import threading
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.engines.max_pooling import WINDOW
from nst_fast.engines.precision import usable_precisions
from nst_fast.objective import losses

_working = threading.Lock()  # held by the one thread that finds out


def begin_kernels(device: torch.device) -> None:
    """Start what :func:`triton_kernels` will wait for, in a thread.

    Before its first kernel, cached or not, Triton hashes its own library: most of the half second that it takes, and
    beside other work it takes none.
    """
    if device.type == "cuda":
        threading.Thread(target=triton_kernels, args=(device,), daemon=True).start()


def pooling_kernels(device: torch.device, *, kernels: bool, numba: bool) -> ModuleType | None:
    """Triton's on a GPU, if ``kernels``; Numba's on a CPU, where ``numba`` is in use anyway; None for PyTorch's own."""
    if numba:
        from nst_fast.engines import pooling_kernels

        return pooling_kernels
    return triton_kernels(device)[0] if kernels else None


def triton_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """The Triton kernels for a GPU; or None, and on a GPU the reason."""
    if device.type != "cuda":
        return None, ""
    with _working:
        return working_kernels(device)


@functools.cache
def working_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """The Triton kernels if they give PyTorch's results on this device; or None, and the reason."""
    try:
        from nst_fast.engines import kernels

        for dtype in (torch.float32, torch.bfloat16):
            compare_pooling(kernels, some_features((1, 64, 7, 10), dtype).to(device))
        compare_total_variation(kernels, device)
        if "bf16" in usable_precisions(device):
            compare_seed(kernels, some_features((1, 128, 7, 10), torch.bfloat16).to(device))
    except Exception as error:  # any: a compiler that a library calls can fail in any way, and PyTorch works without
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"no kernels of our own, which are faster: Triton does not work here ({said})"
    return kernels, ""


def some_features(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Small whole numbers, so that products are exact and maxima equal; no random numbers of the caller's."""
    values = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.relu().to(dtype).to(memory_format=torch.channels_last)


def compare_pooling(kernels: ModuleType, x: Tensor) -> None:
    """Raise RuntimeError when the kernels and PyTorch pool channels-last features [B, C, H, W] differently."""
    pooled, indices = F.max_pool2d_with_indices(x, [2, 2])
    gradient = pooled.flip(1) - 1
    expected = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices) * (x > 0)
    found = kernels.max_pool(x), kernels.max_pool_and_relu_backward(gradient, x)
    if not (torch.equal(found[0], pooled) and torch.equal(found[1], expected)):
        raise RuntimeError("its max pooling differs from PyTorch's")


def compare_seed(kernels: ModuleType, x: Tensor) -> None:
    """Raise RuntimeError when the kernel seeds channels-last features [B, C, H, W], whole numbers, wrongly."""
    index = torch.arange(x.shape[1], device=x.device)
    slope = (torch.outer(index, index) % 5 - 2).float().expand(len(x), -1, -1)
    target, factor = x.flip(2).float().contiguous(), torch.arange(1, len(x) + 1, device=x.device) / 2
    from_style = torch.einsum("bchw,bcd->bdhw", x.float(), slope)
    difference = x.float() - target
    from_content, term = 2 * factor.view(-1, 1, 1, 1) * difference, factor * difference.square().sum((1, 2, 3))
    gradient = x.flip(1) - 1
    for above, style, content in ((True, True, False), (False, True, False), (True, False, True)):
        expected = gradient.float() * above + from_style * style + from_content * content
        given = (gradient.clone() if above else None, x, slope if style else None)
        found, found_term = kernels.seed_and_relu(*given, (target, factor) if content else None)
        if not torch.equal(found, (expected * (x > 0)).to(x.dtype)):
            raise RuntimeError("its seeds differ from PyTorch's")
        if content and not torch.equal(found_term, term):
            raise RuntimeError("its content term differs from PyTorch's")


def compare_total_variation(kernels: ModuleType, device: torch.device) -> None:
    """Raise RuntimeError when the kernel's total variation of two pictures is not PyTorch's."""
    values = torch.rand(3, 2, 3, 19, 37, generator=torch.Generator().manual_seed(1)).to(device)
    image, gradient, colors = values[0], values[1], values[2, :, :, :3, :3].mean(1)
    for weights in (losses.tv_colors(0.5, 2.0).to(image), colors + colors.transpose(1, 2)):
        leaf, found = image.clone().requires_grad_(True), gradient.clone()
        with torch.enable_grad():
            expected = losses.tv_loss(leaf, weights)
            (slope,) = torch.autograd.grad(expected.sum(), leaf)
        term = kernels.add_total_variation(found, image, weights)
        if not (torch.allclose(term, expected, rtol=1e-4) and torch.allclose(found - gradient, slope, atol=1e-6)):
            raise RuntimeError("its total variation differs from PyTorch's")
