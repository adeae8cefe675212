"""The demonstration: draws its own pictures, exports, stylizes and shows the result beside its sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nst_fast.api import Observer, Pastiche, stylize
from nst_fast.images import encode_image, from_uint8, save_image, to_uint8
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.onnx.checked_export import find_or_export
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.problem import Networks, files_read
from nst_fast.system.files import check_all_writable, user_path, write_atomic


@dataclass(frozen=True)
class Demonstration:
    pastiche: Pastiche
    picture: Path
    sheet: Path
    model: Path


def demonstrate(folder: Path, config: StylizeConfig, *, overwrite: bool, listeners: Observer) -> Demonstration:
    """Draw content and style, export the objective, stylize, and lay the three pictures side by side."""
    folder = user_path(folder)
    content, style, picture, sheet = (folder / f"{name}.png" for name in ("content", "style", "pastiche", "comparison"))
    inputs = files_read(config, [])
    OutputFiles(picture).check(overwrite=overwrite, inputs=inputs)
    drawn = draw_content(config.image_size), draw_style(config.image_size)
    files = {path: encode_image(from_uint8(each), ".png") for path, each in zip((content, style), drawn, strict=True)}
    wanting = {path: data for path, data in files.items() if not path.is_file() or path.read_bytes() != data}
    check_all_writable([*wanting, sheet], overwrite, inputs)
    for path, data in wanting.items():
        write_atomic(path, data)
    networks = Networks()
    published = find_or_export(ExportConfig.serving(config), note=listeners.note)
    pastiche = stylize(
        content, style, config, output=picture, overwrite=overwrite, listeners=listeners, networks=networks
    )
    last = Cell(f"pastiche, {pastiche.record.steps} steps", to_uint8(pastiche.image))
    cells = [Cell("content", drawn[0]), Cell("style", drawn[1]), last]
    save_image(from_uint8(contact_sheet([cells])), sheet)
    return Demonstration(pastiche, picture, sheet, published.path)
