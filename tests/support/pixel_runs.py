"""Runs whose pictures must not change when the code does: case -> SHA-256 of its float pixels, as one JSON object.

``python pixel_runs.py [CASE ...]`` runs the package that Python finds. To compare two versions on one machine, run it
with ``PYTHONPATH`` set to either checkout; ``test_pixels.py`` compares with ``pixels.json``. Only names that the
documentation promises are used, so that it also runs older versions.

Instruction sets are limited, so that processors agree on the last bits as far as they can; ``environment`` says on
what they may still depend.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
}

import numpy as np
import onnxruntime
import torch
from PIL import Image

import nst_fast

SMALL: dict[str, Any] = {
    "weights": "random:0",
    "image_size": 48,
    "steps": 6,
    "device": "cpu",
    "engine": "fast",
    "precision": "fp32",
    "monitor_every": 0,
    "checkpoint_every": "0",
}
SHALLOW: dict[str, Any] = {**SMALL, "content_taps": "relu2_2", "style_taps": "relu1_1:0.5,relu2_1"}
FULL: dict[str, Any] = {**SMALL, "weights": "original", "image_size": 64, "min_size": 32}
ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.03}

# Runs of one picture, by their options.
SINGLE: dict[str, dict[str, Any]] = {
    "default": FULL,
    "eager": {**SHALLOW, "engine": "eager"},
    "eager-average-pooling": {**SHALLOW, "engine": "eager", "pooling": "average", "padding": "reflect"},
    "ort": {**SHALLOW, "engine": "ort"},
    "ort-adam": {**SHALLOW, **ADAM, "engine": "ort"},
    "adam-cosine": {**SHALLOW, **ADAM, "schedule": "cosine", "tv_weight": 1.0},
    "adam-exponential-averaging": {**SHALLOW, **ADAM, "schedule": "exponential", "average_decay": 0.9},
    "strong-wolfe": {**SHALLOW, "line_search": "strong_wolfe"},
    "three-scales": {**SHALLOW, **ADAM, "scales": 3, "scale_factor": 1.4, "min_size": 16},
    "tiles": {**SHALLOW, **ADAM, "tile_size": 24, "tv_weight": 1.0},
    "tiles-lbfgs-eager": {**SHALLOW, "tile_size": 24, "engine": "eager"},
    "tiles-deep": {**FULL, "tile_size": 48},
    "color-keep-noise": {**SHALLOW, "color": "keep", "init": "noise", "seed": 7},
    "color-match-smoothing": {**SHALLOW, "color": "match", "smooth_every": 3, "init": "content+noise"},
    "gatys-losses": {**SHALLOW, "content_normalization": "half_sum", "style_normalization": "gatys"},
    "strength-and-square": {**SHALLOW, "strength": 0.4, "content_fit": "square", "style_scale": 0.7},
    "finish": {**SHALLOW, "denoise": 0.5, "style_crop": "auto", "chroma_tv_weight": 50.0},
}
PRESETS = ("faithful", "bold", "adam-smoothing", "weighted-layers", "classic")


def draw(path: Path, seed: int) -> Path:
    """A picture of smooth blots with fine noise, by integer arithmetic and Pillow only."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((60, 44), Image.Resampling.BICUBIC)).astype(int)
    Image.fromarray((smooth + random.integers(-9, 9, smooth.shape)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def digest(pastiche: Any) -> str:
    return hashlib.sha256(pastiche.image.numpy().tobytes()).hexdigest()


def digest_of_files(folder: Path) -> str:
    """Of the pixels of all pictures of a folder, in order of their names."""
    found = hashlib.sha256()
    for path in sorted(
        path for path in folder.rglob("*.png") if not path.stem.endswith(("-losses", "sheet", "curves"))
    ):
        with Image.open(path) as picture:
            found.update(np.asarray(picture).tobytes())
    return found.hexdigest()


class Cases:
    """All cases over two content and two style pictures in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "contents").mkdir()
        self.contents = [draw(folder / "contents" / f"{name}.png", seed) for seed, name in enumerate("ab")]
        self.styles = [draw(folder / f"style{seed}.png", 10 + seed) for seed in range(2)]

    def all(self) -> dict[str, Callable[[], str]]:
        cases: dict[str, Callable[[], str]] = {
            name: lambda options=options: self.single(options) for name, options in SINGLE.items()
        }
        cases |= {f"preset-{name}": lambda name=name: self.preset(name) for name in PRESETS}
        named = (self.blend, self.together, self.resumed, self.batch, self.sweep, self.texture, self.reconstruct)
        return cases | {each.__name__: each for each in named}

    def single(self, options: dict[str, Any]) -> str:
        return digest(nst_fast.stylize(self.contents[0], self.styles[0], **options))

    def blend(self) -> str:
        options = {**SHALLOW, **ADAM, "style_weight_each": "0.7,0.3"}
        return digest(nst_fast.stylize(self.contents[0], self.styles, **options))

    def together(self) -> str:
        made = nst_fast.stylize_together(self.contents, self.styles[0], **SHALLOW)
        return "+".join(map(digest, made))

    def resumed(self) -> str:
        asked = iter(range(1000))
        listeners = nst_fast.Listeners(stop=lambda: next(asked) == 3)
        output = self.folder / "resumed.png"
        options = {**SHALLOW, "checkpoint_every": "1"}
        nst_fast.stylize(self.contents[0], self.styles[0], output=output, listeners=listeners, **options)
        return digest(nst_fast.resume(output))

    def preset(self, name: str) -> str:
        output = self.folder / f"preset-{name}"
        changes = {key: SMALL[key] for key in ("steps", "device", "monitor_every", "checkpoint_every", "precision")}
        given = [self.contents[0], self.styles[0], "-o", output / "picture.png", "--preset", name]
        return self.command(output, "stylize", given, {**changes, "weights": "original", "image_size": 64})

    def batch(self) -> str:
        output = self.folder / "batch"
        given = [self.folder / "contents", "--style", self.styles[0], "-o", output]
        return self.command(output, "batch", given, SHALLOW)

    def sweep(self) -> str:
        output = self.folder / "sweep"
        given = [self.contents[0], "--style", self.styles[0], "-o", output, "--vary", "style-weight=1,10"]
        return self.command(output, "sweep", given, SHALLOW)

    def texture(self) -> str:
        output = self.folder / "texture"
        kept = {name: value for name, value in SHALLOW.items() if not name.startswith("content")}
        given = [self.styles[0], "-o", output, "--cumulative"]
        return self.command(output, "texture", given, kept)

    def reconstruct(self) -> str:
        output = self.folder / "reconstruct"
        kept = {name: SHALLOW[name] for name in SMALL}
        given = [self.contents[0], "-o", output, "--taps", "relu1_1,relu2_1"]
        return self.command(output, "reconstruct", given, kept)

    def command(self, output: Path, name: str, given: list[Any], options: dict[str, Any]) -> str:
        """Run a command of the command line in this process."""
        from nst_fast import cli

        texts = [name, *map(str, given)]
        for option, value in options.items():
            texts += [f"--{option.replace('_', '-')}", str(value)]
        output.mkdir(exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            cli.app([*texts, "--quiet"], standalone_mode=False)
        return digest_of_files(output)


def environment() -> dict[str, str]:
    """What the last bits of a sum may depend on."""
    try:
        flags = re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split()
    except (OSError, IndexError):
        flags = [platform.processor()]
    vector = " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "fma", "amx"))))
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    return {**versions, "machine": platform.machine(), "instructions": vector}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NST_FAST_CACHE"] = str(Path(folder, "cache"))
        cases = Cases(Path(folder)).all()
        hashes = {name: cases[name]() for name in names or cases}
    json.dump({"environment": environment(), "pixels": hashes}, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
