"""The memory planner: predicts before a run how much memory it takes, and cuts pictures into tiles that fit.

A budget counts from the start-up footprint: the process with PyTorch imported, before network and pictures. PyTorch is
imported only to ask a GPU for its free memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import psutil

from nst_fast.errors import OutOfMemoryError
from nst_fast.memory.footprint import (
    FIXED,
    HOLES,
    IMAGE,
    MIB,
    PRECISION_BYTES,
    PREPARED_COPIES,
    SESSION_COPIES,
    SESSION_WINOGRAD_PIXELS,
    WEIGHT_COPIES,
    WINOGRAD_COPIES,
    WINOGRAD_FIXED,
    elements,
    forward_bytes,
    step_bytes,
    weight_bytes,
)
from nst_fast.memory.grids import Grid, cut_into, grids, tiling_like
from nst_fast.network.tiles import Tiling
from nst_fast.options.config import StylizeConfig
from nst_fast.system.machine import has_own_memory

WINOGRAD_SHARE = 1 / 8  # of the budget, for transformed weights
FREE_SHARE = 0.9  # of a device's free memory may be planned for
MARGIN = 1.05  # the prediction may be this much too low
SMALLEST_HISTORY = 3  # L-BFGS with fewer pairs is hardly better than steepest descent
GOOD_HISTORY = 5  # a shorter one costs more steps than tiles cost time
# Pictures held at once: content, pastiche, the best so far, the gradient.
IMAGES = 4
# Of the optimiser: held during an evaluation (L-BFGS: and two per pair), and in use during an update.
OPTIMIZER_IMAGES = 2
UPDATE_IMAGES = {"adam": 2, "lbfgs": 5}
FLOAT = 4  # bytes
# Bytes per pixel of a mask: as read, at the size of the scale, times alpha, and carried down to every tap.
MASK = FLOAT * (3 + 4 / 3)


@dataclass(frozen=True)
class MemoryTask:
    """What decides the memory of one scale of a run.

    Attributes:
        engine, precision: what really runs.
        height, width: of the pastiche in pixels.
        styles: height and width of every style image.
        pictures: how many pastiches of this size are optimised together.
        masks: of the pastiche, of regions and of what counts.
        winograd: whether layers are convolved by Winograd's algorithm.
        device: where it is computed.
    """

    config: StylizeConfig
    engine: str
    precision: str
    height: int
    width: int
    styles: tuple[tuple[int, int], ...] = ()
    pictures: int = 1
    masks: int = 0
    winograd: bool = False
    device: str = "cpu"

    @property
    def pixels(self) -> int:
        """Of all pastiches."""
        return self.height * self.width * self.pictures

    @property
    def size(self) -> int:
        """Bytes per number of features."""
        return PRECISION_BYTES[self.precision]

    @property
    def tileable(self) -> bool:
        return self.engine != "ort" and not self.config.whole_losses

    @property
    def family(self) -> str:
        """Whose code decides the memory: compiled is the fast engine, fused."""
        return "fast" if self.engine in ("fast", "compiled") else "eager"

    @property
    def weight_copies(self) -> float:
        """How often the weights are in memory."""
        if self.engine == "ort" and self.device == "cpu":
            transformed = self.precision == "fp32" and self.pixels >= SESSION_WINOGRAD_PIXELS
            return WEIGHT_COPIES + SESSION_COPIES + (WINOGRAD_COPIES if transformed else 0)
        prepared = PREPARED_COPIES * self.size / 4 if self.family == "fast" else 0.0
        return WEIGHT_COPIES + prepared + (WINOGRAD_COPIES if self.winograd else 0)

    @property
    def update_bytes(self) -> int:
        """Taken by an update of the optimiser."""
        return IMAGE * UPDATE_IMAGES[self.config.optimizer] * self.pixels

    def step_bytes(self, *, tiled: bool) -> float:
        """Per pixel of the crop, or of the whole picture, at the worst moment of an evaluation."""
        return step_bytes(self.config, self.family, self.size, tiled=tiled, guided=self.masks > 0)


@dataclass(frozen=True)
class MemoryPlan:
    """How a scale is run, and what that takes.

    Attributes:
        tiling: of the pastiche; a single tile means that it is evaluated whole.
        lbfgs_history: pairs that L-BFGS keeps.
        halve_content: whether content targets are kept in half precision.
        parts: what the memory goes to, in bytes, by name.
        budget: bytes that may be used.
    """

    tiling: Tiling
    lbfgs_history: int
    halve_content: bool
    parts: dict[str, int]
    budget: int

    @property
    def tiled(self) -> bool:
        return not self.tiling.whole

    @property
    def peak(self) -> int:
        """Bytes above the start-up footprint."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.peak * MARGIN <= self.budget

    def as_dict(self) -> dict[str, object]:
        """Plain data, for records and ``--json``."""
        return {
            "width": self.tiling.width,
            "height": self.tiling.height,
            "grid": list(self.tiling.grid),
            "halo": self.tiling.halo,
            "overhead": round(self.tiling.overhead, 3),
            "lbfgs_history": self.lbfgs_history,
            "halve_content": self.halve_content,
            "peak_mib": round(self.peak / MIB),
            "budget_mib": round(self.budget / MIB),
            "parts_mib": {name: round(value / MIB) for name, value in self.parts.items()},
        }

    def __str__(self) -> str:
        rows, columns = self.tiling.grid
        crop = self.tiling.largest_crop
        how = f"{rows}x{columns} tiles, crops up to {crop[1]}x{crop[0]}" if self.tiled else "whole"
        parts = ", ".join(f"{name} {value / MIB:.0f}" for name, value in self.parts.items())
        return (
            f"plan: {self.tiling.width}x{self.tiling.height} {how}: {self.peak / MIB:.0f} MiB of "
            f"{self.budget / MIB:.0f} MiB ({parts})"
        )


def free_memory(device: str) -> int:
    """Bytes that a device has free now."""
    if has_own_memory(device):
        import torch

        return int(torch.accelerator.get_memory_info(device)[0])
    return int(psutil.virtual_memory().available)


def budget_of(config: StylizeConfig, device: str) -> int:
    """Bytes that a run may use: ``max_memory``, but never more than most of what the device has free."""
    free = int(FREE_SHARE * free_memory(device))
    return min(config.max_memory or free, free)


def may_use_winograd(config: StylizeConfig, device: str) -> bool:
    """Whether a long run may convolve by Winograd's algorithm: its weights take a small part of the memory."""
    suits = config.engine in ("auto", "fast") and config.precision in ("auto", "fp32") and device == "cpu"
    transformed = WINOGRAD_COPIES * weight_bytes(config.network, config.taps)
    return suits and config.convolution != "direct" and transformed <= WINOGRAD_SHARE * budget_of(config, device)


def predict(task: MemoryTask, tiling: Tiling, budget: int, *, history: int, halve: bool) -> MemoryPlan:
    """The plan with a given tiling, and the memory that it takes."""
    config, pixels = task.config, task.pixels
    fixed = FIXED[config.optimizer] + (WINOGRAD_FIXED if task.winograd else 0)
    network = fixed + task.weight_copies * weight_bytes(config.network, config.taps)
    styles = sum(height * width for height, width in task.styles)
    step = task.step_bytes(tiled=not tiling.whole)
    style = forward_bytes(config.network, config.taps) if tiling.whole else step  # while targets are built
    # Losses of sorted features keep one number for each of the pastiche's; the others a few matrices.
    sorting = [term.tap for term in config.style_terms.values() if term.loss in ("sliced", "histogram")]
    pairs = 2 * history if config.optimizer == "lbfgs" else 0
    images = OPTIMIZER_IMAGES + pairs + (1 if config.average_decay else 0)
    crops = [math.prod(tiling_like(config, tiling, *size).largest_crop) for size in task.styles]
    parts = {
        "network": network + (HOLES if tiling.whole else 0),
        "pictures": IMAGE * (IMAGES * pixels + styles),
        **({"masks": MASK * task.masks * pixels} if task.masks else {}),
        "optimiser": IMAGE * images * pixels,
        **({"style targets": FLOAT * sum(map(elements, sorting)) * pixels} if sorting else {}),
        "content targets": FLOAT / (2 if halve else 1) * sum(map(elements, config.content_tap_weights)) * pixels,
        "step": max(
            step * math.prod(tiling.largest_crop) * task.pictures, task.update_bytes, *(style * crop for crop in crops)
        ),
    }
    return MemoryPlan(tiling, history, halve, {name: round(value) for name, value in parts.items()}, budget)


def make_plan(task: MemoryTask, budget: int) -> MemoryPlan:
    """The fastest plan that fits: whole, or with as little halo as possible.

    L-BFGS keeps fewer pairs where that avoids tiles, but at least :data:`GOOD_HISTORY`. When nothing fits, content
    targets go to half precision, and then L-BFGS keeps still fewer pairs.

    Raises:
        OutOfMemoryError: nothing fits; the message names the largest picture that does.
    """
    plan = _find(task, budget)
    if plan.fits:
        return plan
    raise OutOfMemoryError(
        f"{task.width}x{task.height} needs at least {plan.peak * MARGIN / MIB:.0f} MiB above the start-up footprint, "
        f"and there are {budget / MIB:.0f} MiB",
        _remedy(task, budget),
    )


def _find(task: MemoryTask, budget: int) -> MemoryPlan:
    """The plan of :func:`make_plan`; when nothing fits, the one that needs least."""
    table = grids(task.config, task.height, task.width, tiled=task.tileable)
    whole = [grid for grid in table if grid.whole]
    histories = _histories(task.config)
    attempts = [(whole, history, False) for history in histories if whole and history >= GOOD_HISTORY]
    attempts += [(table, history, halve) for history in histories for halve in (False, True)]
    for grid_table, history, halve in attempts:
        plan = _best(task, grid_table, budget, history=history, halve=halve)
        if plan.fits:
            break
    return plan


def _best(task: MemoryTask, table: list[Grid], budget: int, *, history: int, halve: bool) -> MemoryPlan:
    """The grid of least halo that fits, else the one of the smallest crops."""

    def plan_of(grid: Grid) -> MemoryPlan:
        tiling = cut_into(task.config, task.height, task.width, grid.shape)
        return predict(task, tiling, budget, history=history, halve=halve and not grid.whole)

    costs = {whole: task.step_bytes(tiled=not whole) for whole in (False, True)}
    least = plan_of(min(table, key=lambda grid: grid.crop))
    rest = least.peak - least.parts["step"]
    for grid in sorted(table, key=lambda grid: (not grid.whole, grid.overhead)):
        step = max(costs[grid.whole] * grid.crop * task.pictures, task.update_bytes)
        # The estimate, without style images, avoids hundreds of plans.
        if (rest + step) * MARGIN <= budget and (plan := plan_of(grid)).fits:
            return plan
    return least


def smaller_plan(task: MemoryTask, plan: MemoryPlan) -> MemoryPlan:
    """A plan whose step takes at most half of this one's memory, or the least possible; all else is the same.

    Raises:
        OutOfMemoryError: the plan's crops are the smallest already.
    """
    config = replace(task.config, tile_size=0)
    table = grids(config, task.height, task.width, tiled=task.tileable)
    step, cost = plan.parts["step"], task.step_bytes(tiled=True)
    fitting = [grid for grid in table if not grid.whole and 2 * cost * grid.crop <= step]
    chosen = min(fitting, key=lambda grid: grid.overhead) if fitting else min(table, key=lambda grid: grid.crop)
    if chosen.whole or chosen.crop >= math.prod(plan.tiling.largest_crop):
        raise OutOfMemoryError("memory ran out, and there are no smaller tiles", "Choose a smaller `image_size`")
    tiling = cut_into(config, task.height, task.width, chosen.shape)
    return predict(task, tiling, plan.budget, history=plan.lbfgs_history, halve=plan.halve_content)


def _histories(config: StylizeConfig) -> list[int]:
    """Lengths of the L-BFGS history to try: the option's, and halves of it."""
    histories = [config.lbfgs_history]
    while config.optimizer == "lbfgs" and histories[-1] > SMALLEST_HISTORY:
        histories.append(max(SMALLEST_HISTORY, histories[-1] // 2))
    return histories


def _remedy(task: MemoryTask, budget: int) -> str:
    size = largest_size(task, budget)
    if size is None:
        return "Free some memory, or give `max_memory` more"
    light = replace(task, config=task.config.replace(optimizer="adam", learning_rate=None))
    adam = ", use `optimizer` adam, which fits" if _find(light, budget).fits else ""
    return f"The largest that fits is `image_size` {max(size)} ({size[1]}x{size[0]}){adam}, or give `max_memory` more"


def largest_size(task: MemoryTask, budget: int) -> tuple[int, int] | None:
    """Height and width of the largest picture of the same shape that fits, style images shrunk alike; None: nothing."""
    low, high = 16, max(task.height, task.width)

    def at(side: int) -> MemoryTask:
        scale = side / max(task.height, task.width)
        (height, width), *styles = (
            (max(16, round(rows * scale)), max(16, round(columns * scale)))
            for rows, columns in ((task.height, task.width), *task.styles)
        )
        return replace(task, height=height, width=width, styles=tuple(styles))

    if not _find(at(low), budget).fits:
        return None
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (middle, high) if _find(at(middle), budget).fits else (low, middle)
    return at(low).height, at(low).width
