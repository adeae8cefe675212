"""The graphs as OpenVINO's intermediate representation, proven against PyTorch by OpenVINO's own runtime on the CPU.

Models are read and saved by OpenVINO's Core. Its ``convert_model`` is not used: it reports its use to Intel.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nst_fast.errors import DeviceError, UsageError
from nst_fast.onnx.checked_export import CheckedModel, encoder_for
from nst_fast.onnx.export import build_graph, sidecar_of
from nst_fast.onnx.parity import Array, compare
from nst_fast.options.config import ExportConfig
from nst_fast.system.files import check_writable, sha256_bytes, user_path, write_atomic

# fp32 means fp32: on a processor with narrow types OpenVINO would compute in bfloat16.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


def export_ir(options: ExportConfig, output: Path, *, overwrite: bool = False) -> CheckedModel:
    """Write a graph as ``NAME.xml``, its weights as ``NAME.bin``, its manifest as ``NAME.xml.json``.

    The files are read back and run before they get their names.

    Args:
        options: what is exported.
        output: ``NAME.xml``.
        overwrite: replace what exists.

    Raises:
        UsageError: the output's name does not end in .xml.
        DeviceError: OpenVINO is not installed.
        OutputError: an output exists or cannot be written.
        WeightsError: the weights are missing, damaged or lack a layer.
        VerificationError: the model is out of tolerance. Nothing was written.
    """
    output = user_path(output)
    if output.suffix != ".xml":
        raise UsageError(f"{output}: OpenVINO's models are called .xml", f"Use {output.with_suffix('.xml').name}")
    weights_path, sidecar = output.with_suffix(".bin"), sidecar_of(output)
    for path in (output, weights_path, sidecar):
        check_writable(path, overwrite, inputs=[Path(options.weights)])
    openvino = _library()
    encoder, weights_sha256 = encoder_for(options)
    graph = build_graph(encoder, options, weights_sha256)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.xml"
        core = openvino.Core()
        openvino.save_model(core.read_model(io.BytesIO(graph.model)), saved, compress_to_fp16=False)
        rows = compare(encoder, options, _evaluator(core, saved), "openvino")
        model, weights = saved.read_bytes(), saved.with_suffix(".bin").read_bytes()
    files = {"model_sha256": sha256_bytes(model), "model_bytes": len(model), "bin_sha256": sha256_bytes(weights)}
    manifest = {**graph.manifest, **files, "openvino": openvino.__version__, "parity": [row.as_dict() for row in rows]}
    write_atomic(weights_path, weights)
    write_atomic(output, model)
    write_atomic(sidecar, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return CheckedModel(output, manifest, model, rows)


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(f"OpenVINO cannot be imported: {error}", "pip install openvino") from error
    return openvino


def _evaluator(core: Any, saved: Path) -> Any:
    compiled = core.compile_model(core.read_model(saved), "CPU", EXACT)

    def evaluate(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {output.any_name: array for output, array in compiled(feeds).items()}

    return evaluate
