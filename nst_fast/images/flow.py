"""Optical flow between frames of a film, where it holds, and pictures moved along it.

A flow [1, 2, H, W] says of every pixel of one frame how far away, to the right and down in pixels, the same point is in
another. Needs the extra ``video``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.errors import UsageError
from nst_fast.images.matching import gray

RAFT_SIDE, RAFT_CELL = 128, 8  # the least side that the network takes, and what sides are multiples of
COLORS = 8  # bins of each channel in the histograms of a cut
# A cut: so large a share of pixels has no match in the frame before, or a smaller one with other colours all over.
LOST, LOST_WITH_COLORS, OTHER_COLORS = 0.75, 0.35, 0.35

STILL = 100.0  # the trust in a point that has not changed, in units of that in one that has moved
WINDOW, TINY = 3, 0.1 / 255  # the pixels around a point that say so, and a difference that is none

LIGHT = 3 / 255  # a mean difference there that is light; with noise of 5 grey levels it has a deviation of 1.4

Estimate = Callable[[Tensor, Tensor], Tensor]


def dense_inverse_search(first: Tensor, second: Tensor) -> Tensor:
    """The flow from one frame [1, 3, H, W] to another (Kroeger et al. 2016, arXiv:1603.03590), by OpenCV.

    In one thread: several would share out the rows, and the flow would depend on their number.
    """
    import cv2

    before, after = (gray(each)[0, 0].mul(255).round().byte().cpu().numpy() for each in (first, second))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        found = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before, after, None)
    finally:
        cv2.setNumThreads(threads)
    return torch.from_numpy(found).permute(2, 0, 1)[None]


def raft(device: torch.device) -> Estimate:
    """RAFT (Teed & Deng 2020, arXiv:2003.12039) of torchvision, from the weights in the cache of PyTorch's hub.

    Raises :class:`UsageError` where they are not there: they are not downloaded.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    weights = Raft_Large_Weights.DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.is_file():
        remedy = f"Download {weights.url} to {path.parent}, or use `flow` dis"
        raise UsageError("`flow` raft: the network's weights are not there", remedy)
    network = raft_large()
    network.load_state_dict(torch.load(path, weights_only=True))
    network = network.eval().to(device)

    @torch.no_grad()
    def estimate(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[2:]
        sides = [max(RAFT_SIDE, -(-side // RAFT_CELL) * RAFT_CELL) for side in (height, width)]
        margins = (0, sides[1] - width, 0, sides[0] - height)
        pair = [F.pad(each.to(device) * 2 - 1, margins, "replicate") for each in (first, second)]
        return network(*pair)[-1][:, :, :height, :width].cpu()  # type: ignore[no-any-return]  # PyTorch has no type

    return estimate


def estimator(name: str, device: torch.device) -> Estimate:
    """The estimator of an option ``flow``. Raises :class:`UsageError` where it is not installed."""
    if name == "raft":
        return raft(device)
    if importlib.util.find_spec("cv2") is None:
        raise UsageError(
            "`flow` dis: motion is found by OpenCV, which is not installed", "`pip install opencv-python-headless`"
        )
    return dense_inverse_search


def warp(image: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """What an image [1, C, H, W] has at the places that the flow points to; outside, what is at its border."""
    last = flow.new_tensor([image.shape[3] - 1, image.shape[2] - 1]).clamp_min(1)
    grid = places_of(flow).permute(0, 2, 3, 1) * 2 / last - 1
    return F.grid_sample(image, grid, mode, padding_mode="border", align_corners=True)


def places_of(flow: Tensor) -> Tensor:
    """Column and row that a flow points to, of every pixel [1, 2, H, W]."""
    rows, columns = torch.meshgrid(torch.arange(flow.shape[2]), torch.arange(flow.shape[3]), indexing="ij")
    return torch.stack([columns, rows])[None].to(flow) + flow


@dataclass(frozen=True, eq=False)
class Motion:
    """How a frame is found in another: the flow to it [1, 2, H, W], and where [1, 1, H, W] that can be trusted."""

    flow: Tensor
    seen: Tensor  # 1 where the other frame has the same point, 0 where it is hidden there
    trusted: Tensor  # 1 where ``seen``, but 0 at the borders of what moves, where the flow is blurred
    still: Tensor  # 1 where nothing has changed

    def holding(self, still: Tensor) -> Motion:
        """The same, but for what is still: that has not moved, and is trusted ``STILL`` times as much."""
        seen, trusted = torch.maximum(self.seen, still), torch.maximum(self.trusted, STILL * still)
        return Motion(self.flow * (1 - still), seen, trusted, still)

    @property
    def lost(self) -> float:
        """The share of pixels that the other frame does not have."""
        return 1 - float(self.seen.mean())


def motion_to(other: Tensor, frame: Tensor, estimate: Estimate) -> Motion:
    """How a frame is found in another, both [1, 3, H, W] in [0, 1] on the CPU."""
    there, back = estimate(frame, other), estimate(other, frame)
    seen = consistent(there, back)
    return Motion(there, seen, seen * (1 - motion_boundaries(there)), unchanged(other, frame, there))


def consistent(there: Tensor, back: Tensor) -> Tensor:
    """Where going there and back ends where it began [1, 1, H, W]: 1, else 0.

    Sundaram, Brox & Keutzer 2010, by Ruder et al. 2016, section 4.2. What moves out of the picture is not found.
    """
    returned = warp(back, there, "bilinear")
    length = (there.square() + returned.square()).sum(1, keepdim=True)
    same = (there + returned).square().sum(1, keepdim=True) <= 0.01 * length + 0.5
    last = there.new_tensor([there.shape[3] - 0.5, there.shape[2] - 0.5]).view(1, 2, 1, 1)
    places = places_of(there)
    inside = ((places >= -0.5) & (places <= last)).all(1, keepdim=True)
    return (same & inside).float()


def unchanged(other: Tensor, frame: Tensor, flow: Tensor) -> Tensor:
    """Where the other frame unmoved is as much like the frame as moved by a short flow [1, 1, H, W]: 1, else 0.

    There nothing has moved, and what an estimate says is the motion of neighbours: pictures moved along it again and
    again would blur and drift. Where the light has changed, something has.
    """

    def local(values: Tensor) -> Tensor:
        return F.avg_pool2d(values.mean(1, keepdim=True), WINDOW, 1, WINDOW // 2, count_include_pad=False)

    unmoved, moved = (local((frame - each).abs()) for each in (other, warp(other, flow)))
    short = flow.square().sum(1, keepdim=True) < 1
    same_light = local(frame - other).abs() <= LIGHT
    return (short & same_light & (unmoved <= 1.1 * moved + TINY)).float()


def motion_boundaries(flow: Tensor) -> Tensor:
    """1 where the flow changes abruptly from one pixel to the next [1, 1, H, W] (Ruder et al. 2016, section 4.2)."""
    changes = torch.zeros_like(flow[:, :1])
    changes[:, :, :, :-1] += flow.diff(dim=3).square().sum(1, keepdim=True)
    changes[:, :, :-1] += flow.diff(dim=2).square().sum(1, keepdim=True)
    return (changes > 0.01 * flow.square().sum(1, keepdim=True) + 0.002).float()


def is_cut(before: Tensor, frame: Tensor, motion: Motion) -> bool:
    """Whether a frame [1, 3, H, W] begins a scene: what it shows is not in the one before, to which ``motion`` goes."""
    if motion.lost > LOST:
        return True
    difference = (color_histogram(before) - color_histogram(frame)).abs().sum() / 2
    return motion.lost > LOST_WITH_COLORS and float(difference) > OTHER_COLORS


def color_histogram(image: Tensor) -> Tensor:
    """The share of the pixels of an image [1, 3, H, W] in each of ``COLORS`` cubed bins."""
    levels = (image[0] * COLORS).long().clamp(0, COLORS - 1)
    bins = (levels[0] * COLORS + levels[1]) * COLORS + levels[2]
    return torch.bincount(bins.flatten(), minlength=COLORS**3).float() / bins.numel()
