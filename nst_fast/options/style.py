"""The style losses as options know them: their names, and which kind of statistic each compares. No PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass

# Loss -> what it measures at a tap: "gram", the mean of f fᵀ over the features f of all positions. Those of
# :data:`ADDITIVE` are means over positions, so that tiles, processes and masks can add them up.
STATISTICS = {"gram": "gram"}
ADDITIVE = frozenset({"gram"})


@dataclass(frozen=True)
class StyleTerm:
    """One term of style.

    Attributes:
        name: of the term, and of its statistic and target: ``style/TAP``.
        tap: where it is measured.
        loss: a key of :data:`STATISTICS`.
        weight: all that the loss is multiplied by.
        region: of the picture; empty where there is only one.
    """

    name: str
    tap: str
    loss: str
    weight: float
    region: str = ""

    @property
    def statistic(self) -> str:
        return STATISTICS[self.loss]

    @property
    def additive(self) -> bool:
        """Whether the statistic is a mean over positions."""
        return self.statistic in ADDITIVE
