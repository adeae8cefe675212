"""Optimisers on one rank's rows. Adam's update needs no other rank, that of L-BFGS sums of products over all of them;
smoothing and a change of scale look at the rows around.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nst_fast.distributed.strips import Halos, Strip
from nst_fast.network.tiles import Extent
from nst_fast.optimizers.adam import Adam
from nst_fast.optimizers.base import PixelOptimizer, smoothed
from nst_fast.optimizers.lbfgs import LBFGS
from nst_fast.options.config import OptimizerOptions

SMOOTHING_REACH = 2  # rows: pooled by 2 and brought back bilinearly, a pixel depends on one window further


def make_strip_optimizer(
    pastiche: Tensor, options: OptimizerOptions, strip: Strip, previous: PixelOptimizer | None = None
) -> PixelOptimizer:
    """What :func:`nst_fast.optimizers.make_optimizer` makes, for a strip [B, 3, h, W] of the pastiche."""
    if options.optimizer == "lbfgs":
        return StripLBFGS(pastiche, options, strip)
    optimizer = StripAdam(pastiche, options, strip)
    if isinstance(previous, StripAdam):
        optimizer.take_over(previous)
    return optimizer


def halos_of_smoothing(strip: Strip) -> Halos:
    reach = SMOOTHING_REACH
    rows = [
        Extent(each.start, each.stop, max(0, each.start - reach), min(strip.height, each.stop + reach))
        for each in strip.rows
    ]
    return Halos(strip.ranks, rows)


def smoothed_strip(own: Tensor, around: Halos) -> Tensor:
    """What :func:`nst_fast.optimizers.smoothed` makes of these rows of the whole picture."""
    rows = around.mine
    return smoothed(around.fetch(own))[:, :, rows.start - rows.low : rows.stop - rows.low]


class StripAdam(Adam):
    """The same numbers as :class:`nst_fast.optimizers.Adam` has for these rows of the whole picture."""

    def __init__(self, pastiche: Tensor, options: OptimizerOptions, strip: Strip) -> None:
        super().__init__(pastiche, options)
        self.strip = strip
        self._around = halos_of_smoothing(strip)

    def smooth(self) -> None:
        self.pastiche.copy_(smoothed_strip(self.pastiche, self._around))

    def take_over(self, coarser: Adam) -> None:
        """As for a whole picture, which the moments are for as long as it takes to resize them."""
        state = coarser._adam.state.get(coarser.pastiche)
        if not (state and isinstance(coarser, StripAdam)):
            return
        size = (self.strip.height, self.strip.width)
        mean, square = (coarser.strip.whole(state[name]) for name in ("exp_avg", "exp_avg_sq"))
        self._adam.state[self.pastiche] = {
            "step": state["step"].clone(),
            "exp_avg": self.strip.own(functional.interpolate(mean, size, mode="bicubic")),
            "exp_avg_sq": self.strip.own(functional.interpolate(square, size, mode="bilinear").relu_()),
        }


class StripLBFGS(LBFGS):
    """The same numbers as :class:`nst_fast.optimizers.LBFGS` has for these rows of the whole picture."""

    def __init__(self, pastiche: Tensor, options: OptimizerOptions, strip: Strip) -> None:
        def total(part: Tensor) -> Tensor:
            strip.ranks.all_reduce(part)
            return part

        super().__init__(pastiche, options, total)
        self._around = halos_of_smoothing(strip)

    def smooth(self) -> None:
        self.restart_from(smoothed_strip(self.pastiche, self._around))
