"""Who may be overwritten: every output times every input times the flags. Nothing that is the user's is ever lost."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import TINY as BATCH
from batches import Watcher, draw
from in_process import Run
from tiny import TINY

from nst_fast import Listeners, Networks, NstFastError, StylizeConfig, resume, stylize, stylize_together
from nst_fast.errors import BusyError, OutputError, UsageError
from nst_fast.images import save_image
from nst_fast.images.plots import RUN_KEY
from nst_fast.jobs.batch import BatchRequest, run_batch
from nst_fast.jobs.demo import demonstrate
from nst_fast.jobs.series import run_series
from nst_fast.jobs.sweep import plan_sweep
from nst_fast.onnx.bundle import write_bundle
from nst_fast.onnx.checked_export import export_model
from nst_fast.options.commands import SweepConfig
from nst_fast.options.config import DemoConfig, ExportConfig
from nst_fast.run import outputs
from nst_fast.system.files import lock

SETTINGS = TINY | {"image_size": 32, "steps": 4, "optimizer": "adam", "save_every": 1}
CONFIG = StylizeConfig(**SETTINGS, checkpoint_every="1")
OUTPUTS = {
    "picture": "out.png",
    "record": "out.json",
    "loss curve": "out-losses.png",
    "snapshot": "out-000004.png",
    "checkpoint": "out-checkpoint-000001.safetensors",
}
INPUTS = ("content", "style", "init", "weights")
OTHERS = ("another run's", "a stranger's")


def small_curve(record: dict[str, Any], path: Path) -> None:
    save_image(torch.zeros(1, 3, 16, 16), path, text={RUN_KEY: record["created"]})


@pytest.fixture(autouse=True)
def no_loss_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to draw than a run of these."""
    monkeypatch.setattr(outputs, "save_loss_curve", small_curve)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, networks: Networks) -> Path:
    """The files of another run, stopped after two of its steps."""
    folder = tmp_path_factory.mktemp("others")
    content, style = draw(folder / "in" / "content.png", 11), draw(folder / "in" / "style.png", 12)
    draw(folder / "in" / "init.png", 13)
    asked = iter(range(100))
    stop = Listeners(stop=lambda: next(asked) >= 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "save_loss_curve", small_curve)
        options = {"init": folder / "in" / "init.png", "output": folder / "out.png"}
        stylize(content, style, CONFIG, listeners=stop, networks=networks, **options)  # type: ignore[arg-type]
    shutil.copy(folder / "out-000001.png", folder / "out-000004.png")
    assert (folder / OUTPUTS["checkpoint"]).exists()
    return folder


class Cell:
    """A file in the place of an output, which is one of the inputs of the call, or of another origin."""

    def __init__(self, folder: Path, victim: Path, kind: str, other: bytes = b"of another run") -> None:
        self.folder, self.victim, self.kind = folder, victim, kind
        victim.parent.mkdir(parents=True, exist_ok=True)
        pictures = {name: draw(folder / "in" / f"{name}.png", seed) for seed, name in enumerate(INPUTS[:3])}
        if kind in pictures:
            shutil.move(pictures[kind], victim)
            pictures[kind] = victim
        else:
            victim.write_bytes({"another run's": other}.get(kind, kind.encode()))
        self.content, self.style = pictures["content"], pictures["style"]
        self.options: dict[str, object] = {"weights": victim} if kind == "weights" else {}
        self.options |= {"init": victim} if kind == "init" else {}
        self.before = victim.read_bytes()

    def check_kept(self) -> None:
        assert self.victim.read_bytes() == self.before


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
@pytest.mark.parametrize(("output", "kind"), list(itertools.product(OUTPUTS, INPUTS + OTHERS)))
def test_a_run_replaces_no_input_and_what_is_not_its_own_only_when_told_to(
    tmp_path: Path, others: Path, networks: Networks, output: str, kind: str, overwrite: bool
) -> None:
    name = OUTPUTS[output]
    cell = Cell(tmp_path, tmp_path / name, kind, (others / name).read_bytes())

    def call() -> None:
        given: dict[str, Any] = {"output": tmp_path / "out.png", "overwrite": overwrite, **cell.options}
        stylize(cell.content, cell.style, CONFIG, networks=networks, **given)

    if overwrite and kind in OTHERS:
        call()
        assert (tmp_path / "out.png").exists()
        assert not cell.victim.exists() or cell.victim.read_bytes() != cell.before
        return
    with pytest.raises(OutputError) as refused:
        call()
    assert refused.value.exit_code == 4
    cell.check_kept()
    assert {path.name for path in tmp_path.iterdir()} <= {"in", name}  # before any work


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
@pytest.mark.parametrize(("output", "kind"), list(itertools.product(OUTPUTS, INPUTS + OTHERS)))
def test_a_resumed_run_neither(
    tmp_path: Path, others: Path, networks: Networks, output: str, kind: str, overwrite: bool
) -> None:
    """What is there under the name of a snapshot stays, since a killed run has left such; all else is refused."""
    shutil.copytree(others, tmp_path, dirs_exist_ok=True)
    victim, inputs = tmp_path / OUTPUTS[output], {name: tmp_path / "in" / f"{name}.png" for name in INPUTS[:3]}
    victim.unlink()
    victim.write_bytes(inputs[kind].read_bytes() if kind in inputs else kind.encode())
    given: dict[str, Any] = {name: (victim if name == kind else place) for name, place in inputs.items()}
    given |= {"weights": victim} if kind == "weights" else {}
    before = victim.read_bytes()
    if kind in OTHERS and overwrite:
        resume(tmp_path / "out.png", overwrite=True, networks=networks, **given)
        return
    try:
        resume(tmp_path / "out.png", overwrite=overwrite, networks=networks, **given)
        assert output == "snapshot"
        assert not overwrite
    except NstFastError as error:
        assert error.exit_code == (5 if (kind, output, overwrite) == ("weights", "snapshot", False) else 4)
    assert victim.read_bytes() == before


def of_batch(cell: Cell, overwrite: bool) -> None:
    inputs, config = [cell.folder / "photo.jpg", cell.content], BATCH.replace(**cell.options)
    draw(inputs[0], 5)
    request = BatchRequest(inputs=inputs, styles=[cell.style], folder=cell.folder, config=config, overwrite=overwrite)
    run_batch(request, Watcher())


def of_sweep(cell: Cell, overwrite: bool) -> None:
    config = SweepConfig(**SETTINGS).replace(**cell.options)
    series = plan_sweep([cell.content], [cell.style], ["seed=1,2"], config)
    run_series(series, cell.folder, Watcher(), overwrite=overwrite)


def of_demo(cell: Cell, overwrite: bool) -> None:
    options = {"init": "content", **cell.options}
    config = DemoConfig(steps=1, weights="random:0").replace(image_size=64, **{"monitor_every": 0} | options)
    demonstrate(cell.folder, config, overwrite=overwrite, listeners=Listeners())


def of_export(cell: Cell, overwrite: bool) -> None:
    export_model(ExportConfig(**cell.options), cell.folder / "model.onnx", overwrite=overwrite)  # type: ignore[arg-type]


def of_bundle(cell: Cell, overwrite: bool) -> None:
    write_bundle(ExportConfig(graph="step", **cell.options), cell.folder, overwrite=overwrite)  # type: ignore[arg-type]


JOBS: list[tuple[Callable[[Cell, bool], None], tuple[str, ...], tuple[str, ...]]] = [
    (of_batch, ("photo.png", "photo.json", "manifest.jsonl"), INPUTS),
    (of_sweep, ("pictures/seed=1.png", "pictures/seed=2.json", "pictures/seed=2-000003.png"), INPUTS),
    (of_sweep, ("plan.json", "sheet.png", "table.csv", "curves.png"), INPUTS),
    (
        of_demo,
        *(
            ("content.png", "style.png", "comparison.png", "pastiche.png", "pastiche.json", "pastiche-losses.png"),
            ("init", "weights"),
        ),
    ),
    (of_export, ("model.onnx", "model.onnx.json"), ("weights",)),
    (of_bundle, ("targets.onnx", "step.onnx", "manifest.json", "run.py", "README.md"), ("weights",)),
]
CELLS = [
    pytest.param(call, name, kind, overwrite, id=f"{call.__name__}-{name}-{kind}-{overwrite}")
    for call, names, inputs in JOBS
    for name in names
    for kind in (*inputs, *OTHERS)
    for overwrite in (False, True)
    if not (overwrite and kind in OTHERS)  # that is what the flag is for
]


@pytest.mark.parametrize(("call", "name", "kind", "overwrite"), CELLS)
def test_commands_of_many_files_neither(
    tmp_path: Path, call: Callable[[Cell, bool], None], name: str, kind: str, overwrite: bool
) -> None:
    cell = Cell(tmp_path, tmp_path / name, kind)
    with pytest.raises(NstFastError) as refused:
        call(cell, overwrite)
    # A batch reads its weights before it looks at its outputs.
    assert refused.value.exit_code in ((4, 5) if (call, kind) == (of_batch, "weights") else (4,))
    cell.check_kept()


COMMANDS = {
    "plot": ("{run}", "-o", "{victim}"),
    "plot --beside": ("{run}", "-o", "{victim}", "--beside"),
    "bench --json": ("--pairs", "{content}+{style}", "--weights", "{weights}", "--json", "{victim}"),
    "bench --csv": ("--pairs", "{content}+{style}", "--weights", "{weights}", "--csv", "{victim}"),
    "bench --plot": ("--pairs", "{content}+{style}", "--weights", "{weights}", "--plot", "{victim}"),
    "bench compare --json": ("{run}", "{run}", "--json", "{victim}"),
    "bench compare --markdown": ("{run}", "{run}", "--markdown", "{victim}"),
    "evaluate --json": ("{content}", "{style}", "{run}", "--weights", "{weights}", "--json", "{victim}"),
    "evaluate --csv": ("{content}", "{style}", "{run}", "--weights", "{weights}", "--csv", "{victim}"),
}


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
@pytest.mark.parametrize("kind", ["content", "style", "weights", "run", "a stranger's"])
@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_figures_neither(
    tmp_path: Path, others: Path, command: Run, name: str, kind: str, overwrite: bool
) -> None:
    given = {name: draw(tmp_path / f"{name}.png", seed) for seed, name in enumerate(INPUTS)}
    given["run"] = Path(shutil.copy(others / "out.png", tmp_path / "run.png"))
    taken = " ".join(COMMANDS[name])
    if (overwrite and kind == "a stranger's") or (kind in given and f"{{{kind}}}" not in taken):
        return
    victim = given.setdefault(kind, tmp_path / "mine.png")
    victim.touch()
    before = victim.read_bytes()
    arguments = [part.format(**given, victim=victim) for part in COMMANDS[name]]
    words = [word for word in name.split() if not word.startswith("--")]
    code, _, error = command(*words, *arguments, *["--overwrite"] * overwrite)
    assert code == 4, error
    assert victim.read_bytes() == before


def test_the_picture_of_a_run_given_by_its_record_is_an_input_of_a_plot(
    tmp_path: Path, others: Path, command: Run
) -> None:
    for name in ("out.png", "out.json"):
        shutil.copy(others / name, tmp_path)
    before = (tmp_path / "out.png").read_bytes()
    arguments = ("plot", tmp_path / "out.json", "-o", tmp_path / "out.png", "--overwrite")
    assert command(*arguments)[0] == 4
    assert (tmp_path / "out.png").read_bytes() == before


@pytest.mark.parametrize("kind", ["content", "style", "init"])
@pytest.mark.parametrize("link", [False, True], ids=["itself", "a link to it"])
def test_a_pastiche_is_not_saved_over_its_inputs(tmp_path: Path, networks: Networks, kind: str, link: bool) -> None:
    inputs = {name: draw(tmp_path / f"{name}.png", seed) for seed, name in enumerate(INPUTS[:3])}
    before = inputs[kind].read_bytes()
    made = stylize(inputs["content"], inputs["style"], CONFIG, init=inputs["init"], networks=networks)
    target = inputs[kind]
    if link:
        target = tmp_path / "link.png"
        target.symlink_to(inputs[kind])
    with pytest.raises(OutputError, match=f"is the input .*{kind}.png"):
        made.save(target, overwrite=True)
    assert inputs[kind].read_bytes() == before


def test_another_series_in_a_folder_needs_overwrite(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("content", "style"))]
    config = SweepConfig(**SETTINGS).replace(steps=1, save_every=0)

    def sweep(vary: str, *, overwrite: bool = False) -> None:
        series = plan_sweep(paths[:1], paths[1:], [vary], config)
        run_series(series, tmp_path / "out", Watcher(), overwrite=overwrite)

    sweep("seed=1,2")
    table = (tmp_path / "out" / "table.csv").read_bytes()
    with pytest.raises(OutputError, match=r"plan\.json exists"):
        sweep("style-weight=1,2")
    assert (tmp_path / "out" / "table.csv").read_bytes() == table
    sweep("seed=1,2,3")  # the same series goes on
    sweep("style-weight=1,2", overwrite=True)


def test_the_snapshots_of_a_job_are_not_the_picture_of_another(tmp_path: Path) -> None:
    contents = [draw(tmp_path / name, 1) for name in ("a.png", "a-000001.png")]
    series = plan_sweep(contents, [draw(tmp_path / "style.png", 2)], [], SweepConfig(**SETTINGS))
    with pytest.raises(UsageError, match=r"two runs would write .*a-000001\.png"):
        run_series(series, tmp_path / "out", Watcher())


@pytest.mark.parametrize("second", ["out.jpg", "out.png", "out-losses.png"])
def test_two_runs_at_once_do_not_share_a_file(tmp_path: Path, networks: Networks, second: str) -> None:
    """Pictures of one stem share record, curve and checkpoints; a picture may be the curve of another."""
    content, style = draw(tmp_path / "content.png", 1), draw(tmp_path / "style.png", 2)
    codes: list[int] = []

    class Other(Listeners):
        def stop(self) -> bool:
            if not codes:
                with pytest.raises(BusyError, match=r"or a file of that name beside it.*process \d+") as refused:
                    stylize(content, style, CONFIG, output=tmp_path / second, networks=networks)
                codes.append(refused.value.exit_code)
            return False

    stylize(content, style, CONFIG, output=tmp_path / "out.png", listeners=Other(), networks=networks)
    assert codes == [11]
    with lock(tmp_path / "out"), pytest.raises(BusyError):
        stylize(content, style, CONFIG, output=tmp_path / "out.webp", networks=networks)


def test_a_killed_run_of_one_stem_is_named_to_the_next(tmp_path: Path, others: Path, networks: Networks) -> None:
    shutil.copytree(others, tmp_path, dirs_exist_ok=True)
    for name in ("picture", "record", "loss curve"):
        (tmp_path / OUTPUTS[name]).unlink()  # as after kill -9
    pair = tmp_path / "in" / "content.png", tmp_path / "in" / "style.png"
    with pytest.raises(OutputError, match=r"out\.png is the picture of an unfinished run.*nst-fast resume .*out\.png"):
        stylize(*pair, CONFIG, output=tmp_path / "out.jpg", networks=networks)
    assert resume(tmp_path / "out.png", networks=networks, content=pair[0], style=pair[1]).record.steps == 4


@pytest.mark.parametrize(
    "names", [("out.png", "out.jpg"), ("out.png", "out-losses.png"), ("out.png", "out-000002.png")]
)
def test_pictures_made_together_share_no_file(tmp_path: Path, names: tuple[str, str]) -> None:
    content, style = draw(tmp_path / "content.png", 1), draw(tmp_path / "style.png", 2)
    with pytest.raises(UsageError, match="all different"):
        stylize_together([content, content], style, CONFIG, outputs=[tmp_path / name for name in names])


def test_two_outputs_of_a_command_are_two_files(tmp_path: Path, command: Run) -> None:
    (tmp_path / "link").symlink_to("figures")
    arguments = ("bench", "--json", tmp_path / "figures", "--csv", tmp_path / "link")
    code, _, error = command(*arguments)
    assert (code, "two outputs have one name" in error) == (2, True)
