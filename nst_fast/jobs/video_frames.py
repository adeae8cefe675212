"""The frames of a film, one after another, each an ordinary run that begins with what is known of its neighbours.

Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos" (arXiv:1604.08610): sections 5.1 (start), 5.2
(short and long term), 5.3 (passes).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.images import LoadedImage
from nst_fast.images.film import Film
from nst_fast.images.flow import Estimate, estimator, is_cut, motion_to, warp
from nst_fast.images.given import GivenPicture
from nst_fast.jobs.inputs import WHOLE, Shard
from nst_fast.jobs.runner import JobObserver, warm_up
from nst_fast.jobs.video_folder import Facts, VideoFolder
from nst_fast.options.config import StylizeConfig
from nst_fast.options.video import VideoConfig
from nst_fast.run.outputs import Pastiche
from nst_fast.run.problem import Continuation, Networks, Problem, load_problem, read_content
from nst_fast.run.run import run
from nst_fast.system.machine import resolve_device

LAGS = (1, 2, 4, 8)  # to the frames that one is compared with; the nearest that shows a point counts
BLEND = 0.5  # of a later pass: the share of the neighbour, moved, in where a frame starts
ENOUGH = 1.03  # times the loss of its model: a frame is done
BLOCK = 8  # frames that are read at a time
SCENE_SIDE = 160  # longest side of frames, in pixels, in the search for cuts


def find_scenes(film: Film, config: VideoConfig, estimate: Estimate) -> list[range]:
    """The frames of each scene, by looking through the film at a small size."""
    options = config.replace(image_size=SCENE_SIDE, transparency="background")
    starts, before = [0], None
    for frame in film.frames():
        now = read_content(GivenPicture(frame.pixels), options).tensor
        if before is not None and is_cut(before, now, motion_to(before, now, estimate)):
            starts.append(frame.index)
        before = now
    count = len(film.info.times)
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


@dataclass(eq=False)
class FrameMaker:
    """Makes the frames of an open film, of the scenes those of the shard."""

    film: Film
    styles: Sequence[Path]
    config: VideoConfig
    folder: VideoFolder
    observer: JobObserver
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        self.networks = Networks()
        self._block = functools.lru_cache(maxsize=2)(self._read_block)
        self.estimate = estimator(self.config.flow, resolve_device(self.config.device))

    def content(self, index: int) -> LoadedImage:
        """A frame at the size that it is painted at."""
        return self._block(index // BLOCK)[index]

    def _read_block(self, number: int) -> dict[int, LoadedImage]:
        frames = self.film.frames(number * BLOCK, (number + 1) * BLOCK)
        return {frame.index: read_content(GivenPicture(frame.pixels), self.config) for frame in frames}

    @functools.cached_property
    def scenes(self) -> list[range]:
        """The frames of each."""
        return self.folder.scenes(self.found_scenes)

    def found_scenes(self) -> list[range]:
        self.observer.note(f"looking for cuts in {len(self.film.info.times)} frames")
        return find_scenes(self.film, self.config, self.estimate)

    @property
    def own_scenes(self) -> list[range]:
        """Those of the shard."""
        return self.scenes[self.shard.index - 1 :: self.shard.count]

    def order(self) -> Iterator[tuple[int, int]]:
        """Pass and frame of all that is to be made, in their order."""
        for number in range(1, self.config.passes + 1):
            for scene in self.own_scenes:
                yield from ((number, index) for index in (scene if number % 2 else reversed(scene)))

    def follows(self, number: int, index: int) -> bool:
        """Whether a frame of a pass starts from another picture; in pass 0 each is by itself."""
        return number > 1 or (number == 1 and index != self.scene(index).start)

    def painted(self, number: int, index: int, title: str) -> tuple[Problem, Pastiche]:
        """Run a frame of a pass, the passes counted from 1."""
        with self.observer.begin(title) as observer:
            problem = self.problem(number, index)
            warm_up()
            return problem, run(problem, None, observer)

    def make(self, number: int, index: int, title: str) -> Facts | None:
        """Make a frame and write it; None if it was stopped."""
        started = time.perf_counter()
        problem, pastiche = self.painted(number, index, title)
        record = pastiche.record
        if record.status == "stopped":
            return None
        if pastiche.failure is not None:
            self.observer.note(f"{title}: {pastiche.failure.message}; its best picture is kept")
        facts = {
            "time": float(self.film.info.times[index]),
            "scene": self.scenes.index(self.scene(index)),
            "status": record.status,
            "steps": record.steps,
            "seconds": time.perf_counter() - started,
            "losses": record.losses,
        }
        self.folder.save(number, index, *self.finished(problem, pastiche), facts)
        return facts

    def problem(self, number: int, index: int) -> Problem:
        """What a frame of a pass is to become."""
        seconds = float(self.film.info.times[index])
        others = self.continuation(number, index)
        config = self.config.still(seconds) if others is None else self.config.following(seconds)
        problem = load_problem(
            unfinished(config), self.content(index), self.styles, self.networks, runs=len(self.film.info.times)
        )
        return replace(problem, continuation=others)

    def scene(self, index: int) -> range:
        return next(scene for scene in self.scenes if index in scene)

    def continuation(self, number: int, index: int) -> Continuation | None:
        """What a frame takes over from its neighbours of this pass, and from itself in the pass before."""
        if not self.follows(number, index):
            return None
        back, scene, enough = (-1 if number % 2 else 1), self.scene(index), self.enough(index)
        others = [index + back * lag for lag in LAGS if index + back * lag in scene]
        if not others:  # the end of a scene, where a pass begins, stays
            itself = self.folder.state(number - 1, index)
            return Continuation(
                itself, torch.ones_like(itself[:, :1]), itself, torch.ones_like(itself[:, :1]), math.inf
            )
        frame = self.content(index).tensor
        motions = [motion_to(self.content(other).tensor, frame, self.estimate) for other in others]
        still = torch.stack([motion.still for motion in motions]).amin(0)  # slow motion shows over several frames alone
        motions = [motion.holding(still) for motion in motions]
        moved = [
            warp(self.folder.state(number, other), motion.flow).clamp(0, 1)
            for other, motion in zip(others, motions, strict=True)
        ]
        start, known = composed(moved, [motion.seen for motion in motions])
        target, weights = composed(moved, [motion.trusted for motion in motions])
        if number > 1:
            itself = self.folder.state(number - 1, index)
            start, known = torch.lerp(itself, start, BLEND * known), torch.ones_like(known)
        return Continuation(start, known, target, self.config.temporal_weight * weights, enough)

    def enough(self, index: int) -> float:
        """The loss, without the temporal term, at which a frame is as good as its model; 0 for models themselves.

        Its model is the first frame of its scene, or the first one since an option had another value by ``key``.
        """
        times, keys = [float(time) for time in self.film.info.times], self.config.key
        model, values = self.scene(index).start, keys.at(times[index])
        model = max([model, *(at + 1 for at in range(model, index) if keys.at(times[at]) != values)])
        facts = self.folder.facts(1, model) if model < index else None
        if facts is None:
            return 0.0
        losses = facts["losses"]
        return float(ENOUGH * (losses["total"] - losses.get("temporal", 0.0)))

    def finished(self, problem: Problem, pastiche: Pastiche) -> tuple[Pastiche, Tensor]:
        """The frame as it is shown, and as the next one starts from it."""
        config = problem.config.replace(denoise=self.config.denoise, color=self.config.color)
        if config == problem.config:
            return pastiche, pastiche.image
        picture, _ = replace(problem, config=config).finished(pastiche.image)
        return replace(pastiche, image=picture), pastiche.image


def unfinished(config: StylizeConfig) -> StylizeConfig:
    """The options without what is done to a picture after its last step: a frame starts from one before that."""
    return config.replace(denoise=0.0, color="none" if config.color == "keep" else config.color)


def composed(pictures: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures [1, 3, H, W], of each point the first whose weight [1, 1, H, W] is not 0; and those weights.

    They are the long-term weights max(c - sum of nearer c, 0) of Ruder et al. 2016, section 5.2, of which at most one
    is not 0 at any point: one term of one picture.
    """
    whole, known = pictures[0], weights[0]
    for picture, more in zip(pictures[1:], weights[1:], strict=True):
        whole, known = torch.where(known > 0, whole, picture), torch.where(known > 0, known, more)
    return whole, known
