"""How much of the look stays when only ``--image-size`` changes: the large result, shrunk, against the small one.

Measured on the sample pictures, with the default options but for a network that needs no download: shallow taps,
random weights. docs/large-pictures.md has the figures of real weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import DEEPER

from nst_fast import api
from nst_fast.images import from_uint8, save_image
from nst_fast.images.resizing import resize_to
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import Networks

SMALL, LARGE = 64, 128
CONFIG = StylizeConfig(**DEEPER | {"engine": "fast", "steps": 30})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    save_image(from_uint8(draw_content(256)), folder / "content.png")
    save_image(from_uint8(draw_style(256)), folder / "style.png")
    return folder / "content.png", folder / "style.png"


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


def difference(large: torch.Tensor, small: torch.Tensor) -> tuple[float, float]:
    """Root mean square of the difference, pixel by pixel at the small size, and of what is left at a quarter of it."""
    height, width = small.shape[2:]
    sizes = [(height, width), (height // 4, width // 4)]
    gaps = [(resize_to(large, size) - resize_to(small, size)).square().mean().sqrt().item() for size in sizes]
    return gaps[0], gaps[1]


def test_the_look_of_a_large_result_is_that_of_the_small_one(pair: tuple[Path, Path], networks: Networks) -> None:
    def painted(size: int, **options: object) -> torch.Tensor:
        return api.stylize(*pair, CONFIG, networks=networks, image_size=size, **options).image

    small = painted(SMALL)
    default = difference(painted(LARGE, min_size=SMALL), small)  # 256 would take minutes
    one_size = difference(painted(LARGE, scales=1), small)
    # The same pixels of style at both sizes, as programs do that scale the content only.
    unscaled = difference(painted(LARGE, scales=1, style_scale=SMALL / LARGE), small)
    assert one_size[0] < 0.97 * unscaled[0]
    assert default[0] < 0.9 * one_size[0]
    assert default[1] < 0.75 * one_size[1]


def test_the_terms_of_the_default_losses_do_not_grow_with_the_picture(
    pair: tuple[Path, Path], networks: Networks
) -> None:
    def growth(**options: object) -> dict[str, float]:
        """Each term at the start of a run, the large picture's over the small one's."""
        small, large = (
            api.stylize(*pair, CONFIG, networks=networks, image_size=size, steps=1, **options).record.history
            for size in (SMALL, LARGE)
        )
        return {name: large[name][0] / small[name][0] for name in small}

    for name, ratio in growth(init="content").items():
        if name.startswith("style"):
            assert 0.7 < ratio < 1.4, name
    noise = growth(init="noise")
    assert 0.7 < noise["content/relu2_1"] < 1.4
    assert growth(init="noise", content_normalization="half_sum")["content/relu2_1"] > 3  # the sums of Gatys et al.
