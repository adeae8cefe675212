"""Films painted: consistent, no frame twice, nothing over a cut, the same after every interruption."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import Clip, made_clip, write_clip
from killed_films import TINY
from numpy.typing import NDArray
from PIL import Image
from places import ROOT

from nst_fast.errors import InputError, OutputError, UsageError
from nst_fast.images.film import open_film
from nst_fast.images.flow import warp
from nst_fast.jobs import video_frames
from nst_fast.jobs.inputs import Shard
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.video import VideoRequest, VideoResult, preview_video, run_video
from nst_fast.options.video import VideoConfig

pytest.importorskip("cv2", reason="motion is found by OpenCV (extra video)")

Pixels = NDArray[np.uint8]


@pytest.fixture
def style(tmp_path: Path) -> Path:
    path = tmp_path / "style.png"
    values = np.random.default_rng(5).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).resize((64, 64)).save(path)
    return path


class Stopping(JobObserver):
    """Asks to stop after so many frames, and remembers what was said."""

    def __init__(self, after: int = 10**9) -> None:
        self.after = after
        self.lines: list[str] = []

    @contextmanager
    def begin(self, title: str) -> Iterator[Stopping]:
        self.after -= 1
        yield self

    def made(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.lines.append(text)

    def stop(self) -> bool:
        return self.after < 0


def request(film: Path, style: Path, output: Path, **options: Any) -> VideoRequest:
    own = {name: options.pop(name) for name in ("overwrite", "keep_frames") if name in options}
    return VideoRequest(film=film, styles=[style], output=output, config=VideoConfig(**TINY | options), **own)


def made(film: Path, style: Path, output: Path, **options: Any) -> VideoResult:
    return run_video(request(film, style, output, **options), JobObserver())


def frames_in(folder: Path, number: int = 1) -> Pixels:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / f"pass-{number}").glob("??????.png"))])


def facts_in(folder: Path, number: int = 1) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / f"pass-{number}").glob("*.json"))]


def warping_error(pictures: Pixels, clip: Clip) -> float:
    """The root of the mean squared difference of each frame to the one before moved by the true flow, where seen."""
    found = []
    for at in range(1, len(pictures)):
        before = torch.from_numpy(pictures[at - 1]).permute(2, 0, 1)[None].float()
        moved = warp(before, torch.from_numpy(clip.flow[at]).permute(2, 0, 1)[None], "bilinear")[0].permute(1, 2, 0)
        squares = (moved.numpy() - pictures[at]) ** 2
        found.append(squares[~clip.occluded[at]].mean())
    return float(np.sqrt(np.mean(found)))


def test_a_film_comes_out_with_its_frames_times_and_sound(tmp_path: Path, style: Path) -> None:
    clip = made_clip(5, (36, 48))
    film = write_clip(tmp_path / "in.mp4", clip, audio=True)
    output, observer = tmp_path / "out.mp4", Stopping()
    result = run_video(request(film, style, output), observer)
    assert (result.count, result.done, result.made) == (5, 5, 5)
    with open_film(film) as before, open_film(output) as after:
        assert after.info.times == before.info.times
        assert after.info.audio
        painted = np.stack([frame.pixels for frame in after.frames()])
    assert painted.shape == clip.frames.shape
    assert np.abs(painted.astype(float) - clip.frames).mean() > 10
    record = json.loads((tmp_path / "out.json").read_text())
    assert [frame["steps"] <= 4 for frame in record["frames"]] == [False, True, True, True, True]
    assert not (tmp_path / "out-frames").exists()
    assert "at most" in observer.lines[1]
    assert "left" in observer.lines[-1]
    again = Stopping()
    assert run_video(request(film, style, output), again).made == 0
    assert again.lines == ["finished before, kept"]


def test_frames_follow_the_motion_and_take_a_third_of_the_steps(tmp_path: Path, style: Path) -> None:
    clip = made_clip(5, (36, 48), pan=3)
    film = write_clip(tmp_path / "in.png", clip)
    made(film, style, tmp_path / "out.png", keep_frames=True, steps=30, init="noise", temporal_weight=300.0)
    together = frames_in(tmp_path / "out-frames")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_frames, "find_scenes", lambda *given: [range(at, at + 1) for at in range(5)])
        made(film, style, tmp_path / "alone.png", keep_frames=True, steps=30, init="noise", seed=1)
    alone = frames_in(tmp_path / "alone-frames")
    assert warping_error(together, clip) < warping_error(alone, clip) / 2
    facts = facts_in(tmp_path / "out-frames")
    assert all(frame["steps"] <= 10 for frame in facts[1:])
    assert all("temporal" in frame["losses"] for frame in facts[1:])


def test_a_still_background_stays_as_it_is(tmp_path: Path, style: Path) -> None:
    clip = made_clip(12, (36, 48), pan=0)
    film = write_clip(tmp_path / "in.png", clip)
    made(film, style, tmp_path / "out.png", keep_frames=True)
    frames = frames_in(tmp_path / "out-frames").astype(float)
    near = torch.nn.functional.max_pool2d(torch.from_numpy(~clip.still[:1]).float(), 7, 1, 3)[0].numpy() > 0
    change = np.abs(frames[-1] - frames[1])
    assert change[~near].mean() < 0.5
    assert change[clip.still[0]].mean() < 1.5  # with what is beside the path of the disc


def test_nothing_of_a_scene_is_in_the_next_one(tmp_path: Path, style: Path) -> None:
    film = write_clip(tmp_path / "in.png", made_clip(6, (36, 48), cut=3))
    made(film, style, tmp_path / "all.png", keep_frames=True)
    made(film, style, tmp_path / "end.png", keep_frames=True, start="0.12")
    assert [frame["scene"] for frame in facts_in(tmp_path / "all-frames")] == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(frames_in(tmp_path / "all-frames")[3:], frames_in(tmp_path / "end-frames"))


@pytest.mark.parametrize("options", [{}, {"passes": 2, "color": "keep"}, {"tile_size": 32, "optimizer": "adam"}])
def test_a_film_that_was_stopped_goes_on_to_the_same_frames(
    tmp_path: Path, style: Path, options: dict[str, Any]
) -> None:
    film = write_clip(tmp_path / "in.mp4", made_clip(4, (36, 48)))
    made(film, style, tmp_path / "whole.mp4", **options)
    output = tmp_path / "parts.mp4"
    for done in range(1, 4):
        result = run_video(request(film, style, output, **options), Stopping(after=1))
        assert (result.done, result.complete, output.exists()) == (done, False, False)
    assert made(film, style, output, **options).complete
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_film_killed_ten_times_is_the_same_film(tmp_path: Path, style: Path) -> None:
    film = write_clip(tmp_path / "in.mp4", made_clip(9, (36, 48), cut=4))
    script = ROOT / "tests/support/killed_films.py"
    done = subprocess.run([sys.executable, script, film, style, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == 10
    assert found["frames"] >= 3  # made by processes that were killed later
    made(film, style, tmp_path / "whole.mp4")
    assert (tmp_path / "killed.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not (tmp_path / "killed-frames").exists()


def test_shards_paint_scenes_and_the_whole_call_puts_them_together(tmp_path: Path, style: Path) -> None:
    film, output = write_clip(tmp_path / "in.mp4", made_clip(5, (36, 48), cut=3)), tmp_path / "out.mp4"
    for index, count in ((2, 2), (1, 3)):
        part = replace(request(film, style, output), shard=Shard(index, 2))
        result = run_video(part, JobObserver())
        assert (result.done, result.made, output.exists()) == (count, count, False)
    assert made(film, style, output).made == 0
    made(film, style, tmp_path / "whole.mp4")
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_disk_that_fills_up_costs_one_frame(tmp_path: Path, style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, output = write_clip(tmp_path / "in.mp4", made_clip(4, (36, 48))), tmp_path / "out.mp4"
    put, left = os.replace, iter(range(9))

    def filling(*given: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(*given)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", filling)
        with pytest.raises(OutputError, match="no space left"):
            made(film, style, output)
    done = len(facts_in(tmp_path / "out-frames"))
    assert 0 < done < 4
    assert made(film, style, output).made == 4 - done
    made(film, style, tmp_path / "whole.mp4")
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_key_changes_the_strength_over_the_film(tmp_path: Path, style: Path) -> None:
    clip = made_clip(5, (36, 48), pan=0)
    film = write_clip(tmp_path / "in.png", clip)
    made(film, style, tmp_path / "out.png", keep_frames=True, key="0:strength=0;0.12:strength=1", steps=24)
    away = np.abs(frames_in(tmp_path / "out-frames").astype(float) - clip.frames).mean((1, 2, 3))
    assert away[0] < 1
    assert all(later > earlier for earlier, later in itertools.pairwise(away[:4]))
    assert away[3] > 5


def test_without_style_every_frame_is_the_contents(tmp_path: Path, style: Path) -> None:
    clip = made_clip(3, (36, 48), pan=2)
    film = write_clip(tmp_path / "in.png", clip)
    made(film, style, tmp_path / "out.png", strength=0.0)
    with open_film(tmp_path / "out.png") as painted:
        assert np.array_equal(np.stack([frame.pixels for frame in painted.frames()]), clip.frames)


def test_a_later_pass_goes_backward_from_the_end_of_the_scene(tmp_path: Path, style: Path) -> None:
    clip = made_clip(4, (36, 48), pan=2)
    film = write_clip(tmp_path / "in.png", clip)
    made(film, style, tmp_path / "out.png", keep_frames=True, passes=2)
    first, second = (frames_in(tmp_path / "out-frames", number).astype(float) for number in (1, 2))
    change = np.abs(first - second).mean((1, 2, 3))
    assert change[-1] == 0 < min(change[:-1])
    with open_film(tmp_path / "out.png") as film_out:
        assert np.array_equal(np.stack([frame.pixels for frame in film_out.frames()]), second)


def test_a_preview_has_three_frames_and_an_estimate(tmp_path: Path, style: Path) -> None:
    film = write_clip(tmp_path / "in.png", made_clip(5, (36, 48)))
    result = preview_video(request(film, style, tmp_path / "out.png"), JobObserver())
    assert result.complete
    assert "at most" in result.estimate
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out-preview.png", "style.png"]


def test_alpha_is_that_of_the_frames(tmp_path: Path, style: Path) -> None:
    clip = made_clip(3, (36, 48))
    frames = [Image.fromarray(picture) for picture in clip.frames]
    for image in frames:
        image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 48, dtype=np.uint8), (36, 1))))
    frames[0].save(tmp_path / "in.png", save_all=True, append_images=frames[1:], duration=40)
    made(tmp_path / "in.png", style, tmp_path / "out.png")
    with open_film(tmp_path / "in.png") as before, open_film(tmp_path / "out.png") as after:
        for one, other in zip(before.frames(), after.frames(), strict=True):
            assert np.array_equal(one.pixels[..., 3], other.pixels[..., 3])


def test_what_is_in_the_way_is_refused_before_any_work(tmp_path: Path, style: Path) -> None:
    film, output = write_clip(tmp_path / "in.mp4", made_clip(3, (36, 48))), tmp_path / "out.mp4"
    run_video(request(film, style, output), Stopping(after=1))
    with pytest.raises(OutputError, match="made otherwise: `steps` 12, not 13"):
        made(film, style, output, steps=13)
    assert made(film, style, output, steps=13, overwrite=True).made == 3
    with pytest.raises(OutputError, match=r"out\.mp4 exists"):
        made(film, style, output, steps=14)
    (tmp_path / "other-frames").mkdir()
    (tmp_path / "other-frames" / "holiday.jpg").touch()
    with pytest.raises(OutputError, match="in the way"):
        made(film, style, tmp_path / "other.mp4", overwrite=True)
    with pytest.raises(OutputError, match="is the input"):
        made(film, style, film, overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        made(film, tmp_path / "none.png", tmp_path / "new.mp4")
    with pytest.raises(UsageError, match="cannot write a film"):
        made(film, style, tmp_path / "new.doc")
    assert not (tmp_path / "new-frames").exists()
