"""The memory planner: says before a run how much memory it takes, and cuts pictures into tiles when that is too much.

A budget counts from the start-up footprint: what the process holds once PyTorch is imported, before network and
pictures. Nothing here imports PyTorch, but for asking a GPU what it has free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil

from nst_fast.config import StylizeConfig
from nst_fast.errors import OutOfMemoryError
from nst_fast.footprint import (
    FIXED,
    IMAGE,
    MIB,
    PRECISION_BYTES,
    PREPARED_COPIES,
    WEIGHT_COPIES,
    kept_bytes,
    step_bytes,
    target_bytes,
    weight_bytes,
)
from nst_fast.tiles import Tiling, grid_for_side, halo_of, make_tiling

FREE_SHARE = 0.9  # of what a device has free may be planned for
MARGIN = 1.05  # the prediction may be this much too low
LARGEST_TENSOR = 2**31  # elements; a larger one needs 64-bit indexing, which libraries do not do everywhere
SMALLEST_HISTORY = 3  # L-BFGS with fewer pairs is hardly better than steepest descent
# Pictures held at once: content, pastiche, best so far, gradient, and the clone, view or snapshot of the moment.
IMAGES = 5
ADAM_IMAGES = 2
LBFGS_IMAGES = 5  # direction, two gradients, and two at work, beside two per pair of the history


@dataclass(frozen=True)
class Job:
    """What decides the memory of one scale of a run.

    Attributes:
        config: every option.
        engine, precision: what really runs.
        height, width: of the pastiche in pixels.
        styles: height and width of every style image.
    """

    config: StylizeConfig
    engine: str
    precision: str
    height: int
    width: int
    styles: tuple[tuple[int, int], ...] = ()

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def size(self) -> int:
        """Bytes per number of features."""
        return PRECISION_BYTES[self.precision]

    @property
    def family(self) -> str:
        """Whose code decides the memory: compiled is the fast engine, fused."""
        return "fast" if self.engine in ("fast", "compiled") else "eager"


@dataclass(frozen=True)
class Plan:
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
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def budget_of(config: StylizeConfig, device: str) -> int:
    """Bytes that a run may use: ``max_memory``, but never more than most of what the device has free."""
    free = int(FREE_SHARE * free_memory(device))
    return min(config.max_memory_bytes or free, free)


def predict(job: Job, grid: tuple[int, int], budget: int, *, history: int, halve: bool) -> Plan:
    """The plan with a given grid, and what it takes."""
    config = job.config
    tiling = make_tiling(config.network, config.taps, job.height, job.width, grid)
    tiled = not tiling.whole
    styles = [_crop_pixels(job, tiling, *style) for style in job.styles]
    step = step_bytes(config.network, config.taps, config.pooling, job.family, job.size, tiled=tiled)
    forward = kept_bytes(config.network, config.taps, config.pooling, job.size) if tiled else 800.0
    optimizer = ADAM_IMAGES if config.optimizer == "adam" else LBFGS_IMAGES + 2 * history
    weights = weight_bytes(config.network, config.taps)
    copies = PREPARED_COPIES * job.size / 4 if job.family == "fast" else 0.0
    parts = {
        "network": weights * (WEIGHT_COPIES + copies) + FIXED,
        "pictures": IMAGE * (IMAGES * job.pixels + sum(height * width for height, width in job.styles)),
        "optimiser": IMAGE * optimizer * job.pixels,
        "content targets": target_bytes(config.content_tap_weights, 2 if halve else 4) * job.pixels,
        "step": max([step * math.prod(tiling.largest_crop), *(forward * pixels for pixels in styles)]),
    }
    return Plan(tiling, history, halve, {name: round(value) for name, value in parts.items()}, budget)


def _crop_pixels(job: Job, tiling: Tiling, height: int, width: int) -> int:
    """Pixels of the largest crop of a style image, cut as the pastiche is."""
    return math.prod(tiling_like(job.config, tiling, height, width).largest_crop)


def tiling_like(config: StylizeConfig, tiling: Tiling, height: int, width: int) -> Tiling:
    """A tiling of another picture with crops about as large; whole when the pastiche is evaluated whole."""
    if tiling.whole:
        return make_tiling(config.network, config.taps, height, width, (1, 1))
    side = math.isqrt(math.prod(tiling.largest_crop)) - 2 * tiling.halo
    return make_tiling(config.network, config.taps, height, width, grid_for_side(config.taps, height, width, side))


def make_plan(job: Job, budget: int) -> Plan:
    """The fastest plan that fits: whole, or with as little halo as possible.

    Content targets go to half precision, and then L-BFGS gives up pairs, only when nothing fits without.

    Raises:
        OutOfMemoryError: nothing fits; the message names the largest picture that does.
    """
    plan = _first_that_fits(job, budget)
    if plan is not None:
        return plan
    least = min(_candidates(job, budget), key=lambda candidate: candidate.peak)
    raise OutOfMemoryError(
        f"{job.width}x{job.height} needs at least {least.peak / MIB:.0f} MiB above the start-up footprint, and there "
        f"are {budget / MIB:.0f} MiB",
        _remedy(job, budget),
    )


def _first_that_fits(job: Job, budget: int) -> Plan | None:
    fitting = (plan for plan in _candidates(job, budget) if plan.fits)
    return min(fitting, key=lambda plan: plan.tiling.overhead if plan.tiled else 0.0, default=None)


def _candidates(job: Job, budget: int) -> Iterator[Plan]:
    """Plans worth a look; stops at the first history, and the first precision of targets, with which something fits."""
    config = job.config
    histories = [config.lbfgs_history]
    while config.optimizer == "lbfgs" and histories[-1] > SMALLEST_HISTORY:
        histories.append(max(SMALLEST_HISTORY, histories[-1] // 2))
    for history in histories:
        for halve in (False, True):
            found = False
            for grid in _grids(job):
                plan = predict(job, grid, budget, history=history, halve=halve and grid != (1, 1))
                found = found or plan.fits
                yield plan
            if found:
                return


def _grids(job: Job) -> list[tuple[int, int]]:
    """The whole picture, unless a tensor of it would be too large, and grids of tiles at least as wide as a halo."""
    config = job.config
    if config.tile_size:
        return [grid_for_side(config.taps, job.height, job.width, config.tile_size)]
    if job.engine == "ort":
        return [(1, 1)]
    side = max(halo_of(config.network, config.taps), 64)
    most = tuple(max(1, min(64, length // side)) for length in (job.height, job.width))
    grids = [(rows, columns) for rows in range(1, most[0] + 1) for columns in range(1, most[1] + 1)]
    whole_fits_indices = 64 * job.pixels < LARGEST_TENSOR
    # Tiles far from square have more halo than they need to.
    shape = job.height / job.width
    return [
        grid
        for grid in grids
        if (grid == (1, 1) and whole_fits_indices) or (grid != (1, 1) and 0.4 < shape * grid[1] / grid[0] < 2.5)
    ]


def _remedy(job: Job, budget: int) -> str:
    size = largest_size(job, budget)
    if size is None:
        return "Free some memory, or give --max-memory more"
    return f"The largest that fits is --image-size {max(size)} ({size[1]}x{size[0]}), or give --max-memory more"


def largest_size(job: Job, budget: int) -> tuple[int, int] | None:
    """Height and width of the largest picture of the same shape that fits, style images shrunk alike; None: nothing."""
    low, high = 16, max(job.height, job.width)

    def at(side: int) -> Job:
        scale = side / max(job.height, job.width)

        def shrunk(size: tuple[int, int]) -> tuple[int, int]:
            return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))

        height, width = shrunk((job.height, job.width))
        return replace(job, height=height, width=width, styles=tuple(shrunk(style) for style in job.styles))

    if _first_that_fits(at(low), budget) is None:
        return None
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (middle, high) if _first_that_fits(at(middle), budget) else (low, middle)
    return at(low).height, at(low).width


def describe(plan: Plan) -> dict[str, object]:
    """The plan as plain data, for records and ``--json``."""
    return {
        "width": plan.tiling.width,
        "height": plan.tiling.height,
        "grid": list(plan.tiling.grid),
        "halo": plan.tiling.halo,
        "overhead": round(plan.tiling.overhead, 3),
        "lbfgs_history": plan.lbfgs_history,
        "halve_content": plan.halve_content,
        "peak_mib": round(plan.peak / MIB),
        "budget_mib": round(plan.budget / MIB),
        "parts_mib": {name: round(value / MIB) for name, value in plan.parts.items()},
    }
