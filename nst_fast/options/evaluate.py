"""The options of the jury."""

from __future__ import annotations

from dataclasses import dataclass

from nst_fast.options.config import DEVICE_METAVAR, WEIGHTS_METAVAR, DeviceOptions, ImageOptions, StylizeConfig
from nst_fast.options.declaration import Options, declared, option


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Options):
    """Jury."""

    weights: str = option(
        "original",
        "The weights of the VGG-19 of all features, as in `nst-fast stylize`; scores compare under one file only.",
        metavar=WEIGHTS_METAVAR,
        names_file=True,
    )
    device: str = option(DeviceOptions.device, "Where features are computed.", metavar=DEVICE_METAVAR)
    style_scale: float = option(
        ImageOptions.style_scale,
        "Longest side of the style image, as a fraction of the picture's.",
        minimum=0.05,
        maximum=20,
    )
    background: str = option(ImageOptions.background, "The colour behind transparent pixels.", metavar="COLOUR")
    max_megapixels: float = option(
        ImageOptions.max_megapixels, "Refuse input files of more pixels than this.", minimum=0.001
    )

    @classmethod
    def serving(cls, run: StylizeConfig, weights: str) -> EvaluateConfig:
        """How the pictures of a run are scored: read as the run reads them, on its device."""
        return cls(weights=weights, **{name: getattr(run, name) for name in declared(cls) if name != "weights"})
