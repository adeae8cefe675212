"""Content reconstruction: what picture has these features? One run per tap and seed, from noise, without any style.

Gatys et al. 2016, figure 1, and Mahendran & Vedaldi 2015 (arXiv:1412.0035), whose total variation keeps out the
patterns that the shallow taps cannot see: a checkerboard changes relu1_2 by next to nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from nst_fast.errors import UsageError
from nst_fast.images import load_image, to_uint8
from nst_fast.jobs.runner import Job, Outcome
from nst_fast.jobs.series import Axes, Inputs, Series, make_series, parse_seeds
from nst_fast.network.taps import check_taps
from nst_fast.options.commands import ReconstructConfig
from nst_fast.run.problem import at_size, read_picture


def plan_reconstruction(content: Path, taps: str, seeds: str, config: ReconstructConfig) -> Series:
    """One job per tap and seed, both given with commas between them; columns are taps, rows seeds.

    Raises:
        UsageError: no tap, an unknown tap, seeds that are no numbers.
    """
    names = [tap.strip() for tap in taps.split(",") if tap.strip()]
    if not names:
        raise UsageError("`taps` is empty", "Name at least one, as relu1_2,relu3_1")
    check_taps(config.network, names)

    def inputs_of(values: dict[str, object]) -> Inputs:
        return config.replace(content_taps=str(values["tap"]), seed=values["seed"]), content, ()

    axes: Axes = {"seed": parse_seeds(seeds), "tap": {tap: tap for tap in names}}
    return make_series("reconstruction", f"{content.stem}, reconstructed from one tap each", axes, inputs_of)


def measure(job: Job, picture: Path) -> dict[str, float]:
    """The peak signal-to-noise ratio, in dB, of a picture to the content at its size."""
    assert job.content is not None  # a reconstruction always has one
    reconstruction = load_image(picture).tensor
    content = read_picture(job.content, job.config, job.config.image_size).tensor
    original = at_size(content, reconstruction.shape[2], reconstruction.shape[3])
    return {"psnr_db": round(psnr(to_uint8(reconstruction), to_uint8(original)), 2)}


def label(outcome: Outcome) -> str:
    return f"PSNR {outcome.measured['psnr_db']:.1f} dB"


def psnr(actual: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures uint8 [H, W, 3], in dB; infinite when they are equal."""
    mean_squared = float(np.square(actual.astype(float) - expected.astype(float)).mean())
    return 10 * math.log10(255**2 / mean_squared) if mean_squared else math.inf
