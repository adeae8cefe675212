"""An interrupted run goes on to the picture that it would have made; what does not belong to it is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import CASES
from pictures import image_data
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from places import SUPPORT
from tiny import DEEPER

from nst_fast import api
from nst_fast.api import Listeners, resume, stylize
from nst_fast.cli.console import Messages
from nst_fast.cli.stylize import resumable
from nst_fast.errors import BusyError, NumericsError, OutOfMemoryError, OutputError, ResumeError, UsageError
from nst_fast.images import save_image
from nst_fast.options.config import StopOptions, StylizeConfig
from nst_fast.run import checkpoint as checkpoint_files
from nst_fast.run import outputs
from nst_fast.run.checkpoint import read_checkpoint, write_checkpoint
from nst_fast.run.guard import StopRules
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.record import UNRECORDED, RunRecord, read_record
from nst_fast.run.resumption import continued_config
from nst_fast.system.files import lock

TINY = StylizeConfig(**DEEPER | {"engine": "fast", "steps": 12}, optimizer="adam")


def draw(folder: Path) -> Path:
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    picture = torch.nn.functional.interpolate(coarse, (24, 32), mode="bicubic").clamp(0, 1)
    save_image(picture, folder / "content.png")
    save_image(picture.flip(3) ** 2, folder / "style.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw(tmp_path)


@pytest.fixture(autouse=True)
def no_loss_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to draw than a run of these."""
    monkeypatch.setattr(outputs, "save_loss_curve", lambda *_: None)


class StopAt:
    """Wants to stop at the n-th step that it is asked at."""

    def __init__(self, step: int) -> None:
        self.asked = -1
        self.step = step

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.step


@pytest.fixture(scope="module")
def networks() -> api.Networks:
    return api.Networks()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, networks: api.Networks) -> Path:
    folder = draw(tmp_path_factory.mktemp("stopped"))
    pair, listeners = (folder / "content.png", folder / "style.png"), Listeners(stop=StopAt(7))
    stylize(*pair, TINY, checkpoint_every="5", output=folder / "out.png", listeners=listeners, networks=networks)
    return folder


@pytest.fixture
def interrupted(stopped: Path, folder: Path) -> Path:
    """The picture of a run that the user stopped at step 7 of 12, in a folder of its own."""
    for name in ("out.png", "out.json"):
        shutil.copy(stopped / name, folder)
    files = OutputFiles(folder / "out.png")
    for path in OutputFiles(stopped / "out.png").checkpoints():
        found = read_checkpoint(path)
        places = {"content": str(folder / "content.png"), "styles": [str(folder / "style.png")]}
        write_checkpoint(files.checkpoint(found.step), replace(found, places=found.places | places))
    return files.picture


@pytest.fixture(scope="module")
def after_kills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of all the cases, each killed (SIGKILL) at a random step and resumed."""
    folder = draw(tmp_path_factory.mktemp("killed"))
    script = SUPPORT / "killed_runs.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_very_picture_of_an_undisturbed_one(after_kills: dict[str, Any], case: str) -> None:
    found = after_kills[case]
    assert found["left"] == [2 * ((found["killed_at"] - 1) // 2 - back) for back in (0, 1)][: len(found["left"])]
    for name, value in found["whole"].items():
        assert found["resumed"][name] == value, f"{name} differs after a kill at step {found['killed_at']}"
    assert found["cleared"]


def test_the_cases_are_what_their_names_say(after_kills: dict[str, Any]) -> None:
    assert after_kills["recoveries"]["whole"]["recoveries"]
    assert after_kills["tiled"]["whole"]["plan"] != [1, 1]
    assert after_kills["patience"]["whole"]["status"] == "converged"
    assert after_kills["ort"]["whole"]["engine"] == "ort"
    assert after_kills["winograd"]["whole"]["convolution"] == "winograd"


def test_a_stopped_run_leaves_picture_and_checkpoints_and_goes_on(interrupted: Path, networks: api.Networks) -> None:
    left = [path.name for path in OutputFiles(interrupted).checkpoints()]
    assert left == ["out-checkpoint-000007.safetensors", "out-checkpoint-000005.safetensors"]
    assert json.loads(interrupted.with_suffix(".json").read_text())["status"] == "stopped"
    created = json.loads(interrupted.with_suffix(".json").read_text())["created"]
    resumed = resume(interrupted, networks=networks)
    assert (resumed.record.status, resumed.record.steps, resumed.record.created) == ("complete", 12, created)
    assert len(resumed.record.history["total"]) == 13
    assert not OutputFiles(interrupted).checkpoints()


def test_checkpoints_do_not_change_the_run(folder: Path, networks: api.Networks) -> None:
    pair = folder / "content.png", folder / "style.png"
    for every in ("1", "0"):
        config = TINY.replace(optimizer="lbfgs", checkpoint_every=every)
        stylize(*pair, config, output=folder / f"every{every}.png", networks=networks)
    assert image_data(folder / "every1.png") == image_data(folder / "every0.png")
    assert not list(folder.glob("*.safetensors"))


def test_new_directions_at_every_step_are_those_of_the_seed_and_the_step(folder: Path, networks: api.Networks) -> None:
    pair = (folder / "content.png", folder / "style.png")
    options = TINY.replace(style_loss="sliced", sliced_directions="new", style_scale=0.8)
    whole = stylize(*pair, options, networks=networks)
    output, listeners = folder / "out.png", Listeners(stop=StopAt(7))
    stylize(*pair, options, checkpoint_every="5", output=output, listeners=listeners, networks=networks)
    assert torch.equal(resume(output, networks=networks).image, whole.image)
    for other in (options.replace(seed=1), options.replace(sliced_directions="fixed")):
        assert not torch.equal(stylize(*pair, other, networks=networks).image, whole.image)


def test_the_time_that_counts_goes_on_from_the_checkpoint(interrupted: Path, networks: api.Networks) -> None:
    before = json.loads(interrupted.with_suffix(".json").read_text())["seconds"]
    time.sleep(0.3)
    resumed = resume(interrupted, networks=networks)
    assert before < resumed.record.seconds
    assert resumed.record.steps_per_second == pytest.approx(12 / resumed.record.seconds)


def test_changed_options_are_refused_with_the_list_of_them(interrupted: Path) -> None:
    with pytest.raises(ResumeError) as caught:
        resume(interrupted, image_size=256, learning_rate=0.3, style_weight=StylizeConfig().style_weight)
    assert caught.value.exit_code == 12
    assert "`image_size` 32, not 256" in caught.value.message
    assert "`learning_rate` its default, not 0.3" in caught.value.message
    assert "style_weight" not in caught.value.message  # given as it was
    assert OutputFiles(interrupted).checkpoints()


def test_a_checkpoint_of_before_an_option_goes_on_without_it(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = OutputFiles(interrupted).checkpoints()
    checkpoint = read_checkpoint(path)
    del checkpoint.record["options"]["chroma_tv_weight"]
    assert continued_config(checkpoint, {}).chroma_tv_weight == 0
    monkeypatch.setitem(UNRECORDED, "chroma_tv_weight", 7.0)  # not the default of today, which may be 0 as well
    assert continued_config(checkpoint, {}).chroma_tv_weight == 7


def test_harmless_options_are_accepted_and_recorded(interrupted: Path, networks: api.Networks) -> None:
    resumed = resume(interrupted, networks=networks, log_every=3, steps=14)
    assert resumed.record.options["log_every"] == 3
    assert resumed.record.steps == 14


def test_fewer_steps_than_are_done_and_more_steps_of_a_cosine_are_refused(
    interrupted: Path, folder: Path, networks: api.Networks
) -> None:
    with pytest.raises(ResumeError, match="7 are done, given 5"):
        resume(interrupted, steps=5)
    pair, output = (folder / "content.png", folder / "style.png"), folder / "cosine.png"
    config = TINY.replace(schedule="cosine")
    stylize(*pair, config, output=output, listeners=Listeners(stop=StopAt(3)), networks=networks)
    with pytest.raises(ResumeError, match="`steps` 12, not 20"):
        resume(output, steps=20)


def test_an_option_out_of_range_is_a_usage_error(interrupted: Path) -> None:
    with pytest.raises(UsageError, match="`log_every`"):
        resume(interrupted, log_every=-1)


def test_a_moved_picture_is_named_and_found_where_it_is_said_to_be(
    interrupted: Path, folder: Path, networks: api.Networks
) -> None:
    (folder / "content.png").rename(folder / "moved.png")
    with pytest.raises(ResumeError, match=r"content\.png.*`content`"):
        resume(interrupted)
    with pytest.raises(ResumeError, match="is not the picture"):
        resume(interrupted, content=folder / "style.png")
    assert resume(interrupted, content=folder / "moved.png", networks=networks).record.status == "complete"


def test_a_changed_picture_is_refused(interrupted: Path, folder: Path) -> None:
    save_image(torch.rand(1, 3, 20, 20), folder / "style.png")
    with pytest.raises(ResumeError, match=r"style\.png is not the picture that the run began with.*`style`"):
        resume(interrupted)


def test_another_device_is_refused_and_another_number_of_threads_is_noted(
    interrupted: Path, networks: api.Networks
) -> None:
    def rewrite(**changes: Any) -> None:
        for path in OutputFiles(interrupted).checkpoints():
            found = read_checkpoint(path)
            write_checkpoint(path, replace(found, record=found.record | changes))

    machine = read_checkpoint(OutputFiles(interrupted).checkpoints()[0]).record["machine"]
    rewrite(device="cuda:0", machine=machine | {"torch_threads": 77})
    with pytest.raises(ResumeError, match="began on cuda:0, and this is cpu"):
        resume(interrupted, networks=networks)
    rewrite(device="cpu")
    notes: list[str] = []
    resume(interrupted, networks=networks, listeners=Listeners(note=notes.append, detail=notes.append))
    assert any("threads 77 then" in note and "last bits" in note for note in notes)


def test_other_weights_are_refused(interrupted: Path) -> None:
    with pytest.raises(ResumeError, match="weights"):
        resume(interrupted, weights="random:1")


@pytest.mark.parametrize(("options", "grid"), [({}, [2, 2]), ({"tile_size": 32}, [1, 1])], ids=["kept", "changed"])
def test_a_resumed_run_has_the_tiles_it_began_with_unless_others_are_asked_for(
    interrupted: Path, networks: api.Networks, options: dict[str, Any], grid: list[int]
) -> None:
    for path in OutputFiles(interrupted).checkpoints():
        found = read_checkpoint(path)
        record = found.record | {"plan": found.record["plan"] | {"grid": [2, 2]}}
        write_checkpoint(path, replace(found, record=record))
    assert resume(interrupted, networks=networks, **options).record.plan["grid"] == grid


def test_patience_looks_at_steps_and_not_at_when_events_come() -> None:
    """Events also come as time passes, and a run must not depend on how fast the machine is."""
    rules = StopRules(StopOptions(patience=10))
    assert rules.verdict(0, [1.0], 0.0, 1.0) == ""
    assert rules.verdict(3, [0.5], 0.0, 1.0) == ""  # an event that only time brought: not seen
    assert rules.verdict(5, [0.9], 0.0, 1.0) == ""
    assert rules.verdict(13, [0.9], 0.0, 1.0) == ""
    assert rules.verdict(15, [0.9], 0.0, 1.0) == "converged"


def test_a_damaged_checkpoint_falls_back_to_the_one_before(interrupted: Path, networks: api.Networks) -> None:
    newest, before = OutputFiles(interrupted).checkpoints()
    newest.write_bytes(newest.read_bytes()[:-5])
    notes: list[str] = []
    resumed = resume(interrupted, listeners=Listeners(note=notes.append, detail=notes.append), networks=networks)
    assert any(f"{newest.name} is damaged" in note and before.name in note for note in notes)
    assert resumed.record.steps == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"pastiche": torch.zeros(1, 3, 5, 5)},
        {"scale": 3},
        {"optimizer": {"step": torch.tensor(1.0)}},
        {"guard": {}},
        {"rules": {"best": 1.0}},
        {"history": torch.zeros(7, 2)},
        {"history": torch.zeros(90, 4)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_state_that_does_not_fit_the_run_is_refused(
    interrupted: Path, networks: api.Networks, changes: dict[str, Any]
) -> None:
    newest = OutputFiles(interrupted).checkpoints()[0]
    write_checkpoint(newest, replace(read_checkpoint(newest), **changes))
    with pytest.raises(ResumeError, match="does not fit"):
        resume(interrupted, networks=networks)


def test_a_finished_run_and_one_without_checkpoint_say_so(
    interrupted: Path, folder: Path, networks: api.Networks
) -> None:
    resume(interrupted, networks=networks)
    with pytest.raises(ResumeError, match=r"is finished: complete, 12 steps.*`init`"):
        resume(interrupted)
    with pytest.raises(ResumeError, match="no checkpoint"):
        resume(folder / "nothing.png")


def test_an_unfinished_run_is_not_begun_anew_by_accident(
    interrupted: Path, folder: Path, networks: api.Networks
) -> None:
    pair = folder / "content.png", folder / "style.png"
    interrupted.unlink()
    with pytest.raises(OutputError, match=r"out-checkpoint-000007\.safetensors.*nst-fast resume.*`overwrite`"):
        stylize(*pair, TINY, output=interrupted)
    stylize(*pair, TINY, output=interrupted, overwrite=True, networks=networks)
    assert not OutputFiles(interrupted).checkpoints()


def test_a_picture_of_another_origin_is_not_replaced(interrupted: Path, networks: api.Networks) -> None:
    save_image(torch.rand(1, 3, 20, 20), interrupted)
    before = interrupted.read_bytes()
    with pytest.raises(OutputError, match="not what the interrupted run left"):
        resume(interrupted)
    assert interrupted.read_bytes() == before
    assert resume(interrupted, overwrite=True, networks=networks).record.status == "complete"


class KilledError(BaseException):
    """The end of a run between two of its files."""


@contextmanager
def killed_before_the_record() -> Iterator[None]:
    def kill(record: RunRecord, path: Path) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(RunRecord, "save", kill)
        yield


def test_a_run_killed_between_picture_and_record_goes_on(folder: Path, networks: api.Networks) -> None:
    """Found by the crash campaign: one kill in two hundred fell there."""
    pair, output = (folder / "content.png", folder / "style.png"), folder / "out.png"
    with killed_before_the_record():
        stylize(*pair, TINY, checkpoint_every="4", output=output, networks=networks)
    assert output.exists()
    assert not output.with_suffix(".json").exists()
    assert OutputFiles(output).checkpoints()
    assert resume(output, networks=networks).record.status == "complete"


def test_a_resumed_run_killed_between_picture_and_record_goes_on(interrupted: Path, networks: api.Networks) -> None:
    with killed_before_the_record():
        resume(interrupted, networks=networks)
    assert resume(interrupted, networks=networks).record.status == "complete"


def test_a_picture_that_was_edited_by_a_program_which_keeps_its_text_is_not_replaced(interrupted: Path) -> None:
    with Image.open(interrupted) as picture:
        edited, text = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), PngInfo()
        for name, value in picture.text.items():
            text.add_text(name, value)
    edited.save(interrupted, pnginfo=text)
    assert read_record(interrupted)["steps"] == 7  # it is there
    with pytest.raises(OutputError, match="not what the interrupted run left"):
        resume(interrupted)


def test_a_run_that_fails_leaves_its_last_checkpoint(folder: Path, networks: api.Networks) -> None:
    pair, output = (folder / "content.png", folder / "style.png"), folder / "out.png"
    wild = TINY.replace(learning_rate=0.9, divergence_factor=1.0001, checkpoint_every="4", steps=40)
    with pytest.raises(NumericsError):
        stylize(*pair, wild, output=output, networks=networks)
    assert OutputFiles(output).checkpoints()
    assert json.loads(output.with_suffix(".json").read_text())["status"] == "diverged"


def test_a_disk_without_room_for_checkpoints_costs_them_and_not_the_run(
    folder: Path, networks: api.Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, checkpoint: object) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", full)
    pair = folder / "content.png", folder / "style.png"
    record = stylize(*pair, TINY, checkpoint_every="2", output=folder / "out.png", networks=networks).record
    assert record.status == "complete"
    assert record.warnings == ["no checkpoint at step 2, nor after it: no space left"]  # said once


@pytest.mark.parametrize("error", [OutOfMemoryError("it does not fit"), KeyboardInterrupt()])
def test_whatever_ends_a_run_early_how_to_go_on_is_said(
    interrupted: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = OutputFiles(interrupted).checkpoints()[0]
    with pytest.raises(type(error)), resumable(interrupted, Messages(quiet=False)):
        raise error
    assert capsys.readouterr().err == ""  # this attempt left nothing new
    with pytest.raises(type(error)), resumable(interrupted, Messages(quiet=False)):
        write_checkpoint(newest, read_checkpoint(newest))
        raise error
    assert capsys.readouterr().err == f"Resume with: nst-fast resume {interrupted}\n"


def test_two_runs_do_not_share_an_output(interrupted: Path) -> None:
    with lock(interrupted.with_suffix("")), pytest.raises(BusyError):
        resume(interrupted)


def nst_fast(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, which heeds SIGINT whatever the shell of these tests does."""
    return subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
         "from nst_fast.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while not list(folder.glob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


LONG = (
    *("stylize", "content.png", "style.png", "-o", "out.png", "--weights", "random:0", "--optimizer", "adam"),
    *("--content-taps", "relu1_2", "--style-taps", "relu1_1,relu2_1", "--image-size", "32", "--engine", "fast"),
    *("--precision", "fp32", "--monitor-every", "0", "--steps", "100000", "--checkpoint-every", "5"),
)


def test_a_signal_saves_and_says_how_to_go_on_and_kill_9_costs_nothing_that_was_kept(folder: Path) -> None:
    process = nst_fast(*LONG, cwd=folder)
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "out.png").exists()
    resumed = nst_fast("resume", "out.png", cwd=folder)
    reached = OutputFiles(folder / "out.png").checkpoints()[0]
    while OutputFiles(folder / "out.png").checkpoints()[0] == reached:
        assert resumed.poll() is None, resumed.communicate()
        time.sleep(0.02)
    resumed.send_signal(signal.SIGTERM)
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 143, said
    assert "Resume with: nst-fast resume out.png" in said
    assert "note: going on after step" in said
    assert json.loads((folder / "out.json").read_text())["status"] == "stopped"


def test_a_second_signal_ends_at_once_and_leaves_what_was_kept(folder: Path) -> None:
    process = nst_fast(*LONG, "--image-size", "640", "--steps", "100000", "--checkpoint-every", "1", cwd=folder)
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # may come as one with the first: signals do not queue
    while process.poll() is None and (process.send_signal(signal.SIGINT) or True):
        time.sleep(0.002)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert OutputFiles(folder / "out.png").checkpoints()
    assert not (folder / "out.json").exists()  # no picture was finished
