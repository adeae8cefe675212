"""What else keeps a run's losses: each tracker gets the figures of its events, and none of them can end the run."""

from __future__ import annotations

import csv
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import Run
from jsonschema import Draft202012Validator
from places import ROOT
from tiny import TINY, flags

from nst_fast import Observer, stylize
from nst_fast.errors import UsageError
from nst_fast.run import loop
from nst_fast.run.outputs import Pastiche
from nst_fast.run.trackers import MLflow, Observers, TensorBoard, Tracker, WeightsAndBiases

EVENTS = [0, 2, 4, 5, 6]  # multiples of log_every and of the guard's steps, and the end
VALIDATOR = Draft202012Validator(json.loads((ROOT / "docs" / "progress.schema.json").read_text()))

OPTIONS = TINY | {"steps": 6, "log_every": 2}
FLAGS = flags(OPTIONS)


@pytest.fixture(autouse=True)
def no_event_for_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EVENT_SECONDS", float("inf"))


class Recorder(Observer):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def started(self, record: Any) -> None:
        self.calls.append(f"started {record.options['steps']}")

    def event(self, event: Any) -> None:
        self.calls.append(f"event {event.step}")

    def finished(self, pastiche: Pastiche) -> None:
        self.calls.append(f"finished {pastiche.record.steps}")


def test_every_observer_is_told_the_beginning_every_event_and_the_result(pair: tuple[Path, Path]) -> None:
    both = Recorder(), Recorder()
    stylize(*pair, OPTIONS, listeners=Observers(both))
    calls = ["started 6", "event 0", "event 2", "event 4", "event 5", "event 6", "finished 6"]
    assert [each.calls for each in both] == [calls, calls]


def tracked(pair: tuple[Path, Path], tracker: Tracker) -> Pastiche:
    with tracker:
        return stylize(*pair, OPTIONS, listeners=tracker)


def test_tensorboard_gets_the_terms_of_every_event_and_the_picture(pair: tuple[Path, Path], tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    made = tracked(pair, TensorBoard(tmp_path / "runs" / "one", pytest.fail))
    board = accumulator.EventAccumulator(str(tmp_path / "runs" / "one"))
    board.Reload()
    totals = board.Scalars("total")
    assert [scalar.step for scalar in totals] == EVENTS
    history = made.record.history["total"]
    assert [scalar.value for scalar in totals] == pytest.approx([history[step] for step in EVENTS])
    assert set(board.Tags()["scalars"]) == {*made.record.losses, "steps_per_second", "peak_memory_mib"}
    (image,) = board.Images("pastiche")
    assert (image.step, image.width, image.height) == (6, *made.record.size)


def test_mlflow_gets_the_terms_and_the_options(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "mlruns").as_uri()
    mlflow.set_tracking_uri(store)
    made = tracked(pair, MLflow(pytest.fail))
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs(["0"])
    assert (run.info.status, run.data.params["steps"]) == ("FINISHED", "6")
    history = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "total")]
    assert history == [(step, pytest.approx(made.record.history["total"][step])) for step in EVENTS]


def test_weights_and_biases_keeps_a_run_offline(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    tracked(pair, WeightsAndBiases(pytest.fail))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


class Service(types.ModuleType):
    """Stands in for a service's package: notes what is called with what."""

    def __init__(self) -> None:
        super().__init__("service")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, given, named))
            return self

        return call

    def steps(self, name: str) -> list[int]:
        return [named["step"] for called, _, named in self.calls if called == name]


@pytest.mark.parametrize(
    ("package", "kind", "log", "names"),
    [
        ("wandb", WeightsAndBiases, "log", ["Settings", "init", *["log"] * 5, "Image", "log", "finish"]),
        (
            "mlflow",
            MLflow,
            "log_metrics",
            ["start_run", "log_params", *["log_metrics"] * 5, "log_dict", "flush_async_logging", "end_run"],
        ),
    ],
)
def test_a_service_is_told_options_figures_and_result_in_this_order(
    package: str,
    kind: Callable[..., Tracker],
    log: str,
    names: list[str],
    pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, package, service)
    tracked(pair, kind(pytest.fail))
    assert [name for name, _, _ in service.calls] == names
    assert service.steps(log)[:5] == EVENTS
    options = next(named.get("config") or given[0] for name, given, named in service.calls if name in names[1:2])
    assert str(options["steps"]) == "6"


def test_a_tracker_that_fails_says_so_once_and_the_run_goes_on(pair: tuple[Path, Path]) -> None:
    class Broken(Tracker):
        title = "the log"

        def log(self, step: int, figures: object) -> None:
            raise OSError("no\nspace")

    said: list[str] = []
    assert tracked(pair, Broken(said.append)).record.status == "complete"
    assert said == ["the log no longer follows the run: no space"]


@pytest.mark.parametrize(
    ("flags", "module", "words"),
    [
        (
            ["--log-dir=runs"],
            "tensorboard.compat.proto.event_pb2",
            "--log-dir: TensorBoard is not installed. `pip install",
        ),
        (["--tracker=wandb"], "wandb", "--tracker wandb: Weights & Biases is not installed"),
        (["--tracker=mlflow"], "mlflow", "--tracker mlflow: MLflow is not installed"),
        (["--tracker=mlfow"], "", "--tracker 'mlfow': must be one of wandb, mlflow. Did you mean mlflow?"),
        (["--progress=jsn"], "", "--progress 'jsn': must be one of auto, json"),
    ],
)
def test_a_tracker_that_is_absent_is_refused_before_any_work(
    flags: list[str],
    module: str,
    words: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Run,
) -> None:
    monkeypatch.chdir(tmp_path)
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    code, _, messages = command("stylize", *pair, "-o", "out.png", *FLAGS, *flags)
    assert code == 2
    assert words in messages
    assert not (tmp_path / "out.png").exists()


def test_the_table_has_every_step_and_is_not_overwritten(pair: tuple[Path, Path], tmp_path: Path, command: Run) -> None:
    run = ("stylize", *pair, "-o", tmp_path / "out.png", *FLAGS, "--csv")
    assert command(*run)[0] == 0
    with (tmp_path / "out-losses.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    history = json.loads((tmp_path / "out.json").read_text())["history"]
    assert [int(row["step"]) for row in rows] == list(range(7))
    assert [float(row["total"]) for row in rows] == pytest.approx(history["total"])
    (tmp_path / "out.png").unlink()
    (tmp_path / "out.json").unlink()
    (tmp_path / "out-losses.png").unlink()
    code, _, messages = command(*run)
    assert (code, "out-losses.csv" in messages) == (4, True)


def events(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        VALIDATOR.validate(line)
    return lines


def test_progress_as_json_is_one_object_per_line_of_the_documented_schema(
    pair: tuple[Path, Path], tmp_path: Path, command: Run
) -> None:
    run = ("stylize", *pair, "-o", tmp_path / "aé.png", *FLAGS, "--progress", "json", "--verbose")
    code, out, err = command(*run)
    assert (code, out) == (0, f"{tmp_path / 'aé.png'}\n")
    assert err.isascii()
    said = events(err)
    steps = [line for line in said if line["event"] == "step"]
    assert [line["step"] for line in steps] == EVENTS
    assert set(steps[0]["terms"]) == {"content/relu1_2", "style/relu1_1", "tv", "total"}
    (end,) = [line for line in said if line["event"] == "end"]
    assert (end["status"], end["steps"], end["output"]) == ("complete", 6, str(tmp_path / "aé.png"))
    code, out, err = command(*run)
    assert (code, out) == (4, "")
    assert [(line["event"], line["code"]) for line in events(err)[-1:]] == [("error", 4)]
    quiet = command(*run, "--overwrite", "--quiet")
    assert [line["event"] for line in events(quiet[2])] == ["end"]


def test_progress_as_json_of_a_batch_names_each_picture_and_each_failure(
    photos: Path, tmp_path: Path, command: Run
) -> None:
    (photos / "bad.png").write_bytes(b"")
    run = ("batch", photos, "--style", tmp_path / "style.png", "-o", tmp_path / "painted", *FLAGS)
    code, _, err = command(*run, "--progress", "json")
    assert code == 10
    said = events(err)
    assert any("bad.png" in line.get("text", "") for line in said)
    assert said[-1]["event"] == "error"


def test_the_absence_of_a_package_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="not installed"):
        WeightsAndBiases(print)
