"""Workers elsewhere: whose fault a death is, what becomes of its pictures, and how a stop ends them all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from batches import Watcher, batch_of, draw, run
from PIL import Image
from places import SUPPORT

from nst_fast.errors import DeviceError, NstFastError, OutputError
from nst_fast.jobs.batch import run_batch
from nst_fast.jobs.executors import MOST_DEATHS, Answer, Death, Dispatcher, Group, WorkerSide
from nst_fast.jobs.painter import Made, Picture, Spec

PICTURES = [Picture(name, f"{name}.png", Path(name)) for name in "abcdef"]
KILLED = Death("killed")
GONE = Death("its machine is gone", counted=False)


class ScriptedBackend:
    """Two workers whose ends are written down: picture -> what happens at each attempt; else it is made."""

    def __init__(self, fates: dict[str, Sequence[object]], starts: Sequence[Answer | Death] = ()) -> None:
        self.fates = {name: list(each) for name, each in fates.items()}
        self.starts = list(starts)
        self.given: list[str] = []
        self.stopped: list[int] = []
        self.answers: list[tuple[int, Answer | Death]] = []
        self.count = 0

    def room(self) -> int:
        return 2

    def start(self) -> int:
        self.count += 1
        self.answers.append((self.count, self.starts.pop(0) if self.starts else Answer()))
        return self.count

    def give(self, worker: int, group: Group) -> None:
        self.given.append("".join(picture.name for picture in group))
        assert all(picture.attempt for picture in group)
        fates = [self.fates[picture.name].pop(0) for picture in group if self.fates.get(picture.name)]
        if fates and isinstance(fates[0], Death):
            self.answers.append((worker, fates[0]))
        else:
            error = fates[0] if fates and isinstance(fates[0], NstFastError) else None
            self.answers.append((worker, Answer([Made(picture, record={}) for picture in group], (), error)))

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)

    def wait(self, seconds: float) -> Iterator[tuple[int, Answer | Death]]:
        yield self.answers.pop(0)

    def close(self) -> None:
        self.answers.clear()


def outcomes(
    backend: ScriptedBackend, groups: Sequence[str], watcher: Watcher | None = None
) -> dict[str, NstFastError | None]:
    """Name -> error of what was made, each once."""
    by_name = {picture.name: picture for picture in PICTURES}
    dispatcher = Dispatcher(backend, watcher or Watcher())
    made = list(dispatcher.run([by_name[name] for name in group] for group in groups))
    assert len({each.picture.name for each in made}) == len(made)
    return {each.picture.name: each.error for each in made}


def test_a_picture_whose_workers_die_is_given_up_and_the_others_are_made() -> None:
    backend = ScriptedBackend({"b": [KILLED] * MOST_DEATHS})
    watcher = Watcher()
    found = outcomes(backend, "abcdef", watcher)
    assert sorted(found) == list("abcdef")
    (given_up,) = [(name, error) for name, error in found.items() if error is not None]
    assert given_up[0] == "b"
    assert given_up[1].exit_code == 7
    assert "3 workers died while they made it" in str(given_up[1])
    assert backend.given.count("b") == MOST_DEATHS
    assert sum("its worker died (killed); it is tried again" in note for note in watcher.notes) == 2


def test_deaths_with_the_machine_are_not_the_pictures_fault() -> None:
    found = outcomes(ScriptedBackend({"b": [GONE] * 5 + [KILLED] * 2}), "abc")
    assert found == dict.fromkeys("abc")


def test_after_a_death_in_a_shared_loop_each_picture_is_made_alone() -> None:
    backend = ScriptedBackend({"b": [KILLED, KILLED]})
    assert outcomes(backend, ["abc", "d"]) == dict.fromkeys("abcd")
    assert backend.given[:2] == ["abc", "d"]
    assert sorted(backend.given[2:]) == ["a", "b", "b", "c"]


def test_workers_that_die_before_they_are_ready_end_the_batch_and_an_error_of_one_does_too() -> None:
    with pytest.raises(DeviceError, match=r"die before they are ready: no libtorch"):
        outcomes(ScriptedBackend({}, [Death("no libtorch")] * MOST_DEATHS), "ab")
    assert outcomes(ScriptedBackend({}, [Death("spot", counted=False)] * 5), "ab") == dict.fromkeys("ab")
    with pytest.raises(OutputError, match="disk full"):
        outcomes(ScriptedBackend({"b": [OutputError("disk full")]}), "ab")


def test_a_stop_waits_for_those_at_work_and_starts_nothing() -> None:
    backend, watcher = ScriptedBackend({}), Watcher()
    watcher.stop = lambda: len(backend.given) >= 2  # type: ignore[method-assign]
    assert len(outcomes(backend, "abcdef", watcher)) == 2
    assert backend.stopped == [1, 2]
    assert len(backend.given) == 2


def test_a_worker_that_does_not_see_the_folder_says_so(photos: Path) -> None:
    from nst_fast.run.provenance import Provenance

    wanted = Provenance(options={}, weights=None, content=None, styles=[], init="")
    answer = WorkerSide().ready(Spec(batch_of(photos).config, [], photos / "nowhere", wanted))
    assert isinstance(answer.error, OutputError)
    assert "nowhere, the folder of the batch, is not there" in str(answer.error)


def test_worker_processes_make_the_same_pictures_and_continue_what_they_began(photos: Path) -> None:
    options = {"steps": 60, "checkpoint_every": "1"}
    watcher = Watcher()
    checkpoints = photos.parent / "out" / ".nst-fast-batch" / "checkpoints"
    watcher.stop = lambda: any(checkpoints.rglob("*-checkpoint-*"))  # type: ignore[method-assign]
    stopped = run_batch(batch_of(photos, workers=2, **options), watcher)
    assert stopped.left
    watcher = Watcher()
    outcome = run_batch(batch_of(photos, workers=1, **options), watcher)
    assert len(outcome.done) == 2
    assert any(note.startswith("continuing after step") for note in watcher.notes)
    run(photos, folder=photos.parent / "again", **options)
    for name in ("a.png", "deep/er/b.png"):
        with Image.open(photos.parent / "out" / name) as one, Image.open(photos.parent / "again" / name) as other:
            assert one.tobytes() == other.tobytes()


def test_a_picture_that_kills_its_worker_process_fails_alone(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    draw(tmp_path / "in" / "deadly.png", 2)
    draw(tmp_path / "style.png", 3)
    options = ("--weights=random:0", "--image-size=24", "--engine=eager", "--steps=2", "--precision=fp32")
    command = (SUPPORT / "deadly_batch.py", "batch", "in", "--style=style.png", "-o", "out", "--workers=1", *options)
    called = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert called.returncode == 10, called.stderr
    assert "its worker died (ended with code 1); it is tried again" in called.stderr
    assert "failed: deadly.png: 3 workers died" in called.stderr
    assert (tmp_path / "out" / "a.png").exists()
