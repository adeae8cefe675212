"""One of several processes that share a picture: what ``test_distributed.py`` starts. Arguments: folder, then cases."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from loops import run_loop

from nst_fast import api
from nst_fast.distributed import process_rank
from nst_fast.distributed.group import Ranks, joined
from nst_fast.distributed.strips import make_strip
from nst_fast.engines.crop_network import EagerNetwork
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.network.weights import make_encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.optimizers.adam import Adam
from nst_fast.optimizers.base import TorchStepper
from nst_fast.options.config import StylizeConfig

SIZE = (45, 51)  # odd, and no multiple of the pooling grid
CONFIG = StylizeConfig(
    weights="random:0",
    content_taps="relu2_2",
    style_taps="relu1_1,relu2_1",
    image_size=51,
    steps=20,
    monitor_every=0,
    engine="fast",
    precision="fp32",
    tv_weight=2.0,
    init="noise",
    optimizer="adam",
    learning_rate=0.005,  # at higher rates rounding grows faster than 1e-5 in 20 steps, between engines as well
)
CASES: dict[str, dict[str, object]] = {
    "max": {},
    "lbfgs": {"optimizer": "lbfgs", "learning_rate": 0.3, "lbfgs_history": 5, "smooth_every": 8},
    "average": {"pooling": "average", "engine": "eager"},
    "scales": {"scales": 2, "min_size": 16, "smooth_every": 7, "average_decay": 0.9, "tile_size": 16, "save_every": 10},
}


def in_float64(pooling: str, ranks: Ranks | None) -> list[float]:
    """The losses of 20 updates, in double precision, of one process or of all ranks together."""
    config = CONFIG.replace(pooling=pooling)
    encoder, _ = make_encoder("random:0", "vgg19", config.taps, pooling=pooling, padding="zeros", normalize_input=True)
    encoder = encoder.double()
    generator = torch.Generator().manual_seed(3)
    content, style, start = (torch.rand(1, 3, *SIZE, dtype=torch.float64, generator=generator) for _ in range(3))
    options = config.replace(optimizer="adam", steps=20, learning_rate=0.02, smooth_every=10)
    if ranks is None:
        objective = Objective(config, build_targets(encoder, config, content, [style]))
        stepper = TorchStepper(EagerEvaluator(encoder, objective), Adam(start, options))
    else:
        network = EagerNetwork(encoder)
        strip = make_strip(ranks, "vgg19", config.taps, *SIZE)
        objective = Objective(config, tiled_targets(network, config, strip, content, [style]))
        stepper = TorchStepper(TiledEvaluator(network, objective, strip), Adam(strip.own(start), options, strip))
    return run_loop(stepper, options, every=1000, names=objective.term_names, double=True).history.rows()["total"]


def threads() -> list[str]:
    """The names of this process's threads, those of libraries among them; none where the system does not tell."""
    return [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]


def main(folder: Path) -> None:
    with joined(process_rank(), "cpu") as ranks:
        pictures = (folder / "content.png", folder / "style.png")
        for name, options in CASES.items():
            api.stylize(*pictures, CONFIG, output=folder / f"{name}.png", ranks=ranks, **options)
        asked = itertools.count()
        impatient = api.Listeners(stop=lambda: ranks.rank == 1 and next(asked) >= 8)
        api.stylize(*pictures, CONFIG, output=folder / "stopped.png", ranks=ranks, listeners=impatient)
        found = {pooling: in_float64(pooling, ranks) for pooling in ("max", "average")}
        if ranks.rank == 0:
            (folder / "float64.json").write_text(json.dumps(found))
    (folder / f"threads-{process_rank().rank}.json").write_text(json.dumps(threads()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
