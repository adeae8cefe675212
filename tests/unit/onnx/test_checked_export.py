"""Only checked models are written, whole; the cache serves them again, and replaces what is damaged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import Run
from places import ROOT

from nst_fast.errors import DeviceError, OnnxModelError, OutputError, UsageError, VerificationError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx import checked_export
from nst_fast.onnx.checked_export import cached_path, encoder_for, export_model, find_or_export
from nst_fast.onnx.export import ExportedGraph, build_graph, identity_of, open_model, sidecar_of
from nst_fast.onnx.monitor import open_monitor
from nst_fast.onnx.session import make_session, probe_provider
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.system.files import write_atomic

SMALL = {"weights": "random", "content_taps": "relu1_2", "style_taps": "relu1_1", "chroma_tv_weight": 0.0}
OPTIONS = ExportConfig(**SMALL)
PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per export that really takes place."""
    calls: list[str] = []

    def build(encoder: Encoder, options: ExportConfig, weights_sha256: str) -> ExportedGraph:
        calls.append(options.graph)
        return build_graph(encoder, options, weights_sha256)

    monkeypatch.setattr(checked_export, "build_graph", build)
    return calls


@pytest.fixture
def broken_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that gets one weight wrong."""

    def build(encoder: Encoder, options: ExportConfig, weights_sha256: str) -> ExportedGraph:
        other = copy.deepcopy(encoder)
        with torch.no_grad():
            other.layers["conv1_1"].weight[5] *= 1.01
        return build_graph(other, options, weights_sha256)

    monkeypatch.setattr(checked_export, "build_graph", build)


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_export_writes_a_checked_model_and_its_sidecar(tmp_path: Path) -> None:
    output = tmp_path / "made" / "m.onnx"
    output.parent.mkdir()
    for path in (output, sidecar_of(output)):
        path.write_text("old")
    published = export_model(OPTIONS, output, overwrite=True)
    assert files_under(output.parent) == ["m.onnx", "m.onnx.json"]
    text = sidecar_of(output).read_text()
    assert str(tmp_path) not in text and str(ROOT) not in text
    model, manifest = open_model(output)
    assert (published.path, published.model, published.manifest) == (output, model, manifest)
    assert [row["tap"] for row in manifest["parity"]] == ["content/relu1_2", "gram/relu1_1"] * 3
    assert {row["provider"] for row in manifest["parity"]} == {"cpu"}
    assert [row.as_dict() for row in published.rows] == manifest["parity"]
    assert set(make_session(output).run(torch.zeros(1, 3, 20, 24).numpy())) == {"content/relu1_2", "gram/relu1_1"}


def test_export_out_of_tolerance_leaves_no_file_and_keeps_the_older_model(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = tmp_path / "m.onnx"
    before = export_model(OPTIONS, output).model
    request.getfixturevalue("broken_export")
    for path in (output, tmp_path / "other.onnx"):
        with pytest.raises(VerificationError) as caught:
            export_model(OPTIONS, path, overwrite=True)
        assert caught.value.exit_code == 9
    assert open_model(output)[0] == before
    assert files_under(tmp_path) == ["m.onnx", "m.onnx.json"]


def test_unavailable_provider_is_found_before_the_export(tmp_path: Path, counted: list[str]) -> None:
    if probe_provider("cuda").works:
        pytest.skip("CUDA works here")
    with pytest.raises(DeviceError) as caught:
        export_model(OPTIONS, tmp_path / "m.onnx", providers=["cpu", "cuda"])
    assert caught.value.exit_code == 6
    assert caught.value.remedy
    assert (files_under(tmp_path), counted) == ([], [])


def test_an_export_without_a_provider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one provider"):
        export_model(OPTIONS, tmp_path / "m.onnx", providers=[])


@pytest.mark.parametrize("existing", ["m.onnx", "m.onnx.json"])
def test_existing_file_is_not_replaced_unasked(tmp_path: Path, existing: str, counted: list[str]) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export_model(OPTIONS, tmp_path / "m.onnx")
    assert (tmp_path / existing).read_text() == "mine"
    assert counted == []


@pytest.mark.parametrize("older", [False, True], ids=["nothing before", "an older export before"])
def test_crash_between_model_and_sidecar_leaves_a_model_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    output = tmp_path / "m.onnx"
    if older:
        export_model(OPTIONS.replace(pooling="average", content_taps="relu2_1"), output)

    def write(path: Path, data: bytes) -> None:
        if path == sidecar_of(output):
            raise KeyboardInterrupt
        write_atomic(path, data)

    monkeypatch.setattr(checked_export, "write_atomic", write)
    with pytest.raises(KeyboardInterrupt):
        export_model(OPTIONS, output, overwrite=True)
    with pytest.raises(OnnxModelError):
        open_model(output)


def test_export_without_output_is_what_the_cache_serves(own_cache: Path, counted: list[str]) -> None:
    exported = export_model(OPTIONS)
    assert exported.path.is_relative_to(own_cache)
    notes: list[str] = []
    found = find_or_export(OPTIONS, note=notes.append)
    assert (found.path, found.model, found.manifest) == (exported.path, exported.model, exported.manifest)
    assert (counted, notes) == (["objective"], [])


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: sidecar_of(path).unlink()],
    ids=["truncated", "no sidecar"],
)
def test_damaged_cached_model_is_exported_anew_with_a_note(
    own_cache: Path, counted: list[str], damage: Callable[[Path], object]
) -> None:
    first = find_or_export(OPTIONS)
    damage(first.path)
    notes: list[str] = []
    again = find_or_export(OPTIONS, note=notes.append)
    assert open_model(again.path)[0] == again.model == first.model
    assert len(counted) == 2
    assert len(notes) == 1 and "refused and exported anew" in notes[0]


def test_cache_that_cannot_be_written_costs_a_note_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "file" / "cache"))
    notes: list[str] = []
    published = find_or_export(OPTIONS, note=notes.append)
    assert make_session(published.model).outputs == ["content/relu1_2", "gram/relu1_1"]
    assert "cannot be kept" in notes[-1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("network", "vgg16"), ("content_taps", "relu1_1"), ("graph", "encoder"), ("pooling", "average")),
        *(("padding", "reflect"), ("input_normalization", "none"), ("opset", 20)),
    ],
)
def test_cache_tells_models_apart(option: str, value: object) -> None:
    assert cached_path(OPTIONS.replace(**{option: value}), "a") != cached_path(OPTIONS, "a")


def test_cache_tells_weights_apart_and_not_their_spelling() -> None:
    spelled = OPTIONS.replace(weights="random:0", content_weight=3.0, style_normalization="mean")
    assert cached_path(OPTIONS, "a") != cached_path(OPTIONS, "b")
    assert cached_path(OPTIONS, "a") == cached_path(spelled, "a")


def monitored(**options: object) -> tuple[Encoder, Objective, StylizeConfig, str]:
    """The first arguments of open_monitor, for pictures of 16 x 16 that are their own targets."""
    config = StylizeConfig(**SMALL, **options)
    encoder, weights_sha256 = encoder_for(ExportConfig.serving(config))
    return encoder, Objective(config, build_targets(encoder, config, PICTURE, [PICTURE])), config, weights_sha256


def test_monitor_opens_with_the_cached_model_and_its_encoder_is_left_alone(own_cache: Path, counted: list[str]) -> None:
    notes: list[str] = []
    arguments = monitored()
    for _ in range(2):
        with open_monitor(*arguments, notes.append) as monitor:
            monitor.submit(0, PICTURE)
        assert monitor.readings()[0].terms["total"] == pytest.approx(0, abs=1e-6)
        assert (monitor.session.requested, monitor.session.actual) == ("cpu", "cpu")
    assert len(counted) == 1
    assert notes == ["exporting the network to ONNX, once"]


def test_a_damaged_cached_model_ends_the_monitoring_alone_and_is_exported_anew_next_time(
    own_cache: Path, counted: list[str]
) -> None:
    notes: list[str] = []
    arguments = monitored()
    with open_monitor(*arguments, notes.append) as monitor:
        pass
    (path,) = own_cache.rglob("*.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    with open_monitor(*arguments, notes.append) as monitor:
        monitor.submit(0, PICTURE)
    assert monitor.readings() == []
    assert monitor.warnings[0].startswith("monitor: stopped at step 0, ")
    assert len(counted) == 1
    with open_monitor(*arguments, notes.append) as monitor:
        monitor.submit(0, PICTURE)
    assert (len(monitor.readings()), len(counted), monitor.warnings) == (1, 2, [])


def test_monitor_on_an_unavailable_provider_falls_back_only_if_allowed(own_cache: Path, counted: list[str]) -> None:
    if probe_provider("cuda").works:
        pytest.skip("CUDA works here")
    notes: list[str] = []
    with pytest.raises(DeviceError):
        open_monitor(*monitored(monitor_provider="cuda"), notes.append)
    assert (counted, notes) == ([], [])
    with open_monitor(*monitored(monitor_provider="cuda", allow_fallback=True), notes.append) as monitor:
        assert monitor.session.actual == "cpu"
    assert any("cuda" in note for note in notes)


def test_a_model_with_total_variation_is_none_of_those_that_took_no_matrix_of_colours() -> None:
    of_colours = OPTIONS.replace(chroma_tv_weight=1.0)
    assert identity_of(of_colours.replace(graph="gradient"), "00")["tv"] not in (True, False)
    assert identity_of(of_colours, "00")["tv"] is False  # it has no losses
    assert identity_of(OPTIONS.replace(graph="gradient"), "00")["tv"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--capability", "8.9"], "without --prove"),
        (["--target", "openvino", "--provider", "cpu", "-o", "m.xml"], "--target openvino with"),
        (["--target", "openvino", "--prove", "tensorrt-rtx", "-o", "m.xml"], "--target openvino with"),
        (["--target", "openvino"], "without --output"),
        (["--graph", "step", "--bundle", "folder", "--prove", "tensorrt-rtx"], "--prove with --bundle"),
    ],
)
def test_options_without_effect_are_refused_before_any_work(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("export", *arguments)
    assert (code, words in err) == (2, True), err
    assert not any(tmp_path.iterdir())
