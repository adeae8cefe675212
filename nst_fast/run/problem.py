"""What is to be optimised: pictures and network loaded, and the objective and start of every scale built from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.engines.checked_kernels import begin_kernels
from nst_fast.errors import UsageError
from nst_fast.images import NO_BORDERS, Borders, Crop, LoadedImage
from nst_fast.images.given import KINDS, Source, load_source
from nst_fast.images.matching import gray, matched_colors
from nst_fast.images.postprocess import finished, prepared_content, prepared_style
from nst_fast.images.resizing import resize_to
from nst_fast.images.sources import STANDARD_INPUT
from nst_fast.network.taps import cut
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import Weights, load_weights, resolved
from nst_fast.objective.objective import Edges, Objective, Statistics
from nst_fast.objective.targets import TargetCache
from nst_fast.options.config import EncoderOptions, ImageOptions, StylizeConfig
from nst_fast.run.scales import Scale, is_long, plan_scales
from nst_fast.system.clock import Phases
from nst_fast.system.machine import resolve_device


class Networks:
    """Encoders and targets by what decides them, so that several runs in one process load a network once."""

    def __init__(self) -> None:
        self.targets = TargetCache()
        self._made: dict[tuple[object, ...], tuple[Encoder, dict[str, str]]] = {}
        self._weights: dict[tuple[str, str], Weights] = {}

    def encoder(
        self, options: EncoderOptions, taps: Sequence[str], device: torch.device
    ) -> tuple[Encoder, dict[str, str]]:
        """The encoder that serves the taps, and where its weights come from."""
        source = resolved(options.weights, options.network)
        kind = (options.network, source, options.pooling, options.padding, options.input_normalization)
        key = (*kind, tuple(taps), str(device))
        if key not in self._made:
            weights = self.weights(options, taps)
            encoder = weights.encoder(taps, **options.encoder_keywords)
            self._made[key] = (encoder.to(device), weights.facts)
        return self._made[key]

    def weights(self, options: EncoderOptions, taps: Sequence[str]) -> Weights:
        """Weights that reach the deepest of the taps; loaded again only for taps deeper than any before."""
        key = (resolved(options.weights, options.network), options.network)
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
        phases: where the time went so far.
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
    phases: Phases = field(default_factory=Phases)

    @property
    def scales(self) -> list[Scale]:
        # Without style the content is the answer, and must not pass through smaller sizes.
        options = self.config if self.config.style_factor else self.config.replace(scales=1)
        return plan_scales(options, options.steps, self.height, self.width)

    @property
    def pictures(self) -> tuple[LoadedImage, ...]:
        return (self.content, *self.styles) if self.content else self.styles

    @property
    def notes(self) -> list[str]:
        """What the reading of pictures and weights has to say, each with the name of its file."""
        found = [f"{picture.path.name}: {note}" for picture in self.pictures for note in picture.notes]
        return [*found, f"{self.weights['source']}: {self.weights['note']}"] if "note" in self.weights else found

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read."""
        return files_read(self.config, [it.path for it in self.pictures if it.format not in KINDS])

    def content_at(self, scale: Scale) -> Tensor | None:
        """The content image at a scale, [1, 3, H, W] on the device."""
        if self.content is None:
            return None
        content = at_size(self.content.tensor, scale.height, scale.width).to(self.device)
        return prepared_content(content, self.config)

    def styles_at(self, scale: Scale) -> list[Tensor]:
        """The style images at a scale, each shrunk by the scale's fraction, on the device."""
        images = [style.tensor for style in self.styles]
        sizes = [(round(image.shape[2] * scale.fraction), round(image.shape[3] * scale.fraction)) for image in images]
        return [at_size(image, *size).to(self.device) for image, size in zip(images, sizes, strict=True)]

    def targets_at(self, scale: Scale) -> Statistics:
        blend = self.config.blend_weights
        with self.phases("targets"):
            return self.targets.build(self.encoder, self.config, self.content_at(scale), self.styles_at(scale), blend)

    def objective_at(self, scale: Scale) -> Objective:
        """The objective at a scale: its targets are those of the pictures at that scale."""
        return Objective(self.config.dialled(), self.targets_at(scale))

    def start_at(self, scale: Scale) -> Tensor:
        """Where the pastiche starts, [1, 3, H, W] on the device.

        Content, recoloured or plus noise, uniform noise, or a file; below strength 1 that much nearer to the content.
        """
        start = self._init_at(scale)
        if self.config.color == "luma":
            start = gray(start)
        content = self.content_at(scale)
        return start if content is None else torch.lerp(content, start, self.config.strength)

    def finished(self, pastiche: Tensor) -> tuple[Tensor, list[str]]:
        """The picture on the CPU at its full size, its colours kept and its noise taken out if the config says so.

        Returns:
            The picture [1, 3, H, W], and what was done to it, for the record.
        """
        picture = at_size(pastiche.detach(), self.height, self.width).clamp(0, 1).cpu()
        content = self.content.tensor if self.content is not None else None
        if content is not None:
            content = at_size(content, self.height, self.width)
        return finished(picture, content, self.config)

    def _init_at(self, scale: Scale) -> Tensor:
        content, init = self.content_at(scale), self.config.init
        if init == "content" and content is not None:
            return content.clone()
        if init == "recolored" and content is not None:
            return self._recolored(content, self.styles_at(scale))
        file = self.config.init_file
        if file is None:
            generator = torch.Generator().manual_seed(self.config.seed)  # on the CPU: the same noise on every device
            noise = torch.rand((1, 3, scale.height, scale.width), generator=generator).to(self.device)
            if init == "content+noise" and content is not None:
                return (content + self.config.noise * noise).clamp(0, 1)
            return noise
        image = read_picture(file, self.config, max(scale.height, scale.width))
        return at_size(image.tensor, scale.height, scale.width).to(self.device)

    def _recolored(self, content: Tensor, styles: Sequence[Tensor]) -> Tensor:
        """The content with the style's mean colour and covariance, several blended in their shares.

        What the first dozens of steps would do, done at once: with it 75 steps come as far as 120 without.
        """
        if not styles:
            return content.clone()
        shares = self.config.blend_weights or [1.0] * len(styles)
        parts = [share * matched_colors(content, style) for share, style in zip(shares, styles, strict=True)]
        return torch.stack(parts).sum(0) / sum(shares)


class Batch:
    """Problems of one config and one size, which share a loop; usually there is one.

    Everything [B, ...] of a run has one entry per problem.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        self.config, self.encoder, self.device, self.weights = first.config, first.encoder, first.device, first.weights
        self.scales = first.scales
        self.styles = tuple(style for problem in self.problems for style in problem.styles)
        self.notes = list(dict.fromkeys(note for problem in self.problems for note in problem.notes))

    @property
    def count(self) -> int:
        return len(self.problems)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of all problems went, by phase."""
        total: Counter[str] = Counter()
        for problem in self.problems:
            total.update(problem.phases.seconds)
        return dict(total)

    def content_at(self, scale: Scale) -> Tensor | None:
        """The content images at a scale, [B, 3, H, W] on the device."""
        contents = [content for problem in self.problems if (content := problem.content_at(scale)) is not None]
        return joined(contents) if contents else None

    def styles_at(self, scale: Scale) -> list[Tensor]:
        return [image for problem in self.problems for image in problem.styles_at(scale)]

    def start_at(self, scale: Scale) -> Tensor:
        """Where the pastiches start, [B, 3, H, W] on the device."""
        return torch.cat([problem.start_at(scale) for problem in self.problems])

    def objective_at(self, scale: Scale) -> Objective:
        """The objective at a scale, with the targets of every problem: ``color`` may have changed its styles."""
        each = [problem.targets_at(scale) for problem in self.problems]
        content, style = (
            {name: joined([targets[name] for targets in kind]) for name in kind[0]}
            for kind in ([targets.content for targets in each], [targets.style for targets in each])
        )
        found = [targets.edges for targets in each if targets.edges is not None]
        edges = Edges(joined([it.image for it in found]), joined([it.energy for it in found])) if found else None
        return Objective(self.config.dialled(), Statistics(content, style, {}, edges))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors [1, ...] as one [B, ...]; a single one is not copied."""
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


def load_problem(
    config: StylizeConfig,
    content: Source | None,
    styles: Sequence[Source],
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
    check_styles(config, content, styles)
    check_standard_input(config, [content, *styles])
    device, phases = resolve_device(config.device), Phases()
    with phases("pictures"):
        content_image = read_content(content, config) if content is not None else None
        if size is None:
            side = config.image_size
            shape = (1, 3, side, side) if content_image is None else content_image.tensor.shape
            size = (shape[2], shape[3])
        scales = plan_scales(config, config.steps, *size)
        if config.engine in ("auto", "fast") and is_long(scales, 1, device, config.budget_seconds):
            begin_kernels(device)
        style_images = tuple(read_style(path, config, size, content_image) for path in styles)
    with phases("weights"):
        encoder, weights = networks.encoder(config, config.taps, device)
    return Problem(config, content_image, style_images, *size, encoder, weights, device, networks.targets, phases)


def files_read(config: StylizeConfig, sources: Iterable[Source]) -> tuple[Path, ...]:
    """The files that a run reads, which nothing replaces: pictures, that to start from, weights."""
    pictures = [source for source in sources if isinstance(source, Path)]
    return tuple(path.absolute() for path in (*pictures, *config.files.values()))


def check_styles(config: StylizeConfig, content: Source | None, styles: Sequence[Source]) -> None:
    """Raise :class:`UsageError` where the options ask for other pictures than there are."""
    blend = config.blend_weights
    if blend is not None and len(blend) != len(styles):
        message = f"`style_weight_each` {config.style_weight_each}: {len(blend)} weights for {len(styles)} style images"
        raise UsageError(message, "Give one weight per style image, in their order")
    if config.edge_weight and content is None:
        raise UsageError(f"`edge_weight` {config.edge_weight:g}: there is no content image whose edges could be kept")
    if config.color != "none" and content is None:
        raise UsageError(f"`color` {config.color}: there is no content image whose colours could be used")


def check_standard_input(config: StylizeConfig, sources: Sequence[Source | None]) -> None:
    """Raise :class:`UsageError` where standard input, which can be read once, is given twice or to start from."""
    if sources.count(Path(STANDARD_INPUT)) > 1:
        raise UsageError(
            "standard input is given for several pictures", "One of them can be -; save the others to files"
        )
    if config.init == STANDARD_INPUT:
        raise UsageError("`init` -: standard input is no picture to start from", "Save it to a file and name that")


def read_content(path: Source, config: StylizeConfig) -> LoadedImage:
    """The content image at its size and shape, in its own colours."""
    if config.content_fit == "keep":
        return read_picture(path, config, config.image_size)
    return read_stretched(path, config, config.image_size, config.image_size)


def read_style(path: Source, config: StylizeConfig, size: tuple[int, int], content: LoadedImage | None) -> LoadedImage:
    """A style image without its border, at its size, shape and colours; ``size``: the pastiche's height and width."""
    borders = config.style_borders
    crop: Crop = "auto" if borders is None else Borders(*borders)
    if config.style_fit == "keep":
        style = read_picture(path, config, round(config.image_size * config.style_scale), crop)
    else:
        height, width = (round(side * config.style_scale) for side in size)
        style = read_stretched(path, config, height, width, crop)
    if content is None:
        return style
    return replace(style, tensor=prepared_style(style.tensor, content.tensor, config))


def read_stretched(
    path: Source, options: ImageOptions, height: int, width: int, crop: Crop = NO_BORDERS
) -> LoadedImage:
    """A picture brought to a height and width whatever its shape."""
    # Read at twice the size, so that the side that gives way is not enlarged from too few pixels.
    image = read_picture(path, options, 2 * max(height, width), crop)
    return replace(image, tensor=at_size(image.tensor, height, width))


def read_picture(path: Source, options: ImageOptions, longest_side: int, crop: Crop = NO_BORDERS) -> LoadedImage:
    return load_source(
        path,
        longest_side=longest_side,
        background=options.background,
        max_megapixels=options.max_megapixels,
        crop=crop,
    )


def at_size(image: Tensor, height: int, width: int) -> Tensor:
    """The image at a size; untouched when it has it."""
    return image if image.shape[2:] == (height, width) else resize_to(image, (height, width))
