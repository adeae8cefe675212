"""OpenVINO takes every graph whole: as ONNX Runtime's plugin, and as its own files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_variants import SHALLOW, VARIANTS, build, name_of, with_a_bad_operator

from nst_fast.errors import DeviceError, OnnxModelError, OutputError, UsageError
from nst_fast.onnx.openvino import export_ir
from nst_fast.onnx.parity import check_parity, compare
from nst_fast.onnx.session import Binding, make_session, probe_provider
from nst_fast.options.config import ExportConfig

STEPS = 20


@pytest.fixture(scope="module")
def plugin() -> str:
    status = probe_provider("openvino")
    if not status.works:
        pytest.skip(f"provider openvino is {status.state}: {status.detail}")
    return "openvino"


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_variant_runs_whole_on_the_plugin_and_agrees(variant: dict[str, object], plugin: str) -> None:
    """In bf16, which it takes where a processor has it unless told otherwise, the losses would be 1e-3 off."""
    encoder, config, graph = build(variant)
    rows = check_parity(encoder, config, graph.model, plugin, sizes=[(33, 47), (96, 80)])
    assert {row.provider for row in rows} == {plugin}
    losses = [row.rms_relative_err for row in rows if row.tap in ("losses", "total") or config.graph == "objective"]
    assert max(losses, default=0.0) < 2e-5 or config.precision == "fp16"


def test_twenty_steps_end_where_the_cpu_provider_ends(plugin: str) -> None:
    encoder, config, graph = build({"graph": "step"})
    feeds: dict[str, Any] = {}

    def keep(given: dict[str, Any]) -> dict[str, Any]:
        feeds.update(given)
        return make_session(graph.model).evaluate(given)

    compare(encoder, config, keep, "cpu", sizes=[(48, 40)])
    ends = []
    for provider in ("cpu", plugin):
        session = make_session(graph.model, provider)
        state = {"pastiche": feeds["pastiche"], "m": np.zeros_like(feeds["m"]), "v": np.zeros_like(feeds["v"])}
        for step in range(1, STEPS + 1):
            betas = {"correction1": 0.9, "correction2": 0.999}
            corrections = {name: np.array([1 - beta**step], np.float32) for name, beta in betas.items()}
            found = session.evaluate({**feeds, **state, **corrections})
            state = {name: found[f"new_{name}"] for name in state}
        ends.append((found["total"], state["pastiche"]))
    (total, picture), (other_total, other_picture) = ends
    np.testing.assert_allclose(other_total, total, rtol=1e-3)
    assert np.abs(other_picture - picture).mean() < 1 / 255
    assert np.abs(picture - feeds["pastiche"]).mean() > 5 / 255, "nothing moved"


def test_an_operator_that_the_plugin_lacks_is_refused(plugin: str) -> None:
    with pytest.raises(DeviceError, match="1 MaxUnpool on cpu"):
        make_session(with_a_bad_operator(), plugin)


def test_the_plugin_sees_a_picture_that_changes_in_place(plugin: str) -> None:
    model = build({"graph": "objective"})[2].model
    picture = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    session = make_session(model, plugin)
    binding = Binding(session, shared=True)
    binding.bind_input(session.inputs[0], picture)
    for output in session.outputs:
        binding.bind_output(output)
    for _ in range(2):
        binding.run()
        for output, found in make_session(model).run(picture.numpy()).items():
            np.testing.assert_allclose(binding.outputs()[output], found, rtol=1e-3, atol=1e-4)
        picture.mul_(0.5)


def test_options_of_the_plugin_reach_it(plugin: str) -> None:
    with pytest.raises((DeviceError, OnnxModelError), match="NONSENSE"):
        make_session(
            build({"graph": "objective"})[2].model,
            f'plugin:{plugin}:device=cpu,load_config={{"CPU": {{"NONSENSE": 1}}}}',
        )


@pytest.mark.parametrize("variant", [*VARIANTS[:3], {"graph": "step"}], ids=name_of)
def test_openvinos_own_files_are_written_and_run(variant: dict[str, object], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="no OpenVINO: pip install -e '.[openvino]'")
    made = export_ir(ExportConfig(**{**SHALLOW, **variant}), tmp_path / "m.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin", "m.xml.json"}
    manifest = json.loads((tmp_path / "m.xml.json").read_bytes())
    assert {row["provider"] for row in manifest["parity"]} == {"openvino"}
    assert made.model == (tmp_path / "m.xml").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        export_ir(ExportConfig(**{**SHALLOW, **variant}), tmp_path / "m.xml")


def test_openvinos_files_have_openvinos_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.xml"):
        export_ir(ExportConfig(**SHALLOW), tmp_path / "m.onnx")


def test_without_openvino_the_remedy_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match="pip install openvino"):
        export_ir(ExportConfig(**SHALLOW), tmp_path / "m.xml")
    assert not any(tmp_path.iterdir())
