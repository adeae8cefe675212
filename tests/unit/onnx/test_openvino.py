"""OpenVINO takes every graph whole: as ONNX Runtime's provider, and as its own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_variants import SHALLOW, VARIANTS, build, name_of, with_a_bad_operator
from places import SUPPORT

from nst_fast.errors import DeviceError, OutputError, UsageError
from nst_fast.onnx.openvino import export_ir
from nst_fast.onnx.parity import compare
from nst_fast.onnx.session import make_session
from nst_fast.options.config import ExportConfig
from nst_fast.system.files import sha256_bytes

NEEDS = ["onnxruntime-openvino==1.24.1", "numpy"]
SIZES = [(33, 47), (96, 80)]
STEPS = 20

Arrays = dict[str, Any]


class Worker:
    """ONNX Runtime with OpenVINO, in an environment and a process of its own: it and onnxruntime-gpu share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "environment", with_pip=True)
        python = folder / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *NEEDS], check=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, SUPPORT / "openvino_worker.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(self, model: bytes, feeds: Arrays) -> Arrays:
        """The outputs; AssertionError with what was wrong."""
        path, inputs, outputs = (self.folder / name for name in (f"{sha256_bytes(model)}.onnx", "in.npz", "out.npz"))
        if not path.exists():
            path.write_bytes(model)
        np.savez(inputs, **feeds)
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\t".join(map(str, (path, inputs, outputs))) + "\n")
        self.process.stdin.flush()
        wrong = self.process.stdout.readline().strip()
        assert not wrong, wrong
        with np.load(outputs) as found:
            return dict(found)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    if "NST_FAST_BARE_VENV" not in os.environ:
        pytest.skip("downloads 90 MB: set NST_FAST_BARE_VENV=1")
    made = Worker(tmp_path_factory.mktemp("openvino"))
    yield made
    made.process.communicate(timeout=60)
    assert made.process.returncode == 0


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_variant_runs_whole_on_onnx_runtimes_provider_and_agrees(
    variant: dict[str, object], worker: Worker
) -> None:
    encoder, config, graph = build(variant)
    compare(encoder, config, lambda feeds: worker.run(graph.model, feeds), "openvino", sizes=SIZES)


def test_twenty_steps_end_where_the_cpu_provider_ends(worker: Worker) -> None:
    encoder, config, graph = build({"graph": "step"})
    session = make_session(graph.model)
    feeds: Arrays = {}

    def keep(given: Arrays) -> Arrays:
        feeds.update(given)
        return session.evaluate(given)

    compare(encoder, config, keep, "cpu", sizes=[(48, 40)])
    ends = []
    for evaluate in (session.evaluate, lambda given: worker.run(graph.model, given)):
        state = {"pastiche": feeds["pastiche"], "m": np.zeros_like(feeds["m"]), "v": np.zeros_like(feeds["v"])}
        for step in range(1, STEPS + 1):
            betas = {"correction1": 0.9, "correction2": 0.999}
            corrections = {name: np.array([1 - beta**step], np.float32) for name, beta in betas.items()}
            found = evaluate({**feeds, **state, **corrections})
            state = {name: found[f"new_{name}"] for name in state}
        ends.append((found["total"], state["pastiche"]))
    (total, picture), (other_total, other_picture) = ends
    np.testing.assert_allclose(other_total, total, rtol=1e-3)
    assert np.abs(other_picture - picture).mean() < 1 / 255
    assert np.abs(picture - feeds["pastiche"]).mean() > 5 / 255, "nothing moved"


def test_an_operator_that_the_provider_lacks_is_refused(worker: Worker) -> None:
    with pytest.raises(AssertionError, match="CPU EP"):
        worker.run(with_a_bad_operator(), {"image": np.ones((1, 3, 4, 4), np.float32)})


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
