"""A process that starts runs which are killed, goes on from what they left, and compares with undisturbed runs.

``python killed_runs.py FOLDER`` prints one JSON object: case -> what came of it. One process for all cases, because
importing PyTorch takes longer than a case; the runs that are killed are forks, all made before PyTorch has threads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from pictures import image_data
from PIL import Image

from nst_fast.api import Listeners, Networks, resume, stylize
from nst_fast.options.config import StylizeConfig
from nst_fast.run import outputs
from nst_fast.run.outputs import OutputFiles

STEPS = 14
TINY = tiny.TINY | {"style_taps": "relu1_1,relu2_1", "image_size": 32, "engine": "fast", "optimizer": "adam"}
TINY |= {"steps": STEPS, "checkpoint_every": "2"}
LBFGS: dict[str, Any] = {"optimizer": "lbfgs", "lbfgs_history": 4}
CASES: dict[str, dict[str, Any]] = {
    "adam": {"init": "noise", "schedule": "cosine", "tv_weight": 1.0},
    "lbfgs": LBFGS,
    "lbfgs-wolfe": {**LBFGS, "line_search": "strong_wolfe"},
    "coarse-to-fine": {"scales": 3, "scale_factor": 1.4, "min_size": 16},
    "averaging": {"average_decay": 0.9, "scales": 2, "min_size": 16, "color": "keep"},
    "tiled": {"tile_size": 16, "tv_weight": 1.0},
    "tiled-lbfgs": {**LBFGS, "tile_size": 16},
    "smoothing": {"smooth_every": 4, "average_decay": 0.5},
    "smoothing-lbfgs": {**LBFGS, "smooth_every": 4},
    "eager": {"engine": "eager"},
    "ort": {"engine": "ort"},
    "settled": {"engine": "auto", "precision": "auto"},
    "winograd": {"convolution": "winograd"},
    "recoveries": {"divergence_factor": 1.3, "learning_rate": 0.2},
    "patience": {"patience": STEPS, "min_improvement": 0.5, "steps": 60},  # killed before it may end
}


def killed(folder: Path, name: str, deadly: int, networks: Networks) -> None:
    """Start the run of a case and kill it at its step ``deadly``, in a process of its own."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{name} was not killed"
        return
    steps = iter(range(10_000))

    def stop() -> bool:
        if next(steps) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    arguments = (folder / "content.png", folder / "style.png", StylizeConfig(**TINY | CASES[name]))
    try:
        listeners = Listeners(stop=stop)
        stylize(*arguments, output=folder / f"{name}.png", listeners=listeners, networks=networks)
    finally:
        os._exit(1)


def outcome(path: Path) -> dict[str, Any]:
    """What must not depend on an interruption."""
    record = json.loads(path.with_suffix(".json").read_text())
    with Image.open(path) as picture:
        pixels = zlib.crc32(np.asarray(picture).tobytes())
    kept = {
        name: record[name]
        for name in ("history", "losses", "steps", "status", "recoveries", "finish", "engine", "convolution")
    }
    return {"pixels": pixels, "idat": zlib.crc32(image_data(path)), "plan": record["plan"]["grid"], **kept}


def main(folder: Path, names: list[str]) -> None:
    outputs.save_loss_curve = lambda *_: None  # half a second each, and it is not what is compared
    torch.set_num_threads(1)
    networks = Networks()
    chance = random.Random()
    deadly = {name: chance.randrange(3, STEPS) for name in names}
    for name in names:
        killed(folder, name, deadly[name], networks)
    report = {}
    for name in names:
        path = folder / f"{name}.png"
        left = [int(each.stem[-6:]) for each in OutputFiles(path).checkpoints()]
        resume(path, networks=networks)
        whole = folder / f"{name}-whole.png"
        config = StylizeConfig(**TINY | CASES[name] | {"checkpoint_every": "0"})
        stylize(folder / "content.png", folder / "style.png", config, output=whole, networks=networks)
        cleared = not OutputFiles(path).checkpoints()
        report[name] = {"killed_at": deadly[name], "left": left, "cleared": cleared}
        report[name] |= {"resumed": outcome(path), "whole": outcome(whole)}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(CASES))
