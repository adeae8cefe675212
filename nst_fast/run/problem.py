"""What is to be optimised: pictures and network loaded, and the objective and start of every scale built from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.engines import Kept
from nst_fast.engines.checked_kernels import begin_kernels
from nst_fast.errors import UsageError
from nst_fast.images import NO_BORDERS, Crop, LoadedImage, load_image
from nst_fast.images.given import KINDS, Source
from nst_fast.images.matching import gray, matched_colors
from nst_fast.images.postprocess import finished, prepared_content, prepared_style, with_joined_sides
from nst_fast.images.resizing import resize_to, resize_wrapped
from nst_fast.images.sources import STANDARD_INPUT
from nst_fast.memory.allocator import use_huge_pages
from nst_fast.network.taps import NO_WRAP, Wraps, cut
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import Weights, load_weights, resolved
from nst_fast.objective.guides import EVERYWHERE, Guides, style_parts
from nst_fast.objective.objective import Edges, Objective, Statistics, Temporal
from nst_fast.objective.targets import TargetCache
from nst_fast.options.config import EncoderOptions, ImageOptions, StylizeConfig
from nst_fast.options.style import IN_PARTS
from nst_fast.run.masks import Masks, check_guided, load_masks, pastiche_guides, style_crop, style_guides
from nst_fast.run.scales import Scale, is_long, plan_scales, seamless_size
from nst_fast.system.clock import Phases
from nst_fast.system.machine import resolve_device


class Networks:
    """Encoders and targets by what decides them, so that several runs in one process load a network once."""

    def __init__(self) -> None:
        self.targets = TargetCache()
        self.kept: Kept = {}
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


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a frame of a film takes over from others, at the final size, on the CPU.

    Attributes:
        start: where the pastiche starts [1, 3, H, W], in place of ``init``.
        known: of each pixel [1, 1, H, W]: 1 where ``start`` holds, 0 where ``init`` does.
        target, weights: of the temporal term: [1, 3, H, W], and [1, 1, H, W] of which the mean counts.
        enough: the loss without the temporal term at which the run ends.
    """

    start: Tensor
    known: Tensor
    target: Tensor
    weights: Tensor
    enough: float = 0.0


@dataclass(frozen=True)
class Problem:
    """One optimisation problem.

    Attributes:
        content: the picture whose scene is kept; None when there is no content loss and nothing to start from.
        styles: the pictures whose manner is taken; at the end those of regions.
        masks: which part of the picture, and of its styles, counts.
        height, width: of the pastiche at the final scale.
        encoder, weights: the network on its device, and where its weights come from.
        targets: built for this and for other runs.
        phases: where the time went so far.
        continuation: of a frame of a film that follows others; there is then one scale.
        runs: about how many there are alike, which share what takes time to start.
        kept: networks that they share.
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
    masks: Masks = field(default_factory=lambda: Masks(None, {}, {}, ()))
    phases: Phases = field(default_factory=Phases)
    continuation: Continuation | None = None
    runs: int = 1
    kept: Kept | None = None

    @property
    def scales(self) -> list[Scale]:
        # Without style the content is the answer, and must not pass through smaller sizes.
        options = self.config if self.config.style_factor else self.config.replace(scales=1)
        found = plan_scales(options, options.steps, self.height, self.width)
        sizes = [seamless_size(options, scale.height, scale.width) for scale in found]
        return [replace(scale, height=height, width=width) for scale, (height, width) in zip(found, sizes, strict=True)]

    @property
    def pictures(self) -> tuple[LoadedImage, ...]:
        return (self.content, *self.styles) if self.content else self.styles

    @property
    def notes(self) -> list[str]:
        """What the reading of pictures and weights has to say, each with the name of its file."""
        found = [f"{picture.path.name}: {note}" for picture in self.pictures for note in picture.notes]
        found += self.masks.notes
        return [*found, f"{self.weights['source']}: {self.weights['note']}"] if "note" in self.weights else found

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read."""
        return files_read(self.config, [it.path for it in self.pictures if it.format not in KINDS])

    @property
    def alpha(self) -> Tensor | None:
        """The content's, [1, 1, H, W] on the CPU; None where all is opaque."""
        return self.alpha_at(self.scales[-1])

    def alpha_at(self, scale: Scale) -> Tensor | None:
        alpha = self.content.alpha if self.content is not None else None
        return at_size(alpha, scale.height, scale.width) if alpha is not None else None

    def content_at(self, scale: Scale) -> Tensor | None:
        """The content image at a scale, [1, 3, H, W] on the device."""
        if self.content is None:
            return None
        content = at_size(self.content.tensor, scale.height, scale.width, self.config.wraps).to(self.device)
        return prepared_content(content, self.config)

    def styles_at(self, scale: Scale) -> list[Tensor]:
        """The style images at a scale, each shrunk by the scale's fraction, on the device."""
        images, sizes = [style.tensor for style in self.styles], self._style_sizes(scale)
        return [at_size(image, *size).to(self.device) for image, size in zip(images, sizes, strict=True)]

    @property
    def own_styles(self) -> tuple[LoadedImage, ...]:
        """The styles without those of regions."""
        return self.styles[: len(self.styles) - len(self.config.region.styles)]

    @property
    def guided(self) -> bool:
        """Whether some positions count less than others."""
        return not self.guides_at(self.scales[-1]).plain

    def guides_at(self, scale: Scale) -> Guides:
        """Which positions of the pastiche count at a scale."""
        return pastiche_guides(self.masks, (scale.height, scale.width), self.alpha_at(scale), self.device)

    def style_guides_at(self, scale: Scale) -> list[Guides]:
        """What of each style image is measured at a scale."""
        sizes = self._style_sizes(scale)
        parts = self.masks.styles or [{EVERYWHERE: None}] * len(self.styles)
        each = zip(parts, sizes, self.styles, strict=True)
        return [style_guides(masks, size, style.alpha, self.device) for masks, size, style in each]

    @property
    def style_weights(self) -> list[float] | None:
        """Of the styles in their blends; those of regions are alone in theirs."""
        blend, own = self.config.style_weight_each, len(self.own_styles)
        return [*blend[:own], *[1.0] * len(self.config.region.styles)] if blend else None

    def _style_sizes(self, scale: Scale) -> list[tuple[int, int]]:
        shapes = [style.tensor.shape[2:] for style in self.styles]
        return [(round(height * scale.fraction), round(width * scale.fraction)) for height, width in shapes]

    def targets_at(self, scale: Scale) -> Statistics:
        with self.phases("targets"):
            return self.targets.build(
                self.encoder,
                self.config,
                self.content_at(scale),
                self.styles_at(scale),
                self.style_weights,
                self.style_guides_at(scale),
            )

    def objective_at(self, scale: Scale) -> Objective:
        """The objective at a scale: its targets are those of the pictures at that scale."""
        targets = replace(self.targets_at(scale), temporal=self.temporal)
        return Objective(self.config.dialled(), targets, self.guides_at(scale))

    @property
    def temporal(self) -> Temporal | None:
        """What the temporal term compares with, of a frame of a film that follows others."""
        if self.continuation is None:
            return None
        target, weights = self.continuation.target.to(self.device), self.continuation.weights.to(self.device)
        return Temporal(gray(target) if self.config.color == "luma" else target, weights / target.numel())

    def start_at(self, scale: Scale) -> Tensor:
        """Where the pastiche starts, [1, 3, H, W] on the device.

        Content, recoloured or plus noise, uniform noise, or a file; below strength 1 that much nearer to the content.
        """
        start = self._init_at(scale)
        if self.config.color == "luma":
            start = gray(start)
        content = self.content_at(scale)
        start = start if content is None else torch.lerp(content, start, self.config.strength)
        if (others := self.continuation) is None or not self.config.style_factor:
            return start
        before = gray(others.start) if self.config.color == "luma" else others.start
        return torch.lerp(start, before.to(start), others.known.to(start))

    def finished(self, pastiche: Tensor) -> tuple[Tensor, list[str]]:
        """The picture on the CPU at its full size, its colours kept and its noise taken out if the config says so.

        Returns:
            The picture [1, 3, H, W], and what was done to it, for the record.
        """
        picture = at_size(pastiche.detach(), self.height, self.width, self.config.wraps).clamp(0, 1).cpu()
        content = self.content.tensor if self.content is not None else None
        if content is not None:
            content = at_size(content, self.height, self.width)
        return finished(picture, content, self.config, self.config.wraps)

    def _init_at(self, scale: Scale) -> Tensor:
        content, init = self.content_at(scale), self.config.init
        if init == "content" and content is not None:
            return content.clone()
        if init == "recolored" and content is not None:
            return self._recolored(content, scale)
        file = self.config.init_file
        if file is None:
            generator = torch.Generator().manual_seed(self.config.seed)  # on the CPU: the same noise on every device
            noise = torch.rand((1, 3, scale.height, scale.width), generator=generator).to(self.device)
            if init == "content+noise" and content is not None:
                return (content + self.config.noise * noise).clamp(0, 1)
            return noise
        opaque = self.config.replace(transparency="background")
        image = read_picture(file, opaque, max(scale.height, scale.width))
        return at_size(image.tensor, scale.height, scale.width).to(self.device)

    def _recolored(self, content: Tensor, scale: Scale) -> Tensor:
        """The content with the style's mean colour and covariance, several blended in their shares, region by region.

        What the first dozens of steps would do, done at once: with it 75 steps come as far as 120 without.
        """
        if not self.styles:
            return content.clone()
        weights = self.style_weights or [1.0] * len(self.styles)
        styles = style_parts(self.styles_at(scale), weights, self.style_guides_at(scale))
        masks = self.guides_at(scale).regions
        if not any(part.weight for part in styles):
            return content.clone()
        found, whole = torch.zeros_like(content), torch.zeros_like(content[:, :1])
        for region, mask in masks.items():
            parts = [part for part in styles if region in part.guides.regions]
            shares = sum(part.weight for part in parts)
            matched = [
                part.weight * matched_colors(content, part.image, mask, part.guides.regions[region]) for part in parts
            ]
            share = torch.ones_like(whole) if mask is None else mask
            found += share * (torch.stack(matched).sum(0) / shares)
            whole += share
        return torch.where(whole > 0, found / whole.clamp_min(torch.finfo(whole.dtype).tiny), content)


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

    def start_at(self, scale: Scale) -> Tensor:
        """Where the pastiches start, [B, 3, H, W] on the device."""
        return torch.cat([problem.start_at(scale) for problem in self.problems])

    def objective_at(self, scale: Scale) -> Objective:
        """The objective at a scale, with the targets of every problem: ``color`` may have changed its styles."""
        if self.count == 1:
            return self.problems[0].objective_at(scale)
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
    content: Source | LoadedImage | None,
    styles: Sequence[Source],
    networks: Networks,
    *,
    size: tuple[int, int] | None = None,
    runs: int = 1,
) -> Problem:
    """Load pictures and network.

    Args:
        content: may be None for a texture, which has no content; then ``size`` says how large it becomes. A frame of a
            film is one that :func:`read_content` has read.
        styles: may be empty for a reconstruction, which has no style.
        size: height and width of the pastiche; by default the content's shape at ``image_size``. Sides that are to
            join become multiples of a cell (:func:`nst_fast.run.scales.seamless_size`).
        runs: about how many there are alike, as of frames.
    """
    use_huge_pages(max(size or (config.image_size,)))
    check_styles(config, content, styles)
    check_standard_input(config, [content, *styles])
    device, phases = resolve_device(config.device), Phases()
    with phases("pictures"):
        content_image = read_content(content, config) if isinstance(content, Source) else content
        if size is None:
            side = config.image_size
            shape = (1, 3, side, side) if content_image is None else content_image.tensor.shape
            size = (shape[2], shape[3])
        size = seamless_size(config, *size)
        scales = plan_scales(config, config.steps, *size)
        if config.engine in ("auto", "fast") and is_long(scales, runs, device, config.time_budget):
            begin_kernels(device)
        if content_image is not None and any(config.wraps):
            joined_sides = with_joined_sides(at_size(content_image.tensor, *size), config.wraps)
            content_image = replace(content_image, tensor=joined_sides)
        sources = (*styles, *config.region.styles)
        style_images = tuple(read_style(path, config, size, content_image) for path in sources)
        masks = load_masks(config, size, content_image, style_images, len(styles))
    with phases("weights"):
        encoder, weights = networks.encoder(config, config.taps, device)
    given = (config, content_image, style_images, *size, encoder, weights, device, networks.targets)
    problem = Problem(*given, masks=masks, phases=phases, runs=runs, kept=networks.kept if runs > 1 else None)
    check_weighed(problem)
    return problem


def check_weighed(problem: Problem) -> None:
    """Raise :class:`UsageError` where masks or alpha would weigh losses that count all pixels alike."""
    losses = problem.config.whole_losses
    if losses and (problem.guided or not all(guides.plain for guides in problem.style_guides_at(problem.scales[-1]))):
        message = f"{', '.join(losses)}: counts all pixels alike, and here masks or alpha weigh them"
        raise UsageError(message, f"With masks there are {IN_PARTS}; without them `transparency` background will do")


def files_read(config: StylizeConfig, sources: Iterable[Source]) -> tuple[Path, ...]:
    """The files that a run reads, which nothing replaces: pictures, that to start from, weights."""
    pictures = [source for source in sources if isinstance(source, Path)]
    masks = [path for value in config.mask_files.values() for path in value.files]
    return tuple(path.absolute() for path in (*pictures, *config.files.values(), *masks))


def check_styles(config: StylizeConfig, content: Source | LoadedImage | None, styles: Sequence[Source]) -> None:
    """Raise :class:`UsageError` where the options ask for other pictures than there are."""
    check_blend(config, len(styles))
    if config.edge_weight and content is None:
        raise UsageError(f"`edge_weight` {config.edge_weight:g}: there is no content image whose edges could be kept")
    if config.color != "none" and content is None:
        raise UsageError(f"`color` {config.color}: there is no content image whose colours could be used")
    check_guided(config, content=content is not None, styles=len(styles))


def check_blend(config: StylizeConfig, styles: int) -> None:
    """Raise :class:`UsageError` where blend weights are not one for each style image, and maybe one for each region."""
    blend, regions = config.style_weight_each, len(config.region.masks)
    if not blend:
        return
    if len(blend) not in (styles, styles + regions):
        also = f" and {regions} regions" if regions else ""
        message = (
            f"`style_weight_each` {config.style_weight_each}: {len(blend)} weights for {styles} style images{also}"
        )
        raise UsageError(message, "Give one weight per style image, in their order, then one per region or none")
    if not sum(blend[:styles]):
        message = f"`style_weight_each` {config.style_weight_each}: leaves no style for what is in no region"
        raise UsageError(message, "Give one of the style images a weight above 0")


def check_standard_input(config: StylizeConfig, sources: Sequence[Source | LoadedImage | None]) -> None:
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
    crop = style_crop(config)
    if config.style_fit == "keep":
        style = read_picture(path, config, round(config.image_size * config.style_scale), crop)
    else:
        height, width = (round(side * config.style_scale) for side in size)
        style = read_stretched(path, config, height, width, crop)
    if content is None:
        return style
    tensor = prepared_style(style.tensor, content.tensor, config, style.alpha, content.alpha)
    return replace(style, tensor=tensor)


def read_stretched(
    path: Source, options: ImageOptions, height: int, width: int, crop: Crop = NO_BORDERS
) -> LoadedImage:
    """A picture brought to a height and width whatever its shape."""
    # Read at twice the size, so that the side that gives way is not enlarged from too few pixels.
    image = read_picture(path, options, 2 * max(height, width), crop)
    alpha = at_size(image.alpha, height, width) if image.alpha is not None else None
    return replace(image, tensor=at_size(image.tensor, height, width), alpha=alpha)


def read_picture(path: Source, options: ImageOptions, longest_side: int, crop: Crop = NO_BORDERS) -> LoadedImage:
    return load_image(
        path,
        longest_side=longest_side,
        background=options.reading_background,
        max_megapixels=options.max_megapixels,
        crop=crop,
    )


def at_size(image: Tensor, height: int, width: int, wraps: Wraps = NO_WRAP) -> Tensor:
    """The image at a size; untouched when it has it. Its sides join along the axes that ``wraps`` says."""
    if image.shape[2:] == (height, width):
        return image
    return resize_wrapped(image, (height, width), wraps) if any(wraps) else resize_to(image, (height, width))
