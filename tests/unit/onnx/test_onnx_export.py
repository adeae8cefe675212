"""The exported graphs: their names, shapes, operators and manifest, and the refusal of what was not exported so."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from nst_fast.errors import NstFastError, OnnxModelError, VerificationError
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.onnx import export as onnx_export
from nst_fast.onnx.export import ExportedGraph, build_graph, open_model, sidecar_of
from nst_fast.options.config import ExportConfig

SMALL = {"content_taps": "relu2_1", "style_taps": "relu1_1,conv2_1", "weights": "random"}
SHA = "5" * 64


def small_encoder(**changes: object) -> tuple[Encoder, ExportConfig]:
    options = ExportConfig(**{**SMALL, **changes})
    return make_encoder("random:0", options.network, options.taps, **options.encoder_keywords)[0], options


def export(**changes: object) -> ExportedGraph:
    return build_graph(*small_encoder(**changes), SHA)


@pytest.fixture(scope="module")
def exported() -> ExportedGraph:
    return export()


@pytest.fixture
def model_path(exported: ExportedGraph, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported.model)
    sidecar_of(path).write_text(json.dumps(exported.manifest))
    return path


def test_objective_graph_has_dynamic_height_and_width(exported: ExportedGraph) -> None:
    assert exported.manifest["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": [1, 3, "height", "width"]},
    ]
    assert {output["name"]: output["shape"] for output in exported.manifest["outputs"]} == {
        "content/relu2_1": [1, 128, "height//2", "width//2"],
        "gram/relu1_1": [1, 64, 64],
        "gram/conv2_1": [1, 128, 128],
    }


def test_encoder_graph_names_its_outputs_by_tap() -> None:
    graph = export(graph="encoder", style_taps="relu1_1,relu2_1")
    assert [output["name"] for output in graph.manifest["outputs"]] == ["relu2_1", "relu1_1"]


@pytest.mark.parametrize("padding", ["replicate", "reflect"])
def test_no_operator_of_the_objective_graph_ends_on_the_cpu(padding: str) -> None:
    model = onnx.load_from_string(export(padding=padding, pooling="average").model)
    operators = {node.op_type for node in model.graph.node}
    assert {"Conv", "AveragePool", "MatMul", "Pad"} <= operators
    assert not operators & {"Shape", "Gather", "Squeeze", "Unsqueeze", "Concat", "Cast", "Constant", "Size"}


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_model_has_the_opset_asked_for(opset: int) -> None:
    graph = export(opset=opset, style_weight=0, content_taps="relu1_1")
    model = onnx.load_from_string(graph.model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert graph.manifest["opset"] == opset


def test_an_exporter_that_ignores_the_opset_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_export._export
    monkeypatch.setattr(onnx_export, "_export", lambda module, opset: honest(module, 18))
    with pytest.raises(VerificationError, match=r"opsets are .*18.* instead of 20") as caught:
        export(opset=20)
    assert caught.value.exit_code == 9


class SizeDependent(nn.Module):
    """Stands in for an encoder that computes with the picture's size."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"relu1_1": image / (image.shape[2] * image.shape[3])}


class Unexportable(nn.Module):
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"relu1_1": image if image.sum().item() > 0 else -image}


@pytest.mark.parametrize(
    ("encoder", "error", "words"),
    [
        (SizeDependent(), VerificationError, r"not every provider takes: .*onnx\.Shape"),
        (Unexportable(), NstFastError, "could not export the network"),
    ],
)
def test_a_network_that_cannot_be_exported_is_one_line(encoder: Any, error: type[NstFastError], words: str) -> None:
    options = ExportConfig(style_weight=0, content_taps="relu1_1")
    with pytest.raises(error, match=words) as caught:
        build_graph(encoder, options, SHA)
    assert "\n" not in str(caught.value)


def test_export_is_silent_and_leaves_log_levels_alone(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("torch.onnx").level
    export(style_weight=0, content_taps="relu1_1", opset=19)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == before


def test_the_same_options_give_the_same_bytes_without_names_of_source_files(exported: ExportedGraph) -> None:
    assert export().model == exported.model
    assert b".py" not in exported.model


def test_manifest_says_what_the_model_is(exported: ExportedGraph) -> None:
    manifest = exported.manifest
    assert manifest | {"graph": "objective", "network": "vgg19", "ir_version": 10, "weights_sha256": SHA} == manifest
    assert manifest | {"content_taps": ["relu2_1"], "style_taps": ["relu1_1", "conv2_1"]} == manifest
    assert manifest | {"pooling": "max", "padding": "replicate", "input_normalization": "imagenet"} == manifest
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_model_opens_as_it_was_exported(model_path: Path, exported: ExportedGraph) -> None:
    model, manifest = open_model(model_path)
    assert model == exported.model
    assert manifest == exported.manifest


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(kept: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:kept])


def beside(text: str) -> Callable[[Path], object]:
    return lambda path: sidecar_of(path).write_text(text)


def in_place_of_it(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_bit, "changed after export"),
    *((cut(kept), f"{kept} bytes, but .* were exported") for kept in (0, 1, 1000)),
    (Path.unlink, "No such file"),
    (in_place_of_it, "directory"),
    (lambda path: sidecar_of(path).unlink(), r"m\.onnx\.json is missing"),
    *(
        (beside(text), r"m\.onnx\.json")
        for text in ("", "{", "[1]", "{}", '{"schema": "nst-fast/model/999"}', "[" * 5000)
    ),
]


def refused(path: Path, match: str) -> None:
    with pytest.raises(OnnxModelError, match=match) as caught:
        open_model(path)
    assert caught.value.exit_code == 5
    assert "nst-fast export" in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_what_is_not_as_it_was_exported_is_refused(
    damage: Callable[[Path], object], words: str, model_path: Path
) -> None:
    damage(model_path)
    refused(model_path, words)


def test_edited_sidecar_is_refused(model_path: Path, exported: ExportedGraph) -> None:
    sidecar_of(model_path).write_text(json.dumps({**exported.manifest, "pooling": "average"}))
    refused(model_path, "describes another model")
