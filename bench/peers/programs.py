"""The programs that are compared: how each is started, its weights, and which line of its output ends a step.

None of their code is imported: they run as processes, with their own defaults but for what makes runs comparable: the
size, the steps, the CPU, a seed, and a line of output per step. Programs without a package are read from ``sources``.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nst_fast.network.weights import load_weights
from nst_fast.options.config import StylizeConfig
from nst_fast.system.files import write_atomic

OURS = "nst-fast"
RAW_FILE = "vgg19-raw-bgr.pth"  # neural-style-pt finds out the network from the file's name
HUB_FOLDER = "torch-home"  # TORCH_HOME of style-transfer-pytorch
HUB_FILE = Path(HUB_FOLDER, "hub", "checkpoints", "vgg19-dcbb9e9d.pth")
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}  # torchvision builds it before it is cut off
DEEPEST = ("relu5_4",)
Arguments = list[str | Path]


@dataclass(frozen=True)
class Job:
    """One picture to paint.

    Attributes:
        content, style: PNG files; the content already has its final size.
        output: the PNG file to write.
        size: longest side in pixels.
        sources: the folder of the programs' repositories.
        weights: the folder of the weight files.
    """

    content: Path
    style: Path
    output: Path
    size: int
    sources: Path
    weights: Path


@dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
        name: of its folder of pictures, and of its repository's folder in ``sources``.
        arguments: what follows ``python -u``, for a job and a count of steps.
        step: matches the line of output that ends a step; its group, if any, names the scale.
        probe: the count of steps that is timed.
        first_share: steps at the first scale for every one that is counted; at each later scale it is one.
        typical: seconds per step from those of many.
        default: the count of steps of its own default, which is enough where more fit.
        environment: variables that it needs.
        write_weights: writes its weight file below a folder; None where it brings its own.
    """

    name: str
    arguments: Callable[[Job, int], Arguments]
    step: re.Pattern[str]
    default: int
    probe: int = 8
    first_share: int = 1
    typical: Callable[[Sequence[float]], float] = statistics.median
    environment: Callable[[Job], Mapping[str, str]] = lambda job: {}
    write_weights: Callable[[Path], None] | None = None

    def command(self, job: Job, count: int) -> list[str]:
        return [sys.executable, "-u", *map(str, self.arguments(job, count))]


def write_raw(folder: Path) -> None:
    """The original weights as published, for BGR from 0 to 255 less the means: the form of neural-style-pt."""
    weights = load_weights("original", "vgg19", DEEPEST)
    _write(folder / RAW_FILE, weights.state | weights.raw)


def write_hub(folder: Path) -> None:
    """The same for torchvision's input, with a classifier of zeros, where torch.hub would keep torchvision's own."""
    state = dict(load_weights("original", "vgg19", DEEPEST).state)
    for index, shape in CLASSIFIER.items():
        state[f"classifier.{index}.weight"] = torch.zeros(1, 1).expand(shape)
        state[f"classifier.{index}.bias"] = torch.zeros(1).expand(shape[0])
    _write(folder / HUB_FILE, state)


def _write(path: Path, state: dict[str, torch.Tensor]) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda stream: torch.save(state, stream))


def nst_fast(job: Job, count: int) -> Arguments:
    options = ["--image-size", f"{job.size}", "--steps", f"{count}", "--device", "cpu", "--log-every", "1"]
    return ["-m", "nst_fast", "stylize", job.content, job.style, "-o", job.output, "--overwrite", *options]


def pastiche(job: Job, count: int) -> Arguments:
    pictures: Arguments = ["-c", job.content, "-s", job.style, "-o", job.output]
    options = ["--size", f"{job.size}", "--device", "cpu", "--seed", "0", "--num-steps", f"{count}", "--info-step", "1"]
    return ["-m", "pastiche", *pictures, *options]


def neural_style_pt(job: Job, count: int) -> Arguments:
    script = job.sources / "neural-style-pt" / "neural_style.py"
    pictures: Arguments = ["-content_image", job.content, "-style_image", job.style, "-output_image", job.output]
    # Without -disable_check it asks for the layers of classification, which it does not use.
    network: Arguments = ["-model_file", job.weights / RAW_FILE, "-disable_check", "-gpu", "c"]
    options = ["-image_size", f"{job.size}", "-seed", "0", "-num_iterations", f"{count}", "-print_iter", "1"]
    return [script, *pictures, *network, *options, "-save_iter", "0"]


def style_transfer_pytorch(job: Job, count: int) -> Arguments:
    # Its defaults are 1000 steps at the first scale and 500 at each later one: their proportion is kept.
    options = ["-s", f"{job.size}", "-ii", f"{2 * count}", "-i", f"{count}", "--devices", "cpu"]
    return ["-m", "style_transfer.cli", job.content, job.style, "-o", job.output, *options]


def style_transfer_environment(job: Job) -> dict[str, str]:
    # "site" is where packages that only it needs may be installed (pip install --target).
    folders = [job.sources / "style-transfer-pytorch", job.sources / "site"]
    return {"PYTHONPATH": ":".join(map(str, folders)), "TORCH_HOME": str(job.weights / HUB_FOLDER)}


PROGRAMS = (
    # Its scales take their share of any count of steps, so the mean over a short run is that of a long one.
    Program(
        OURS,
        nst_fast,
        re.compile(r"^step [1-9]\d*/\d+ "),
        StylizeConfig().steps,
        probe=24,
        typical=statistics.mean,
    ),
    Program("pastiche", pastiche, re.compile(r"^[1-9]\d* +[\d.]+ +\S+$"), 1000),
    Program("neural-style-pt", neural_style_pt, re.compile(r"^Iteration \d+ / \d+"), 1000, write_weights=write_raw),
    Program(
        "style-transfer-pytorch",
        style_transfer_pytorch,
        re.compile(r"Size: (\d+x\d+), iteration: \d+"),
        500,
        probe=4,
        first_share=2,
        environment=style_transfer_environment,
        write_weights=write_hub,
    ),
)
