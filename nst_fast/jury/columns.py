"""The measures as data: the one home of every column's name, unit, direction and source."""

from __future__ import annotations

from dataclasses import dataclass

LOWER, HIGHER = "lower", "higher"
WASSERSTEIN_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")  # held out: no default objective reads them
GRAM_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_TAP = "relu4_3"


@dataclass(frozen=True)
class Column:
    """One measure."""

    name: str  # in JSON and CSV
    heading: str  # above the column of a table for people; empty for what only JSON and CSV hold
    unit: str  # what 1 stands for: every measure is free of dimension
    better: str  # ``lower`` or ``higher``
    source: str  # the paper, or ``ours``
    what: str  # the definition, in one sentence

    @property
    def title(self) -> str:
        """The heading with an arrow that says which way is better."""
        return f"{self.heading} {'↓' if self.better == LOWER else '↑'}"

    def as_dict(self) -> dict[str, str]:
        """All but the heading."""
        return {name: value for name, value in vars(self).items() if name != "heading"}


def _wasserstein(name: str, heading: str, what: str) -> Column:
    source = "Rabin et al. 2011; Heitz et al. 2021; Rowland et al. 2019"
    return Column(name, heading, "1 = the size of the style's own features", LOWER, source, what)


def _gram(name: str, heading: str, what: str) -> Column:
    return Column(name, heading, "1 = the style's own energy", LOWER, "Gatys et al. 2016, eq. 3 and 4", what)


COLUMNS = (
    _wasserstein(
        "style_swd",
        "style\nSWD",
        f"sliced Wasserstein distance to the style: the mean over {', '.join(WASSERSTEIN_TAPS)}",
    ),
    *(
        _wasserstein(
            f"style_swd_{tap}",
            "",
            f"sliced Wasserstein-2 distance of the features at {tap} to the style's, by the root mean square of those",
        )
        for tap in WASSERSTEIN_TAPS
    ),
    _gram("style_gram", "style\nGram", f"relative Gram distance to the style: the mean over {', '.join(GRAM_TAPS)}"),
    *(
        _gram(
            f"style_gram_{tap}",
            "",
            f"squared distance of the mean Gram matrix at {tap} to the style's, by the style's sum of squares",
        )
        for tap in GRAM_TAPS
    ),
    Column(
        f"content_{CONTENT_TAP}",
        f"content\n{CONTENT_TAP}",
        "1 = a feature map of zeros",
        LOWER,
        "Gatys et al. 2016, eq. 1",
        f"squared distance of the features at {CONTENT_TAP} to the content's, by the content's sum of squares",
    ),
    Column(
        "content_ssim",
        "content\nSSIM",
        "1 = the same luminance everywhere",
        HIGHER,
        "Wang et al. 2004",
        "structural similarity of luminance (Y of YIQ) to the content: Gaussian windows of sigma 1.5 px, K1 0.01, K2 "
        "0.03, the mean over the picture",
    ),
    Column(
        "content_lpips",
        "content\nLPIPS",
        "0 = the same picture",
        LOWER,
        "Zhang et al. 2018",
        "learned perceptual distance to the content (torchmetrics, AlexNet); empty where its weights are not there",
    ),
    Column(
        "chroma_noise",
        "chroma\nnoise",
        "1 = as much as the style has",
        LOWER,
        "ours",
        "energy of high-frequency chroma (I and Q of YIQ less a Gaussian blur of sigma 2 px) by that of the style",
    ),
    Column(
        "clipped",
        "clipped",
        "share of channel values, 0 to 1",
        LOWER,
        "ours",
        "channel values at the end of the range, 0 or 255 of 8 bits",
    ),
)
HEADLINE = tuple(column for column in COLUMNS if column.heading)  # of the table for people: means, not single taps
STYLE, CONTENT = "style_swd", f"content_{CONTENT_TAP}"
# Of tables that compare many pictures: name -> title in one line.
_NOT_COMPARED = ("content_lpips", "clipped")
COMPARED = {each.name: each.title.replace("\n", " ") for each in HEADLINE if each.name not in _NOT_COMPARED}
