"""The nodes: stylize, texture, evaluate, and regions with styles of their own.

ComfyUI's images are [B, H, W, 3 or more], its masks [B, H, W], both of floats in [0, 1]. A node runs in the thread that
executes the prompt, in inference mode, which nst-fast leaves for as long as a call lasts.
"""

from __future__ import annotations

import json
import logging
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from nst_fast import Networks, NstFastError, Observer, Pastiche, StylizeConfig, evaluate, stylize, texture
from nst_fast.options.commands import TextureConfig
from nst_fast.options.declaration import declared
from nst_fast.options.presets import PRESETS

if TYPE_CHECKING:
    from nst_fast.run.observer import StepEvent

CATEGORY = "nst-fast"
OF_PRESET = "preset"  # a choice: the preset's own value
LARGEST_SEED = 2**53 - 1  # a whole number of a browser
PREVIEW = 512  # longest side, in pixels
COLUMNS = ("style_swd", "content_relu4_3", "content_ssim", "chroma_noise")  # of evaluate, on the node
Regions = io.Custom("NST_FAST_REGIONS")
Region = tuple[Tensor, Tensor, float]  # mask, style image, weight
NETWORKS = Networks()  # loaded once for all prompts, with the targets of the styles used last


def widget(name: str, config_class: type = StylizeConfig, **changes: Any) -> io.Input:
    """The input of an option: type, range, default and help as it is declared."""
    item = declared(config_class)[name]
    facts = {"default": item.default, "tooltip": item.option.help.replace("`", "")}
    if item.option.choices:
        return io.Combo.Input(name, **{"options": list(item.option.choices), **facts, **changes})
    facts |= {"min": item.option.minimum, "max": item.option.maximum}
    return (io.Int if item.kind is int else io.Float).Input(name, **{**facts, **changes})


def further_options() -> io.Input:
    """The input for every option without one of its own."""
    return io.String.Input(
        "options",
        default="",
        multiline=True,
        optional=True,
        placeholder='style_loss = "moments"',
        tooltip="Further options of nst-fast stylize, one a line as in its --config files; they override all else.",
    )


def problem_of(options: object, config: StylizeConfig) -> str | None:
    """What is wrong with the text of :func:`further_options`; None where nothing is, or it comes from another node."""
    try:
        if isinstance(options, str):
            config.replace(**tomllib.loads(options))
    except (tomllib.TOMLDecodeError, NstFastError) as error:
        return f"options: {error}"
    return None


class Follower(Observer):
    """A node's progress over several runs, with previews; an interrupt ends a run within a step."""

    every = 10

    def __init__(self, node: str, runs: int) -> None:
        self.runs, self.run = runs, 0
        self._bar = ProgressBar(1, node_id=node)

    def event(self, event: StepEvent) -> None:
        shown = ("JPEG", preview(event.pastiche), PREVIEW)
        self._bar.update_absolute(self.run * event.steps + event.step, self.runs * event.steps, shown)

    def note(self, text: str) -> None:
        logging.info("nst-fast: %s", text)

    def stop(self) -> bool:
        return bool(model_management.processing_interrupted())

    def ended(self) -> None:
        """After each run. Raises ComfyUI's exception where it was interrupted."""
        model_management.throw_exception_if_processing_interrupted()
        self.run += 1


def preview(pastiche: Tensor) -> Image.Image:
    pixels = pastiche.detach()[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


def pictures_of(images: Tensor) -> list[np.ndarray[Any, Any]]:
    """A batch [B, H, W, C] as pictures [H, W, 3]; an alpha is left out, as ComfyUI's own nodes do."""
    return list(images[..., :3].float().clamp(0, 1).cpu().numpy())


def batch_of(pastiches: Sequence[Pastiche]) -> Tensor:
    return torch.cat([pastiche.image for pastiche in pastiches]).permute(0, 2, 3, 1).contiguous()


def records_of(pastiches: Sequence[Pastiche]) -> str:
    return json.dumps([pastiche.record.as_dict() for pastiche in pastiches])


def saved(folder: Path, name: str, values: Tensor) -> Path:
    """Values [H, W] or [H, W, C] as the file that nst-fast reads a mask or the style of a region from."""
    path = folder / f"{name}.png"
    pixels = values[..., :3] if values.ndim == 3 else values
    Image.fromarray(pixels.float().clamp(0, 1).mul(255).round().byte().cpu().numpy()).save(path)
    return path


def mask_options(
    folder: Path, index: int, content_mask: Tensor | None, style_mask: Tensor | None, regions: Sequence[Region]
) -> dict[str, Any]:
    """The options that name the masks of one picture of a batch; the last mask serves all further pictures."""
    found: dict[str, Any] = {}
    if content_mask is not None:
        found["content_mask"] = saved(folder, "content_mask", at(content_mask, index))
    if style_mask is not None:
        found["style_mask"] = [saved(folder, f"style_mask_{n}", mask) for n, mask in enumerate(style_mask)]
    if regions:
        found["region"] = [
            (saved(folder, f"region_{n}", at(mask, index)), saved(folder, f"region_style_{n}", style[0]), weight)
            for n, (mask, style, weight) in enumerate(regions)
        ]
    return found


def at(batch: Tensor, index: int) -> Tensor:
    return batch[min(index, len(batch) - 1)]


class Stylize(io.ComfyNode):
    """Paints each image of ``content`` in the style of all images of ``style`` together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        colors = declared(StylizeConfig)["color"].option.choices
        return io.Schema(
            node_id="NstFastStylize",
            display_name="Stylize (nst-fast)",
            category=CATEGORY,
            description="Neural style transfer by optimisation: the scene of content in the manner of style.",
            inputs=[
                io.Image.Input("content", tooltip="The pictures whose scene is kept; each is painted."),
                io.Image.Input("style", tooltip="The picture to paint like; several of a batch are blended."),
                io.Combo.Input("preset", options=list(PRESETS), default="painterly", tooltip="The recipe."),
                widget("image_size", min=0, tooltip="Longest side of the picture in pixels; 0: the preset's."),
                widget("steps", min=0, default=0, tooltip="Optimiser updates; 0: the preset's."),
                widget("strength", step=0.05),
                widget("style_scale", step=0.05),
                widget("color", options=[OF_PRESET, *colors], default=OF_PRESET),
                widget("seed", max=LARGEST_SEED),
                io.Mask.Input("content_mask", optional=True, tooltip="Where the content loss counts."),
                io.Mask.Input("style_mask", optional=True, tooltip="What of each style image is used."),
                Regions.Input("regions", optional=True, tooltip="Parts of the picture with styles of their own."),
                further_options(),
            ],
            outputs=[io.Image.Output(display_name="image"), io.String.Output(display_name="records")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, options: str = "") -> bool | str:
        return problem_of(options, StylizeConfig()) or True

    @classmethod
    def execute(
        cls,
        content: Tensor,
        style: Tensor,
        preset: str,
        content_mask: Tensor | None = None,
        style_mask: Tensor | None = None,
        regions: Sequence[Region] = (),
        options: str = "",
        **widgets: Any,
    ) -> io.NodeOutput:
        chosen = {name: value for name, value in widgets.items() if not unset(name, value)} | tomllib.loads(options)
        follower = Follower(cls.hidden.unique_id, len(content))
        styles, made = pictures_of(style), []
        for index, picture in enumerate(pictures_of(content)):
            with tempfile.TemporaryDirectory(prefix="nst-fast-") as folder:
                masks = mask_options(Path(folder), index, content_mask, style_mask, regions)
                given = on_device(masks | chosen)
                made.append(stylize(picture, styles, preset=preset, listeners=follower, networks=NETWORKS, **given))
            follower.ended()
        return io.NodeOutput(batch_of(made), records_of(made))


def unset(name: str, value: object) -> bool:
    """Whether a widget leaves an option to the preset."""
    return (name in ("image_size", "steps") and value == 0) or value == OF_PRESET


def on_device(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with ComfyUI's device where they name none, and without the monitor, which no node shows."""
    return {"device": str(model_management.get_torch_device()), "monitor_every": 0, **options}


class RegionNode(io.ComfyNode):
    """One more region; chained, they are all used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NstFastRegion",
            display_name="Style of a region (nst-fast)",
            category=CATEGORY,
            description="A part of the picture, white in the mask, with a style of its own.",
            inputs=[
                io.Mask.Input("mask"),
                io.Image.Input("style"),
                io.Float.Input("weight", default=1.0, min=0.01, max=100.0, step=0.05, tooltip="Of this style."),
                Regions.Input("regions", optional=True, tooltip="Regions before this one."),
            ],
            outputs=[Regions.Output(display_name="regions")],
        )

    @classmethod
    def execute(cls, mask: Tensor, style: Tensor, weight: float, regions: Sequence[Region] = ()) -> io.NodeOutput:
        return io.NodeOutput([*regions, (mask, style, weight)])


class Texture(io.ComfyNode):
    """A texture with the look of a style: as ``nst-fast texture`` makes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NstFastTexture",
            display_name="Texture (nst-fast)",
            category=CATEGORY,
            description="A picture with the look of style and no scene, from noise; seamless if wanted.",
            inputs=[
                io.Image.Input("style", tooltip="The picture whose look is taken; several of a batch are blended."),
                io.Int.Input("width", default=256, min=16, max=8192, step=16),
                io.Int.Input("height", default=256, min=16, max=8192, step=16),
                io.Int.Input("style_size", default=256, min=16, max=8192, tooltip="Longest side of the style image."),
                widget("steps", TextureConfig),
                widget("seamless"),
                widget("seed", max=LARGEST_SEED, control_after_generate=True),
                further_options(),
            ],
            outputs=[io.Image.Output(display_name="image"), io.String.Output(display_name="records")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, options: str = "") -> bool | str:
        return problem_of(options, TextureConfig()) or True

    @classmethod
    def execute(
        cls, style: Tensor, width: int, height: int, style_size: int, options: str = "", **widgets: Any
    ) -> io.NodeOutput:
        follower = Follower(cls.hidden.unique_id, 1)
        given = on_device({"image_size": style_size} | widgets | tomllib.loads(options))
        made = [texture(pictures_of(style), (height, width), listeners=follower, networks=NETWORKS, **given)]
        follower.ended()
        return io.NodeOutput(batch_of(made), records_of(made))


class Evaluate(io.ComfyNode):
    """Scores pictures of any origin."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NstFastEvaluate",
            display_name="Evaluate (nst-fast)",
            category=CATEGORY,
            description="Scores of pictures against content and style; none of them is a loss that is optimised.",
            inputs=[
                io.Image.Input("pictures", tooltip="Made of content and style, by whatever program."),
                io.Image.Input("content"),
                io.Image.Input("style"),
                io.String.Input(
                    "weights", default="original", tooltip="Of the network; scores compare under one only."
                ),
            ],
            outputs=[io.String.Output(display_name="scores")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, pictures: Tensor, content: Tensor, style: Tensor, weights: str) -> io.NodeOutput:
        one, other = pictures_of(content)[0], pictures_of(style)[0]
        device = str(model_management.get_torch_device())
        found = evaluate(one, other, pictures_of(pictures), weights=weights, device=device).as_dict()
        lines = [" ".join(f"{name} {each['scores'][name]:.4g}" for name in COLUMNS) for each in found["pictures"]]
        return io.NodeOutput(json.dumps(found), ui=ui.PreviewText("\n".join(lines)))


NODES = (Stylize, RegionNode, Texture, Evaluate)
