"""The demonstration: draws its own pictures, exports, stylizes and shows the result beside its sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nst_fast.config import EncoderOptions, ExportConfig, StylizeConfig
from nst_fast.errors import WeightsError
from nst_fast.images import from_uint8, save_image, to_uint8
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Networks
from nst_fast.publish import find_or_export
from nst_fast.sample_art import draw_content, draw_style
from nst_fast.sheet import Cell, contact_sheet
from nst_fast.transfer import Listeners, Pastiche, stylize
from nst_fast.weights import load_weights

# Random filters know edges and colours but no objects: shallow taps, a strong hold on the content, several scales.
# Chosen by eye; through all five blocks they paint noise.
RANDOM_RECIPE: dict[str, str | int | float] = {
    "weights": "random:0",
    "content_taps": "relu1_2",
    "content_weight": 8.0,
    "style_taps": "relu1_1,relu1_2,relu2_1",
    "tv_weight": 40.0,
    "scales": 3,
    "min_size": 48,
}


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made, and where."""

    pastiche: Pastiche
    picture: Path
    sheet: Path
    model: Path


def demonstrate(folder: Path, config: StylizeConfig, *, overwrite: bool, listeners: Listeners) -> Demonstration:
    """Draw content and style, export the objective, stylize, and lay the three pictures side by side.

    The pretrained weights are used when they are cached or can be fetched; otherwise seeded random ones, with a note.
    """
    content, style, picture, sheet = (folder / f"{name}.png" for name in ("content", "style", "pastiche", "comparison"))
    OutputFiles(picture).check(overwrite=overwrite, inputs=())
    config = with_reachable_weights(config, listeners)
    draw_pictures(content, style, config.image_size)
    networks = Networks()
    published = find_or_export(ExportConfig.serving(config), note=listeners.note)
    pastiche = stylize(
        content, style, config, output=picture, overwrite=overwrite, listeners=listeners, networks=networks
    )
    cells = [
        Cell("content", draw_content(config.image_size)),
        Cell("style", draw_style(config.image_size)),
        Cell(f"pastiche, {pastiche.record.steps} steps", to_uint8(pastiche.image)),
    ]
    save_image(from_uint8(contact_sheet([cells])), sheet)
    return Demonstration(pastiche, picture, sheet, published.path)


def with_reachable_weights(config: StylizeConfig, listeners: Listeners) -> StylizeConfig:
    """The config if its weights can be had; else a recipe for seeded random ones, and a note that says so."""
    try:
        load_weights(config.weights, config.network, config.taps)
    except WeightsError as error:
        if config.weights != EncoderOptions().weights:
            raise  # weights that were asked for by name are not replaced behind the user's back
        recipe = f"random weights and shallow taps ({RANDOM_RECIPE['style_taps']})"
        listeners.note(f"{error.message}: this demonstration uses {recipe} instead")
        return config.replace(**RANDOM_RECIPE)
    return config


def draw_pictures(content: Path, style: Path, size: int) -> None:
    save_image(from_uint8(draw_content(size)), content)
    save_image(from_uint8(draw_style(size)), style)
