"""Pictures before and after the optimisation: colours of the style, denoising, chroma of the content."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor

from nst_fast.images.matching import gray, matched_colors, matched_luminance, with_chroma_of
from nst_fast.options.config import FinishOptions

# Standard deviation, in [0, 1], of the noise that strength 1 takes out.
DENOISE_DEVIATION = 0.1
# Non-local means: the decay of patch weights over that deviation, between the 0.6 and 0.8 that gave the best PSNR on
# a noised painting; patches of 5x5 sought within 6 pixels, scikit-image's advice for its fast mode.
DENOISE_DECAY = 0.7
PATCH_SIZE, PATCH_DISTANCE = 5, 6
JOIN_SHARE = 1 / 8  # of a side: the depth to which a content image is blended into its opposite side


def prepared_content(content: Tensor, options: FinishOptions) -> Tensor:
    """The content image [1, 3, H, W] as the objective sees it: grey when luminance alone is transferred."""
    return gray(content) if options.color == "luma" else content


def prepared_style(
    style: Tensor,
    content: Tensor,
    options: FinishOptions,
    alpha: Tensor | None = None,
    content_alpha: Tensor | None = None,
) -> Tensor:
    """The style image [1, 3, h, w] as the objective sees it; what is transparent has no part in it.

    ``match`` gives it the content's mean colour and covariance, ``luma`` makes it grey with the mean and the deviation
    of the content's luminance (Gatys et al. 2016, "Preserving Color", sections 5 and 5.1).
    """
    if options.color == "match":
        return matched_colors(style, content, alpha, content_alpha)
    return matched_luminance(style, content, alpha, content_alpha) if options.color == "luma" else style


def with_joined_sides(content: Tensor, wraps: tuple[bool, bool]) -> Tensor:
    """A content image [1, 3, H, W] that joins its copies without a seam along rows, columns or both.

    Near a side it is blended with its own mirror image, half and half at the side itself: both sides are alike there.
    """
    for axis, wrapped in zip((2, 3), wraps, strict=True):
        if wrapped:
            side = content.shape[axis]
            places = torch.arange(side)
            depth = torch.minimum(places, side - 1 - places) / (JOIN_SHARE * side)
            shape = [side if each == axis else 1 for each in range(4)]
            share = ((1 + torch.cos(torch.pi * depth.clamp_max(1))) / 4).view(shape).to(content)
            content = content.lerp(content.flip(axis), share)
    return content


def finished(
    pastiche: Tensor, content: Tensor | None, options: FinishOptions, wraps: tuple[bool, bool] = (False, False)
) -> tuple[Tensor, list[str]]:
    """The final picture [1, 3, H, W] on the CPU, and one phrase per step of postprocessing, for the record.

    A texture whose sides join begins where its seam shows least. Denoising comes before the chroma of the content,
    which has the same size and is used for nothing else. ``wraps``: rows, and columns, go on at the opposite side.
    """
    done = []
    if content is None and any(wraps):
        pastiche = with_least_seams(pastiche, wraps)
        done.append("seamless: rolled to where the step across the seam is smallest")
    if options.denoise:
        pastiche = denoised(pastiche, options.denoise, wraps)
        done.append(f"denoise {options.denoise:g}: non-local means of scikit-image {version('scikit-image')}")
    if options.color in ("keep", "luma") and content is not None:
        pastiche = with_chroma_of(pastiche, content)
        done.append(f"color {options.color}: luminance of the pastiche, chroma of the content")
    return pastiche, done


def with_least_seams(texture: Tensor, wraps: tuple[bool, bool]) -> Tensor:
    """A picture [1, 3, H, W] whose sides join, rolled so that its neighbours across each seam differ least."""
    for axis, wrapped in zip((2, 3), wraps, strict=True):
        if wrapped:
            steps = (texture - texture.roll(1, axis)).abs().mean((0, 1, 5 - axis))  # from the line before each line
            texture = texture.roll(-int(steps.argmin()), axis)
    return texture


def denoised(image: Tensor, strength: float, wraps: tuple[bool, bool] = (False, False)) -> Tensor:
    """An image [1, 3, H, W] on the CPU after non-local means (Buades, Coll & Morel 2005), which keeps edges and
    repeated strokes, for noise of standard deviation ``strength * DENOISE_DEVIATION``; clipped to [0, 1].
    """
    from skimage.restoration import denoise_nl_means  # scipy behind it takes half a second to import

    deviation = strength * DENOISE_DEVIATION
    height, width = image.shape[2:]
    margins = [PATCH_SIZE + PATCH_DISTANCE if wrapped else 0 for wrapped in wraps]
    for axis, margin in zip((2, 3), margins, strict=True):
        places = torch.arange(-margin, image.shape[axis] + margin) % image.shape[axis]
        image = image.index_select(axis, places) if margin else image
    cleaned = denoise_nl_means(
        image[0].permute(1, 2, 0).contiguous().numpy(),
        patch_size=PATCH_SIZE,
        patch_distance=PATCH_DISTANCE,
        h=DENOISE_DECAY * deviation,
        sigma=deviation,
        fast_mode=True,
        channel_axis=-1,
    )
    top, left = margins
    found = torch.from_numpy(cleaned)[top : top + height, left : left + width]
    return found.permute(2, 0, 1)[None].to(image.dtype).clamp(0, 1).contiguous()
