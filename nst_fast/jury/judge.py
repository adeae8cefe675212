"""Pictures scored against a content and a style picture: reading, sizes, and the sums over taps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.engines.precision import float32_arithmetic
from nst_fast.errors import InputError
from nst_fast.images import LoadedImage, from_uint8, resize_to, scaled_size, to_uint8
from nst_fast.images.given import Picture, Source, load_source, source_of
from nst_fast.jury import measures, perceptual
from nst_fast.jury.columns import COLUMNS, CONTENT_TAP, GRAM_TAPS, WASSERSTEIN_TAPS
from nst_fast.jury.results import Scores
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


@dataclass(frozen=True)
class _Style:
    """What is compared of the style at one size."""

    grams: Mapping[str, Tensor]
    projections: Mapping[str, Tensor]
    chroma_energy: float


@dataclass(frozen=True)
class _Content:
    """What is compared of the content at one size."""

    image: Tensor
    features: Tensor


class Jury:
    """Scores pictures of one content in one style; what it needs of these two is computed once per size.

    Args:
        content, style: files, or pictures in memory.
        config: every option.
        encoder: VGG-19 at :data:`TAPS` on its device, as :func:`load_encoder` gives it.

    """

    def __init__(self, content: Picture, style: Picture, config: EvaluateConfig, encoder: Encoder) -> None:
        self.content, self.style = source_of(content), source_of(style)
        self.config, self.encoder = config, encoder
        self.device = next(encoder.parameters()).device
        self.directions = {tap: measures.directions(tap, channels_of(tap)) for tap in WASSERSTEIN_TAPS}
        self.note = perceptual.missing()
        self._inputs: dict[Source, tuple[int, LoadedImage]] = {}
        self._contents: dict[tuple[int, int], _Content] = {}
        self._styles: dict[int, _Style] = {}

    def read(self, picture: Picture | Source) -> LoadedImage:
        """A picture at its own size.

        Raises:
            InputError: it, or the content, cannot be read; it has another shape than the content.
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

    def score(self, picture: LoadedImage) -> Scores:
        """Every column's score of a picture that :meth:`read` gave. Raises as :meth:`score_image` does."""
        image = picture.tensor
        size = (image.shape[3], image.shape[2])
        return Scores(picture.path, picture.sha256, size, self.score_image(image), picture.notes)

    def score_image(self, image: Tensor) -> dict[str, float | None]:
        """Column -> score of an image [1, 3, H, W] of the content's shape, as its 8-bit file would score.

        Raises:
            InputError: content or style cannot be read, or the style has a side under 16 pixels at this size.
        """
        image = from_uint8(to_uint8(image))
        height, width = image.shape[2], image.shape[3]
        with torch.no_grad(), float32_arithmetic("ieee"):
            content, style = self._content_at(height, width), self._style_at(max(height, width))
            features = self.encoder(image.to(self.device))
            found = self._style_scores(features, style) | self._content_scores(image, features, content)
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

    def _content_scores(
        self, image: Tensor, features: Mapping[str, Tensor], content: _Content
    ) -> dict[str, float | None]:
        distance = losses.content_loss(features[CONTENT_TAP], content.features, "relative").item()
        learned = None if self.note else perceptual.lpips(image, content.image)
        similarity = measures.structural_similarity(image, content.image)
        return {f"content_{CONTENT_TAP}": distance, "content_ssim": similarity, "content_lpips": learned}

    def _content_at(self, height: int, width: int) -> _Content:
        if (height, width) not in self._contents:
            image = self._content_image(height, width)
            features = self.encoder(image.to(self.device))[CONTENT_TAP]
            self._contents = {(height, width): _Content(image, features)}  # one size at a time is in memory
        return self._contents[height, width]

    def _style_at(self, longest_side: int) -> _Style:
        if longest_side not in self._styles:
            image = self._input(self.style, round(longest_side * self.config.style_scale)).tensor
            features = self.encoder(image.to(self.device))
            grams = {tap: losses.gram_matrix(features[tap]) for tap in GRAM_TAPS}
            projections = {
                tap: measures.sorted_projections(features[tap], self.directions[tap]) for tap in WASSERSTEIN_TAPS
            }
            self._styles = {longest_side: _Style(grams, projections, measures.chroma_energy(image))}
        return self._styles[longest_side]

    def _content_image(self, height: int, width: int) -> Tensor:
        """The content as it is read at the longest side, where rounding gives just this size."""
        image = self._input(self.content, max(height, width)).tensor
        if image.shape[2:] != (height, width):  # from twice the size, lest being resampled twice soften it
            image = resize_to(self._input(self.content, 2 * max(height, width)).tensor, (height, width))
        return image

    def _input(self, path: Source, longest_side: int) -> LoadedImage:
        """Content or style at a longest side, kept until another is asked for."""
        if path not in self._inputs or self._inputs[path][0] != longest_side:
            self._inputs[path] = longest_side, self._read(path, longest_side)
        return self._inputs[path][1]

    def _read(self, path: Source, longest_side: int | None = None) -> LoadedImage:
        background, limit = self.config.background, self.config.max_megapixels
        return load_source(path, longest_side=longest_side, background=background, max_megapixels=limit)


def load_encoder(config: EvaluateConfig) -> tuple[Encoder, dict[str, str]]:
    """The network at the jury's taps on its device, and where its weights come from."""
    device = resolve_device(config.device)
    encoder, weights = make_encoder(config.weights, NETWORK, TAPS)
    return encoder.to(device), {"source": Path(weights.source).name, "sha256": weights.sha256}


class Panel:
    """Juries for several pairs of pictures in one process: the network is loaded once, at once; the last pair is kept.

    Args:
        weights: of the jury's network, as ``original``.
        device: where features are computed.

    Raises:
        WeightsError, DeviceError: as :func:`load_encoder`.
    """

    def __init__(self, weights: str, device: str) -> None:
        self.weights = weights
        self._encoder, _ = load_encoder(EvaluateConfig(weights=weights, device=device))
        self._last: tuple[tuple[Path, Path, EvaluateConfig], Jury] | None = None

    def jury(self, content: Path, style: Path, run: StylizeConfig) -> Jury:
        """The jury of a pair of pictures, which are read as the run reads them."""
        key = (content, style, EvaluateConfig.serving(run, self.weights))
        if self._last is None or self._last[0] != key:
            self._last = key, Jury(*key, self._encoder)
        return self._last[1]
