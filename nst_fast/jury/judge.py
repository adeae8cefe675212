"""Pictures scored against a content and a style image: reading, sizes, and the means over taps."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.engines.precision import float32_arithmetic
from nst_fast.errors import InputError
from nst_fast.images import LoadedImage, from_uint8, load_image, resize_to, scaled_size, to_uint8
from nst_fast.images.given import Picture, Source, source_of
from nst_fast.jury import measures
from nst_fast.jury.columns import COLUMNS, CONTENT_TAP, GRAM_TAPS, WASSERSTEIN_TAPS
from nst_fast.network.taps import channels_of
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective import losses
from nst_fast.options.config import StylizeConfig
from nst_fast.options.evaluate import EvaluateConfig
from nst_fast.system.files import shown
from nst_fast.system.machine import resolve_device

NETWORK = "vgg19"
TAPS = tuple(dict.fromkeys((*GRAM_TAPS, *WASSERSTEIN_TAPS, CONTENT_TAP)))
TOLERANCE = 2  # pixels by which a side may differ from the content's shape: programs round sizes in many ways


@dataclass(frozen=True, eq=False)
class _Style:
    """What is compared of the style image at one size."""

    grams: Mapping[str, Tensor]
    projections: Mapping[str, Tensor]
    chroma_energy: float


class Jury:
    """Scores pictures of one content in one style; what it needs of these two is computed once per size.

    Args:
        content, style: files, or pictures in memory.
        config: every option.
        encoder: VGG-19 at :data:`TAPS` on its device, as :func:`load_encoder` gives it.

    Attributes:
        note: why there is no LPIPS; empty when there is.
    """

    def __init__(self, content: Picture, style: Picture, config: EvaluateConfig, encoder: Encoder) -> None:
        self.content, self.style = source_of(content), source_of(style)
        self.config, self.encoder = config, encoder
        self.device = next(encoder.parameters()).device
        self.directions = {tap: measures.directions(tap, channels_of(tap)) for tap in WASSERSTEIN_TAPS}
        self.note = measures.missing_for_lpips()
        self._inputs: dict[Source, tuple[int, LoadedImage]] = {}
        # One size at a time is in memory.
        self._content_at = functools.lru_cache(maxsize=1)(self._measured_content)
        self._style_at = functools.lru_cache(maxsize=1)(self._measured_style)

    def read(self, picture: Picture | Source) -> LoadedImage:
        """A picture at its own size.

        Raises :class:`InputError` where it or the content cannot be read, or it has another shape than the content.
        """
        loaded = self._read(source_of(picture))
        size = loaded.original_size
        content = self._input(self.content, max(size)).original_size
        wanted = scaled_size(*content, max(size))
        if max(abs(side - other) for side, other in zip(size, wanted, strict=True)) > TOLERANCE:
            raise InputError(
                f"{shown(loaded.path)} is {size[0]}x{size[1]}, another shape than the content's "
                f"{content[0]}x{content[1]}",
                f"Give a picture of this content: of that longest side it has {wanted[0]}x{wanted[1]} pixels",
            )
        return loaded

    def score(self, image: Tensor) -> dict[str, float | None]:
        """Column -> score of an image [1, 3, H, W] of the content's shape, as its 8-bit file would score.

        Raises :class:`InputError` where content or style cannot be read, or the style is under 16 pixels at this size.
        """
        image = from_uint8(to_uint8(image))
        height, width = image.shape[2], image.shape[3]
        with torch.no_grad(), float32_arithmetic("fp32"):
            content_image, content_features = self._content_at(height, width)
            style = self._style_at(max(height, width))
            features = self.encoder(image.to(self.device))
            found = self._style_scores(features, style)
            distance = losses.content_loss(features[CONTENT_TAP], content_features, "relative")
            found[f"content_{CONTENT_TAP}"] = distance.item()
            found["content_lpips"] = None if self.note else measures.lpips(image, content_image)
        found["content_ssim"] = measures.structural_similarity(image, content_image)
        found["chroma_noise"] = measures.chroma_noise(measures.chroma_energy(image), style.chroma_energy)
        found["clipped"] = measures.clipped(image)
        return {column.name: found[column.name] for column in COLUMNS}

    def inputs(self) -> list[LoadedImage]:
        """Content and style as they were read last. Call it when something has been scored."""
        return [self._inputs[path][1] for path in (self.content, self.style)]

    def _style_scores(self, features: Mapping[str, Tensor], style: _Style) -> dict[str, float | None]:
        distances = {
            f"style_swd_{tap}": measures.sliced_wasserstein(features[tap], projected, self.directions[tap])
            for tap, projected in style.projections.items()
        }
        grams = {
            f"style_gram_{tap}": losses.style_loss(losses.gram_matrix(features[tap]), gram, "relative", 1.0, 1).item()
            for tap, gram in style.grams.items()
        }
        means = {"style_swd": statistics.fmean(distances.values()), "style_gram": statistics.fmean(grams.values())}
        return {**means, **distances, **grams}

    def _measured_content(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The content image at a size, and its features."""
        image = self._input(self.content, max(height, width)).tensor
        if image.shape[2:] != (height, width):  # rounded otherwise: from twice the size, to be softened less
            image = resize_to(self._input(self.content, 2 * max(height, width)).tensor, (height, width))
        return image, self.encoder(image.to(self.device))[CONTENT_TAP]

    def _measured_style(self, longest_side: int) -> _Style:
        image = self._input(self.style, round(longest_side * self.config.style_scale)).tensor
        features = self.encoder(image.to(self.device))
        grams = {tap: losses.gram_matrix(features[tap]) for tap in GRAM_TAPS}
        projections = {
            tap: measures.sorted_projections(features[tap], self.directions[tap]) for tap in WASSERSTEIN_TAPS
        }
        return _Style(grams, projections, measures.chroma_energy(image))

    def _input(self, path: Source, longest_side: int) -> LoadedImage:
        """Content or style at a longest side, kept until another is asked for."""
        if path not in self._inputs or self._inputs[path][0] != longest_side:
            self._inputs[path] = longest_side, self._read(path, longest_side)
        return self._inputs[path][1]

    def _read(self, path: Source, longest_side: int | None = None) -> LoadedImage:
        background, limit = self.config.background, self.config.max_megapixels
        return load_image(path, longest_side=longest_side, background=background, max_megapixels=limit)


def load_encoder(config: EvaluateConfig) -> tuple[Encoder, dict[str, str]]:
    """The network at the jury's taps on its device, and where its weights come from."""
    device = resolve_device(config.device)
    encoder, weights = make_encoder(config.weights, NETWORK, TAPS)
    return encoder.to(device), weights.facts


class Panel:
    """Juries for several pairs of pictures in one process: the network is loaded at once; the last jury is kept.

    ``weights`` and ``device`` are options of ``evaluate``. Raises what :func:`load_encoder` raises.
    """

    def __init__(self, weights: str, device: str) -> None:
        self.weights = weights
        self._encoder, _ = load_encoder(EvaluateConfig(weights=weights, device=device))
        self._jury = functools.lru_cache(maxsize=1)(Jury)

    def jury(self, content: Path, style: Path, run: StylizeConfig) -> Jury:
        """The jury of a pair of pictures, which are read as the run reads them."""
        return self._jury(content, style, EvaluateConfig.serving(run, self.weights), self._encoder)
