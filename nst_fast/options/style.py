"""The losses as options know them: their names, and which kind of statistic each compares. No PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass

# Style loss -> what it measures at a tap, of the features f of all positions:
#   gram     the mean of f fᵀ
#   moments  the mean of f [f; 1]ᵀ, so that the last column is the mean of f
#   samples  the features themselves; of the style, of as many positions as SAMPLES says
STATISTICS = {
    "gram": "gram",
    "moments": "moments",
    "wasserstein": "moments",
    "sliced": "samples",
    "nearest": "samples",
    "remd": "samples",
    "histogram": "samples",  # the term of `histogram_weight`, no value of `style_loss`
}
STYLE_LOSSES = tuple(name for name in STATISTICS if name != "histogram")
# Means over positions: tiles, processes and masks can add them up.
ADDITIVE = frozenset({"gram", "moments"})
# For messages: the losses that do without the whole picture in one piece.
IN_PARTS = "`style_loss` gram, moments and wasserstein, and `content_loss` features"
SAMPLES = {"sliced": 2**14, "histogram": 2**14, "nearest": 2**10, "remd": 2**10}

CONTENT_LOSSES = ("features", "self-similarity")


@dataclass(frozen=True)
class StyleTerm:
    """One term of style.

    Attributes:
        name: of the term, and of its statistic and target: ``style/TAP`` or ``histogram/TAP``.
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
