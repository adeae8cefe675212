"""Paths: one rule for the tilde wherever one is taken, and none in what a run leaves behind."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from batches import draw
from in_process import Run
from safetensors.torch import save_file
from tiny import TINY, flags

from nst_fast import NstFastError, StylizeConfig, evaluate, resume, stylize
from nst_fast.errors import InputError, ResumeError, UsageError
from nst_fast.images import read_text
from nst_fast.network.weights import load_weights, random_state
from nst_fast.options.config import bare_name
from nst_fast.run import outputs
from nst_fast.run.checkpoint import read_checkpoint, write_checkpoint
from nst_fast.run.observer import Listeners
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.provenance import Provenance, recorded_options
from nst_fast.run.record import RunRecord, read_record
from nst_fast.system.files import user_path

CONFIG = StylizeConfig(**TINY, optimizer="adam")
FLAGS = (*flags({name: value for name, value in TINY.items() if name != "weights"}), "-q")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with every kind of file that is read, and an empty folder beside it to work in."""
    folder = tmp_path / "home"
    draw(folder / "content.png", 1)
    draw(folder / "style.png", 2)
    draw(folder / "start.png", 3)
    save_file(random_state("vgg19", ["conv1_1", "conv1_2"], 0), folder / "w.safetensors")
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(outputs, "save_loss_curve", lambda record, path: None)
    return folder


READ = ("--weights=~/w.safetensors", "--init=~/start.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ("stylize", "~/content.png", "~/style.png", "--output=~/x/out.png", *READ),
        ("stylize", "~/content.png", "~/style.png", "-o~/x/out.png", *READ),
        ("batch", "~/content.png", "--style=~/style.png", "--output=~/x", *READ),
        ("sweep", "~/content.png", "--style=~/style.png", "--output=~/x", "--vary=init=~/start.png,content", READ[0]),
        ("texture", "~/style.png", "--output=~/x", "--size=32x32", "--weights=~/w.safetensors"),
    ],
    ids=["stylize --output=", "stylize -o", "batch", "sweep", "texture"],
)
def test_the_tilde_is_the_home_folder_in_every_path_of_a_command(
    home: Path, command: Run, arguments: tuple[str, ...]
) -> None:
    given = [flag for flag in FLAGS if arguments[0] != "texture" or not flag.startswith("--content")]
    code, _, error = command(*arguments, *given)
    assert code == 0, error
    assert (home / "x").is_dir()
    assert list(Path().iterdir()) == []  # no folder of the name ~


def test_commands_that_read_runs_and_write_figures_too(home: Path, command: Run) -> None:
    pair = ("~/content.png", "~/style.png")
    assert command("stylize", *pair, "-o", "~/out.png", *READ, *FLAGS)[0] == 0
    digest = load_weights("~/w.safetensors", "vgg19", ["relu1_2"]).sha256
    for arguments in (
        ("stylize", *pair, "-o", "~/again.png", "--from=~/out.png", "-q"),
        ("info", "~/out.png"),
        ("plot", "~/out.png", "--output=~/curves.png"),
        ("evaluate", *pair, "~/out.png", "--weights=random:0", "--json=~/scores.json", "--csv=~/scores.csv"),
        ("weights", "verify", "~/w.safetensors", "--sha256", digest),
        ("resume", "~/out.png"),
    ):
        code, _, error = command(*arguments)
        assert code == 0, (arguments, error)
    assert {"again.png", "curves.png", "scores.json", "scores.csv"} <= {path.name for path in home.iterdir()}
    assert list(Path().iterdir()) == []


def test_the_tilde_is_the_home_folder_in_python(home: Path) -> None:
    made = stylize("~/content.png", Path("~/style.png"), CONFIG, output="~/x/out.png", weights="~/w.safetensors")
    made.save("~/y/saved.png")
    stylize("~/content.png", ["~/style.png"], CONFIG, init="~/start.png", output=Path("~/x/other.png"))
    scores = evaluate("~/content.png", "~/style.png", ["~/content.png"], weights="random:0")
    assert len(scores.pictures) == 1
    assert StylizeConfig(init=Path("~/start.png")).init_file == home / "start.png"
    assert (home / "x" / "other.json").exists()
    assert (home / "y" / "saved.png").exists()
    with pytest.raises(ResumeError, match="is finished"):
        resume("~/x/out.png")
    assert list(Path().iterdir()) == []


def test_users_by_name_and_names_that_only_begin_with_a_tilde(home: Path) -> None:
    assert user_path(f"~{getpass.getuser()}/a") == Path(os.path.expanduser(f"~{getpass.getuser()}")) / "a"  # noqa: PTH111
    assert user_path("~draft.png") == Path("~draft.png")
    assert user_path("./~/a") == Path.cwd() / "~" / "a"
    with pytest.raises(UsageError, match=r"no home folder ~nobody-here.*the whole path"):
        stylize("~/content.png", "~/style.png", CONFIG, output="~nobody-here/out.png")
    with pytest.raises(UsageError, match=r"`init`.*no home folder"):
        CONFIG.replace(init="~nobody-here/a.png")
    Path("~odd").mkdir()
    assert user_path("~odd/a.png") == Path("~odd/a.png")


def made_in(home: Path, **options: Any) -> RunRecord:
    config = CONFIG.replace(weights=home / "w.safetensors", init=home / "start.png", **options)
    return stylize(home / "content.png", home / "style.png", config, output="out.png", overwrite=True).record


def test_no_file_of_a_run_says_in_which_folder_anything_was(home: Path) -> None:
    made_in(home, save_every=1)
    record = read_record(Path("out.json"))
    assert (record["options"]["weights"], record["options"]["init"]) == ("w.safetensors", "start.png")
    assert record["inputs"]["init"]["name"] == "start.png"
    for path in Path().iterdir():
        assert os.fsencode(home.parent) not in path.read_bytes(), path
        if path.suffix == ".png":
            assert str(home.parent) not in json.dumps(read_text(path))


@pytest.mark.parametrize(
    ("warning", "kept"),
    [
        ("no checkpoint: /home/me/out-checkpoint-000002.safetensors: no space left", "no checkpoint: out-checkpoint"),
        ("TensorRT: /opt/me/lib/libnvinfer.so.10 (/home/me/.cache/x) is missing", "TensorRT: libnvinfer.so.10 (x) is"),
        ("see https://example.org/a/b, 3 steps/s at 1/2 of relu1/x", "see https://example.org/a/b, 3 steps/s at 1/2"),
    ],
)
def test_warnings_have_no_folders_either(warning: str, kept: str, home: Path) -> None:
    record = made_in(home)
    record.warnings.append(warning)
    assert kept in record.as_dict()["warnings"][0]


def test_a_run_without_metadata_has_its_record_beside_the_picture_alone(home: Path, command: Run) -> None:
    pair = ("~/content.png", "~/style.png")
    for suffix in ("png", "jpg", "tif", "webp"):
        name = f"{suffix}.{suffix}"
        assert command("stylize", *pair, "-o", name, "--weights", "random:0", "--no-metadata", *FLAGS)[0] == 0
        assert read_text(Path(name)) == {}
        assert b"nst-fast" not in Path(name).read_bytes()
        assert read_record(Path(f"{suffix}.json"))["options"]["metadata"] is False
    assert command("stylize", *pair, "-o", "b.png", "--from", "png.json")[0] == 0
    assert read_text(Path("b.png")) == {}  # as recorded
    many = ("batch", "~/content.png", "--style=~/style.png", "-o", "many", "--weights=random:0", "--no-metadata")
    assert command(*many, *FLAGS)[0] == 0
    assert read_text(Path("many/content.png")) == {}


def test_a_run_is_done_again_with_its_files_wherever_they_are(home: Path, tmp_path: Path) -> None:
    made_in(home)
    weights, init = str(home / "w.safetensors"), str(home / "start.png")
    found = recorded_options(Path("out.png"))
    assert (found["weights"], found["init"]) == (weights, init)  # where this machine read them
    shutil.move(home / "w.safetensors", "w.safetensors")
    shutil.move("out.png", tmp_path)
    shutil.move(init, tmp_path)
    found = recorded_options(tmp_path / "out.png")
    assert found["weights"] == str(Path("w.safetensors").absolute())  # here
    assert found["init"] == str(tmp_path / "start.png")  # beside the record
    draw(tmp_path / "start.png", 99)
    with pytest.raises(InputError, match=r"has read start\.png, which is not to be found as it was.*`init`"):
        recorded_options(tmp_path / "out.png")
    assert recorded_options(tmp_path / "out.png", ["weights"])["init"] == "start.png"


@pytest.mark.parametrize("name", ["a\0b.png", "/", "..", "../" * 40 + "etc/passwd", "/dev/zero", "x" * 5000])
@pytest.mark.parametrize("digest", ["../../x", "/etc/passwd", "a\0", "0" * 64, "x" * 64])
def test_a_record_made_to_do_harm_names_no_file(home: Path, name: str, digest: str) -> None:
    record = made_in(home)
    record.options["init"], record.inputs["init"]["sha256"] = name, digest
    record.save(Path("edited.json"))
    with pytest.raises(NstFastError):
        recorded_options(Path("edited.json"))


def test_a_record_from_before_names_is_read_and_compared_as_it_was(home: Path) -> None:
    record = made_in(home)
    old = record.as_dict() | {"options": {**record.options, "weights": str(home / "w.safetensors")}}
    old["options"]["init"] = str(home / "start.png")
    del old["options"]["metadata"]
    Path("old.json").write_text(json.dumps(old))
    found = recorded_options(Path("old.json"))
    assert (found["weights"], found["init"]) == (str(home / "w.safetensors"), str(home / "start.png"))
    now = Provenance.of_record(read_record(Path("out.json")))
    assert now.differences(Provenance.of_record(read_record(Path("old.json")))) == []


def test_a_name_that_is_a_word_of_the_option_stays_a_name() -> None:
    words = {"noise", "original", "random:1", "~x"}
    assert {bare_name(Path("/a") / word) for word in words} == {f"./{word}" for word in words}
    assert bare_name(Path("/a/b.png")) == "b.png"


def interrupted(home: Path) -> Path:
    asked = iter(range(10))
    made = CONFIG.replace(weights=home / "w.safetensors", init=home / "start.png", checkpoint_every=1)
    stop = Listeners(stop=lambda: next(asked) >= 1)
    stylize(home / "content.png", home / "style.png", made, output="out.png", listeners=stop)
    return Path("out.png")


def test_a_resumed_run_finds_its_files_by_the_places_in_the_checkpoint(home: Path, tmp_path: Path) -> None:
    output = interrupted(home)
    places = read_checkpoint(OutputFiles(output).checkpoints()[0]).places
    assert (places["weights"], places["init"]) == (str(home / "w.safetensors"), str(home / "start.png"))
    record = resume(output).record
    assert record.status == "complete"
    assert (record.options["weights"], record.options["init"]) == ("w.safetensors", "start.png")


def test_a_resumed_run_takes_the_same_files_from_elsewhere_and_no_others(home: Path, tmp_path: Path) -> None:
    output = interrupted(home)
    other = draw(tmp_path / "start.png", 99)
    with pytest.raises(ResumeError, match=r"start\.png is not the picture"):
        resume(output, init=other)
    with pytest.raises(ResumeError, match="`init`"):
        resume(output, init="noise")
    shutil.move(home / "start.png", other)
    shutil.move(home / "w.safetensors", tmp_path)
    assert resume(output, init=other, weights=tmp_path / "w.safetensors").record.status == "complete"


def test_a_checkpoint_from_before_names_goes_on(home: Path) -> None:
    output = interrupted(home)
    for path in OutputFiles(output).checkpoints():
        found = read_checkpoint(path)
        options = {**found.record["options"], "weights": str(home / "w.safetensors"), "init": str(home / "start.png")}
        del options["metadata"]
        places = {name: place for name, place in found.places.items() if name != "init"}
        write_checkpoint(path, dataclasses.replace(found, record=found.record | {"options": options}, places=places))
    assert resume(output).record.status == "complete"


def test_without_a_cache_a_run_is_done_all_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cache").write_text("a file where the cache would be")
    monkeypatch.setenv("NST_FAST_CACHE", str(Path("cache").absolute()))
    assert made_in(home).status == "complete"
    with pytest.raises(InputError, match="is not to be found"):
        recorded_options(Path("out.png"))
