"""What is to be optimised: pictures and network loaded, and the objective and start of every scale built from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.config import EncoderOptions, ImageOptions, StylizeConfig
from nst_fast.images import LoadedImage, load_image
from nst_fast.machine import resolve_device
from nst_fast.objective import Objective, Statistics
from nst_fast.resizing import resize_to
from nst_fast.scales import Scale, plan_scales
from nst_fast.taps import cut
from nst_fast.targets import TargetCache
from nst_fast.vgg import Encoder
from nst_fast.weights import Weights, load_weights


class Networks:
    """Encoders and targets by what decides them, so that several runs in one process load a network once."""

    def __init__(self) -> None:
        self.targets = TargetCache()
        self._made: dict[tuple[object, ...], tuple[Encoder, dict[str, str]]] = {}
        self._weights: dict[tuple[str, str], Weights] = {}

    def encoder(
        self, options: EncoderOptions, taps: Sequence[str], device: torch.device
    ) -> tuple[Encoder, dict[str, str]]:
        """The encoder that serves the taps, and where its weights come from (source, sha256)."""
        kind = (options.network, options.weights, options.pooling, options.padding, options.input_normalization)
        key = (*kind, tuple(taps), str(device))
        if key not in self._made:
            weights = self.weights(options, taps)
            encoder = Encoder(
                options.network,
                taps,
                pooling=options.pooling,
                padding=options.padding,
                normalize_input=options.input_normalization == "imagenet",
            ).load_features(weights.state)
            self._made[key] = (encoder.to(device), {"source": weights.source, "sha256": weights.sha256})
        return self._made[key]

    def weights(self, options: EncoderOptions, taps: Sequence[str]) -> Weights:
        """Weights that reach the deepest of the taps; loaded again only for taps deeper than any before."""
        key = (options.weights, options.network)
        needed = sum(layer.startswith("conv") for layer in cut(options.network, taps))
        if key not in self._weights or len(self._weights[key].state) < 2 * needed:  # a weight and a bias each
            self._weights[key] = load_weights(options.weights, options.network, taps)
        return self._weights[key]


@dataclass(frozen=True)
class Problem:
    """One optimisation problem.

    Attributes:
        config: every option of the run.
        content: the picture whose scene is kept; None when there is no content loss and nothing to start from.
        styles: the pictures whose manner is taken.
        height, width: of the pastiche at the final scale.
        encoder, weights: the network on its device, and where its weights come from.
        device: where the loop runs.
        targets: built for this and for other runs.
    """

    config: StylizeConfig
    content: LoadedImage | None
    styles: tuple[LoadedImage, ...]
    height: int
    width: int
    encoder: Encoder
    weights: dict[str, str]
    device: torch.device
    targets: TargetCache = field(default_factory=TargetCache)

    @property
    def scales(self) -> list[Scale]:
        return plan_scales(self.config, self.config.steps, self.height, self.width)

    @property
    def notes(self) -> list[str]:
        """What the reading of the pictures has to say."""
        pictures = [self.content, *self.styles] if self.content else self.styles
        return [note for picture in pictures for note in picture.notes]

    def content_at(self, scale: Scale) -> Tensor | None:
        """The content image at a scale, [1, 3, H, W] on the device."""
        if self.content is None:
            return None
        return at_size(self.content.tensor, scale.height, scale.width).to(self.device)

    def styles_at(self, scale: Scale) -> list[Tensor]:
        """The style images at a scale, each shrunk by the scale's fraction, on the device."""
        images = [style.tensor for style in self.styles]
        sizes = [(round(image.shape[2] * scale.fraction), round(image.shape[3] * scale.fraction)) for image in images]
        return [at_size(image, *size).to(self.device) for image, size in zip(images, sizes, strict=True)]

    def targets_at(self, scale: Scale) -> Statistics:
        return self.targets.build(self.encoder, self.config, self.content_at(scale), self.styles_at(scale))

    def objective_at(self, scale: Scale) -> Objective:
        """The objective at a scale: its targets are those of the pictures at that scale."""
        return Objective(self.config, self.targets_at(scale))

    def start_at(self, scale: Scale) -> Tensor:
        """Where the pastiche starts, [1, 3, H, W] on the device: content, uniform noise, or a file."""
        content = self.content_at(scale)
        if self.config.init == "content" and content is not None:
            return content.clone()
        if self.config.init in ("content", "noise"):
            generator = torch.Generator().manual_seed(self.config.seed)  # on the CPU: the same noise on every device
            return torch.rand((1, 3, scale.height, scale.width), generator=generator).to(self.device)
        image = read_picture(Path(self.config.init), self.config, max(scale.height, scale.width))
        return at_size(image.tensor, scale.height, scale.width).to(self.device)


def load_problem(
    config: StylizeConfig,
    content: Path | None,
    styles: Sequence[Path],
    networks: Networks,
    *,
    size: tuple[int, int] | None = None,
) -> Problem:
    """Load pictures and network.

    Args:
        config: every option of the run.
        content: may be None for a texture, which has no content; then ``size`` says how large it becomes.
        styles: may be empty for a reconstruction, which has no style.
        networks: shares loaded networks between runs.
        size: height and width of the pastiche; by default the content's shape at ``image_size``.
    """
    device = resolve_device(config.device)
    content_image = read_picture(content, config, config.image_size) if content is not None else None
    style_size = round(config.image_size * config.style_scale)
    style_images = tuple(read_picture(path, config, style_size) for path in styles)
    encoder, weights = networks.encoder(config, config.taps, device)
    if size is None:
        shape = (
            content_image.tensor.shape if content_image is not None else (1, 3, config.image_size, config.image_size)
        )
        size = (shape[2], shape[3])
    return Problem(config, content_image, style_images, *size, encoder, weights, device, networks.targets)


def read_picture(path: Path, options: ImageOptions, longest_side: int) -> LoadedImage:
    return load_image(
        path, longest_side=longest_side, background=options.background, max_megapixels=options.max_megapixels
    )


def at_size(image: Tensor, height: int, width: int) -> Tensor:
    """The image at a size; untouched when it has it."""
    return image if image.shape[2:] == (height, width) else resize_to(image, (height, width))
