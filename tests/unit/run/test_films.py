"""Films of a run: every picture from the start to the result, and none of them changes or ends the run."""

from __future__ import annotations

import importlib.util
import threading
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import Run
from PIL import Image
from tiny import TINY, flags

from nst_fast import Observer, stylize
from nst_fast.errors import OutputError
from nst_fast.images import load_image, to_uint8
from nst_fast.images.film import open_film
from nst_fast.run import films, loop
from nst_fast.run.films import TimeLapse
from nst_fast.run.trackers import Observers

OPTIONS = TINY | {"steps": 6, "log_every": 2}
FLAGS = flags(OPTIONS)


@pytest.fixture(autouse=True)
def no_event_for_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EVENT_SECONDS", float("inf"))


@pytest.mark.parametrize(("film", "suffix"), [("gif", ".gif"), ("sheet", ".png")])
def test_a_film_shows_the_picture_at_events_from_the_start_to_the_result(
    film: str, suffix: str, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.setattr("nst_fast.run.films.FRAMES", 2)
    flags = (*FLAGS, "--steps=12", "--scales=2", "--min-size=16", "--film", film)
    code, _, messages = command("stylize", *pair, "-o", tmp_path / "out.png", *flags)
    assert code == 0, messages
    with Image.open(tmp_path / f"out-film{suffix}") as picture:
        if film == "gif":
            assert (picture.format, picture.size, picture.n_frames) == ("GIF", (24, 18), 3)  # steps 0, 10 and 12
            picture.seek(2)
            last = np.asarray(picture.convert("RGB"), np.int16)
            made = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"), np.int16)
            assert abs(last - made).mean() < 8  # a palette of 256 colours
        else:
            assert picture.width > 3 * 24
    code, _, messages = command("stylize", *pair, "-o", tmp_path / "a.png", *FLAGS, "--film", "gfi")
    sentence = "--film 'gfi': must be one of gif, sheet, or a file as out.mp4. Did you mean gif?"
    assert (code, sentence in messages) == (2, True)


needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="no PyAV: pip install av")
LAPSE = (*FLAGS, "--steps=12", "--scales=2", "--min-size=16", "--log-every=0")


@needs_av
@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp", "f.png", "f/%02d.png"])
def test_a_film_of_the_run_has_every_picture_and_holds_the_result(
    name: str, pair: tuple[Path, Path], tmp_path: Path, command: Run
) -> None:
    run = ("stylize", *pair, "-o", tmp_path / "out.png", *LAPSE)
    assert command(*run)[0] == 0
    plain = load_image(tmp_path / "out.png").tensor
    code, _, messages = command(*run, "--overwrite", "--film", tmp_path / name)
    assert code == 0, messages
    made = load_image(tmp_path / "out.png").tensor
    assert torch.equal(made, plain)  # the film changes nothing
    rate = 25 if "%" in name else 5
    with open_film(tmp_path / name) as film:
        assert film.info.size == (18, 24)  # that of the result, also at the smaller scale
        assert film.info.duration == pytest.approx(Fraction(13 + 10, rate))  # steps 0 to 12; 2 s of the result
        frames = list(film.frames())
    result = to_uint8(made).astype(int)
    assert abs(frames[-1].pixels - result).mean() < (0.01 if "png" in name else 9)
    assert frames[12].time == Fraction(12, rate) or name == "f.webp"  # which makes one of equal frames
    assert abs(frames[6].pixels - result).mean() > abs(frames[11].pixels - result).mean()


def lapse(
    path: Path, pair: tuple[Path, Path], notes: list[str], observer: Observer | None = None, **options: Any
) -> Any:
    with TimeLapse(path, notes.append) as film:
        return stylize(
            *pair, OPTIONS | {"steps": 10, **options}, listeners=Observers([*filter(None, [observer]), film])
        )


def test_a_long_run_gives_a_picture_every_so_many_steps(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "LAPSE_FRAMES", 4)
    lapse(tmp_path / "f" / "%d.png", pair, [], steps=11)  # steps 0, 3, 6 and 9, and 10 times the result
    with open_film(tmp_path / "f" / "%d.png") as film:
        frames = [frame.pixels for frame in film.frames()]
    assert len(frames) == 4 + 10
    assert [np.array_equal(frame, frames[-1]) for frame in frames] == [False] * 4 + [True] * 10


class Stopper(Observer):
    def stop(self) -> bool:
        return True


@needs_av
def test_a_run_that_stops_early_has_a_shorter_film(pair: tuple[Path, Path], tmp_path: Path) -> None:
    lapse(tmp_path / "f.mp4", pair, [], Stopper())
    with open_film(tmp_path / "f.mp4") as film:
        assert len(film.info.times) == 1 + 10  # its start, and the result


class Broken(Observer):
    def event(self, event: Any) -> None:
        if event.step == 5:
            raise RuntimeError("broken")


@needs_av
def test_a_run_that_fails_leaves_no_film_and_no_thread(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        lapse(tmp_path / "f.mp4", pair, [], Broken())
    assert not {path.name for path in tmp_path.iterdir()} - {"content.png", "style.png"}
    assert "film" not in {thread.name for thread in threading.enumerate()}


def test_a_picture_that_is_not_finite_ends_no_film(tmp_path: Path) -> None:
    """The guard goes back from it, and the run goes on."""
    notes: list[str] = []
    stand_in: Any = types.SimpleNamespace
    with TimeLapse(tmp_path / "%d.png", notes.append) as film:
        film.started(stand_in(options={"steps": 1}, size=[24, 18]))
        film.event(stand_in(step=0, pastiche=torch.full((1, 3, 18, 24), torch.nan)))
        film.finished(stand_in(image=torch.ones(1, 3, 18, 24)))
    assert notes == []
    assert len(list(tmp_path.iterdir())) == 1 + 10


@needs_av
@pytest.mark.parametrize("when", ["at once", "at the end"])
def test_a_film_that_cannot_be_written_ends_with_a_note_and_not_the_run(
    when: str, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, frames: Any, *more: Any, **options: Any) -> None:
        if when == "at the end":
            list(frames)
        raise OutputError("no space left")

    monkeypatch.setattr(films, "write_film", full)
    notes: list[str] = []
    assert lapse(tmp_path / "f.mp4", pair, notes).record.status == "complete"
    assert notes == ["the film no longer follows the run: no space left"]


def test_the_film_of_a_resumed_run_begins_where_it_was_resumed(
    pair: tuple[Path, Path], tmp_path: Path, command: Run
) -> None:
    class StopAtSix(Observer):
        seen = 0

        def event(self, event: Any) -> None:
            self.seen = event.step

        def stop(self) -> bool:
            return self.seen >= 5

    options = OPTIONS | {"steps": 12, "checkpoint_every": 1}
    stylize(*pair, options, output=tmp_path / "out.png", listeners=StopAtSix())
    code, _, messages = command("resume", tmp_path / "out.png", "--film", tmp_path / "f" / "%d.png")
    assert code == 0, messages
    assert len(list((tmp_path / "f").iterdir())) == 7 + 10  # from step 6 on


@needs_av
@pytest.mark.parametrize(
    ("film", "sentence"),
    [
        ("out.png", "is the name of another output"),
        ("f.avi", "cannot write a film as .avi"),
        ("there.mp4", "exists"),
        ("%d.png", "exists"),
    ],
)
def test_a_film_that_would_be_refused_is_refused_before_the_run(
    film: str, sentence: str, pair: tuple[Path, Path], tmp_path: Path, command: Run
) -> None:
    (tmp_path / "there.mp4").touch()
    (tmp_path / "1.png").touch()
    run = ("stylize", *pair, "-o", tmp_path / "out.png", *FLAGS, "--film", tmp_path / film)
    code, _, messages = command(*run)
    assert (code, sentence in messages) == (4 if sentence == "exists" else 2, True), messages
    assert not (tmp_path / "out.png").exists()
