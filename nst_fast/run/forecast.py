"""What a run would take, before its pictures and its network are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst_fast.engines.choice import without_trial
from nst_fast.images import scaled_size
from nst_fast.memory.planner import MemoryPlan, MemoryTask, budget_of, make_plan, may_use_winograd
from nst_fast.options.config import StylizeConfig
from nst_fast.run.scales import Scale, plan_scales, seamless_size
from nst_fast.system.machine import resolve_device

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Forecast:
    """A run to come: where and how it is computed, the memory of its last scale, and its scales."""

    device: str
    engine: str
    memory: MemoryPlan
    scales: tuple[Scale, ...]

    @property
    def work(self) -> int:
        """Pixels times steps."""
        return sum(scale.work for scale in self.scales)

    def share_done(self, step: int) -> float:
        """The part of the work that is done after ``step`` updates."""
        done = sum(scale.height * scale.width * min(max(step - scale.first, 0), scale.steps) for scale in self.scales)
        return done / self.work


def memory_of(config: StylizeConfig, size: Size, styles: Sequence[Size]) -> MemoryPlan:
    """The plan for a pastiche of this size. Precision ``auto`` counts as fp32, which needs the most.

    Raises:
        OutOfMemoryError: nothing fits; the message names the largest picture that does.
        DeviceError: there is no such device.
    """
    choice, device = without_trial(config), str(resolve_device(config.device))
    task = MemoryTask(
        config,
        choice.engine,
        choice.precision,
        *size,
        tuple(styles),
        masks=config.mask_count,
        winograd=may_use_winograd(config, device),
        device=device,
    )
    return make_plan(task, budget_of(config, device))


def forecast(config: StylizeConfig, content: Size, styles: Sequence[Size]) -> Forecast:
    """What painting a content picture of this size takes. Raises as :func:`memory_of` does."""
    height, width = _scaled(content, config.image_size) if config.content_fit == "keep" else (config.image_size,) * 2
    size = seamless_size(config, height, width)
    if config.style_fit == "keep":
        images = [_scaled(style, max(1, round(config.image_size * config.style_scale))) for style in styles]
    else:
        images = [(round(size[0] * config.style_scale), round(size[1] * config.style_scale))] * len(styles)
    options = config if config.style_factor else config.replace(scales=1)
    return Forecast(
        str(resolve_device(config.device)),
        without_trial(config).engine,
        memory_of(config, size, images),
        tuple(plan_scales(options, config.steps, *size)),
    )


def _scaled(size: Size, longest_side: int) -> Size:
    width, height = scaled_size(size[1], size[0], longest_side)
    return height, width
