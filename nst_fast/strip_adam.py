"""Adam on one rank's rows. An update needs no other rank; smoothing and a change of scale look at the rows around."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nst_fast.config import OptimizerOptions
from nst_fast.evaluators.strips import Strip
from nst_fast.optimizers import Adam, smoothed
from nst_fast.ranks.halos import Halos
from nst_fast.tiles import Extent

SMOOTHING_REACH = 2  # rows: pooled by 2 and brought back bilinearly, a pixel depends on one window further


class StripAdam(Adam):
    """The same numbers as :class:`nst_fast.optimizers.Adam` has for these rows of the whole picture."""

    def __init__(self, pastiche: Tensor, options: OptimizerOptions, strip: Strip) -> None:
        super().__init__(pastiche, options)
        self.strip = strip
        reach = SMOOTHING_REACH
        rows = [
            Extent(each.start, each.stop, max(0, each.start - reach), min(strip.height, each.stop + reach))
            for each in strip.rows
        ]
        self._around = Halos(strip.ranks, rows)

    def smooth(self) -> None:
        rows = self._around.mine
        seen = smoothed(self._around.fetch(self.pastiche))
        self.pastiche.copy_(seen[:, :, rows.start - rows.low : rows.stop - rows.low])

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
