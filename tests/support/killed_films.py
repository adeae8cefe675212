"""A process that starts the same film ten times, each killed at a random moment, and ends it at last.

``python killed_films.py FILM STYLE FOLDER`` writes FOLDER/killed.mp4 and prints how often it was killed, and how many
frames there were before the end. One process, because importing PyTorch takes longer than a film: those that are killed
are forks, all made before PyTorch has threads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import tiny
import torch

from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.video import VideoRequest, run_video
from nst_fast.options.video import VideoConfig
from nst_fast.run.observer import StepEvent

TINY = {name: value for name, value in tiny.TINY.items() if name not in ("engine", "monitor_every")}
TINY |= {"content_taps": "relu2_1", "style_taps": "relu1_1,relu2_1", "image_size": 48, "steps": 12}
TINY |= {"convolution": "direct"}


class Deadly(JobObserver):
    """Kills its process at an event of a run, or at a file that takes its place."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        replace = os.replace

        def counted(*given: Any, **options: Any) -> None:
            replace(*given, **options)
            self.count()

        os.replace = counted

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def event(self, event: StepEvent) -> None:
        self.count()


def main() -> None:
    film, style, folder = map(Path, sys.argv[1:])
    request = VideoRequest(film=film, styles=[style], output=folder / "killed.mp4", config=VideoConfig(**TINY))
    chance, killed = random.Random(7), 0
    for moment in [chance.randrange(1, 10) for _ in range(10)]:
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            run_video(request, Deadly(moment))
            os._exit(0)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    frames = len(list((folder / "killed-frames").glob("pass-1/*.json")))
    run_video(request, JobObserver())
    sys.stdout.write(json.dumps({"killed": killed, "frames": frames}))


if __name__ == "__main__":
    main()
