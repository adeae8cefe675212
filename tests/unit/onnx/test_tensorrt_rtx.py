"""TensorRT for RTX parses every graph whole and builds engines of it; what it refuses is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from graph_variants import SHALLOW, VARIANTS, build, name_of, with_a_bad_operator

from nst_fast.errors import DeviceError, UsageError, VerificationError
from nst_fast.onnx.checked_export import export_model
from nst_fast.onnx.tensorrt_rtx import prove
from nst_fast.options.config import ExportConfig

CAPABILITIES = ("8.9", "12.0")


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="no TensorRT for RTX: pip install -e '.[trt-check]'")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_variant_is_taken_whole_and_built_for_two_capabilities(variant: dict[str, object]) -> None:
    _, _, graph = build(variant)
    proof = prove(graph.model, graph.manifest["inputs"], CAPABILITIES)
    assert proof["nodes"] > 0
    assert [engine["capability"] for engine in proof["engines"]] == list(CAPABILITIES)
    assert all(engine["bytes"] > 10_000 and engine["seconds"] > 0 for engine in proof["engines"])


@pytest.mark.usefixtures("rtx")
def test_an_operator_that_tensorrt_lacks_is_refused_by_its_name() -> None:
    with pytest.raises(VerificationError, match="MaxUnpool"):
        prove(with_a_bad_operator(), [], ["8.9"])


@pytest.mark.usefixtures("rtx")
def test_a_capability_that_it_does_not_build_for_is_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"9\.0"):
        prove(with_a_bad_operator(), [], ["9.0"])


@pytest.mark.usefixtures("rtx")
def test_an_export_that_is_proven_says_so_in_its_manifest(tmp_path: Path) -> None:
    made = export_model(ExportConfig(**SHALLOW), tmp_path / "m.onnx", capabilities=["8.9"])
    proof = json.loads((tmp_path / "m.onnx.json").read_bytes())["tensorrt_rtx"]
    assert proof == json.loads(json.dumps(made.manifest["tensorrt_rtx"]))
    assert proof["engines"][0]["capability"] == "8.9"


def test_without_its_package_the_remedy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(DeviceError) as caught:
        prove(b"", [], ["8.9"])
    assert "tensorrt-rtx-cu13" in str(caught.value)
