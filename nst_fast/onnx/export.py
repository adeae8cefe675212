"""The graphs as ONNX models, each with a manifest in a sidecar file: how they are built, and how they are opened."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import Tensor, nn

from nst_fast import __version__
from nst_fast.errors import NstFastError, OnnxModelError, VerificationError
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.onnx.graph.step import OPERATORS, AdamConstants, StepGraph, build_step_graph
from nst_fast.options.config import ExportConfig
from nst_fast.options.style import StyleTerm
from nst_fast.system.files import sha256_bytes
from nst_fast.system.machine import version_of

SCHEMA = "nst-fast/model/1"
METADATA_KEY = "nst-fast"  # the entry of the model's metadata that carries its identity
INPUT_NAME = "image"
# What ONNX Runtime's CPU and CUDA providers and TensorRT 10 all compute. Shape and its like are left out on purpose:
# they end on the CPU, which blocks CUDA graphs (onnxruntime#15005) and a session that forbids the fallback.
FORWARD_OPERATORS = frozenset(
    [
        *("AveragePool", "Concat", "Conv", "Div", "Identity", "MatMul", "MaxPool", "Mul", "Pad", "ReduceSum", "Relu"),
        *("Reshape", "Slice", "Sub"),
        "Transpose",
    ]
)
RECORDED_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
REMEDY = "Export it again with `nst-fast export`"


class ExportModule(nn.Module):
    """What the graphs ``encoder`` and ``objective`` compute: image [1, 3, H, W] to a mapping output name -> tensor.

    ``encoder`` gives the features of every tap under the tap's own name; ``objective`` what the losses need:
    ``content/TAP``, features [1, C, h, w], and ``gram/TAP``, F Fᵀ [1, C, C] as a *sum* over positions, with the sum of
    F as one more column for losses of moments. The host divides by ``h * w``, because in the graph the division would
    need Shape nodes. Losses that compare positions have ``features/TAP``, which is not divided.
    """

    def __init__(self, encoder: Encoder, options: ExportConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.taps = options.taps if options.graph == "encoder" else []
        self.content = {f"content/{tap}": tap for tap in options.content_tap_weights if not self.taps}
        self.style = {style_output(term): term for term in options.style_terms.values() if not self.taps}
        self.output_names = [*self.taps, *self.content, *self.style]
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.encoder(image)
        found = {tap: features[tap] for tap in self.taps}
        found |= {name: features[tap] for name, tap in self.content.items()}
        return found | {name: style_sum(term, features[term.tap]) for name, term in self.style.items()}


def style_output(term: StyleTerm) -> str:
    """The output of the graph ``objective`` that a term is computed from."""
    return f"{'gram' if term.additive else 'features'}/{term.tap}"


def style_sum(term: StyleTerm, features: Tensor) -> Tensor:
    """What that output is of features [1, C, h, w]."""
    if not term.additive:
        return features
    gram = losses.gram_sum(features)
    return gram if term.statistic == "gram" else torch.cat([gram, features.flatten(2).sum(2, keepdim=True)], 2)


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX model in memory and its manifest; :mod:`nst_fast.onnx.checked_export` checks and writes both."""

    model: bytes
    manifest: dict[str, Any]


def build_graph(encoder: Encoder, options: ExportConfig, weights_sha256: str) -> ExportedGraph:
    """The graph that the options name as an ONNX model of one file, for pictures of any size.

    Args:
        encoder: made of the options; on the CPU, in float32.
        options: what is exported.
        weights_sha256: of the encoder's weights.

    Raises:
        VerificationError: the model has another opset than asked for, or is not what every provider takes.
        NstFastError: PyTorch's exporter failed.
    """
    if options.has_gradient:
        adam = AdamConstants() if options.graph == "step" else None
        model = build_step_graph(StepGraph(encoder, options, options.precision, adam), options.opset)
        operators = OPERATORS
    else:
        model, operators = _export(ExportModule(encoder, options), options.opset), FORWARD_OPERATORS
    manifest = identity_of(options, weights_sha256)
    _strip(model)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(manifest))
    _check(model, options.opset, operators)
    data: bytes = model.SerializeToString(deterministic=True)
    versions = {name: version for name in RECORDED_PACKAGES if (version := version_of(name))}
    manifest |= {"model_sha256": sha256_bytes(data), "model_bytes": len(data), "ir_version": model.ir_version}
    manifest |= {"inputs": _shapes(model.graph.input), "outputs": _shapes(model.graph.output)}
    manifest |= {"operators": sorted({node.op_type for node in model.graph.node})}
    return ExportedGraph(data, manifest | {"versions": {"nst-fast": __version__, **versions}, "parity": []})


def identity_of(options: ExportConfig, weights_sha256: str) -> dict[str, Any]:
    """What a model is, not how and when it was made: exports that agree in it compute the same.

    The manifest begins with it, the model's metadata holds it too, and its hash names the model in the cache.
    """
    return {
        "schema": SCHEMA,
        "graph": options.graph,
        "network": options.network,
        "content_taps": list(options.content_tap_weights),
        "style_taps": [_measured(options, term) for term in options.style_terms.values()],
        "pooling": options.pooling,
        "padding": options.padding,
        **({"seamless": options.seamless} if any(options.wraps) else {}),
        "input_normalization": options.input_normalization,
        "opset": options.opset,
        "precision": options.precision,
        # Which kind, not whether: the models that took no matrix of colours say True.
        "tv": "colors" if options.has_gradient and options.has_tv else False,
        **({"edges": True} if options.has_gradient and options.edge_weight else {}),
        "adam": asdict(AdamConstants()) if options.graph == "step" else None,
        "weights_sha256": weights_sha256,
    }


def _measured(options: ExportConfig, term: StyleTerm) -> str:
    """What of a term of style decides the model: its tap, and if it is no Gram its loss, or its statistic."""
    what = term.loss if options.has_gradient else term.statistic
    return term.tap if what == "gram" else f"{term.tap}:{what}"


def sidecar_of(model_path: Path) -> Path:
    """Where a model's manifest lies: ``m.onnx.json`` beside ``m.onnx``."""
    return model_path.with_name(model_path.name + ".json")


def open_model(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the manifest of an exported model, after a check that it is the model that was exported.

    Give the bytes, not the path, to a session: the file could change in between.

    Raises:
        OnnxModelError: the model is missing, damaged, unfinished, was changed after export, or is not ours.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OnnxModelError(f"{path}: {error.strerror}", REMEDY) from None
    manifest = _load_manifest(path)
    expected_bytes, expected = manifest.get("model_bytes"), manifest.get("model_sha256")
    if len(data) != expected_bytes:
        raise OnnxModelError(f"{path}: {len(data)} bytes, but {expected_bytes} were exported", REMEDY)
    actual = sha256_bytes(data)
    if actual != expected:
        raise OnnxModelError(f"{path}: changed after export, its sha256 is {actual} and not {expected}", REMEDY)
    _check_content(data, manifest, path)
    return data, manifest


def _load_manifest(model_path: Path) -> dict[str, Any]:
    sidecar = sidecar_of(model_path)
    try:
        manifest = json.loads(sidecar.read_bytes())
    except FileNotFoundError:
        raise OnnxModelError(
            f"{model_path}: {sidecar.name} is missing, so it is no finished export of nst-fast", REMEDY
        ) from None
    except OSError as error:
        raise OnnxModelError(f"{sidecar}: {error.strerror}", REMEDY) from None
    except (ValueError, RecursionError) as error:
        raise OnnxModelError(f"{sidecar}: damaged, {error}", REMEDY) from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise OnnxModelError(f"{sidecar}: not a manifest of this version ({schema!r}, expected {SCHEMA!r})", REMEDY)
    return dict(manifest)


def _check_content(data: bytes, manifest: dict[str, Any], path: Path) -> None:
    """Check that nst-fast could have made the model; whoever changes a model can change the hash in its sidecar too."""
    try:
        model = onnx.load_from_string(data)
        embedded = {entry.key: entry.value for entry in model.metadata_props}
        identity = json.loads(embedded.get(METADATA_KEY, "{}"))
    except (DecodeError, ValueError, RecursionError) as error:
        raise OnnxModelError(f"{path}: damaged, {error}", REMEDY) from None
    if not isinstance(identity, dict) or not identity or not identity.items() <= manifest.items():
        raise OnnxModelError(f"{path}: its manifest describes another model", REMEDY)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise OnnxModelError(f"{path}: takes numbers from other files, which no export of nst-fast does", REMEDY)
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if model.functions or foreign:
        raise OnnxModelError(f"{path}: has operators of its own, which no export of nst-fast has", REMEDY)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph holds, also in the attributes of its nodes and in the graphs inside them."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner) if inner.node or inner.initializer else ()


def _export(module: ExportModule, opset: int) -> Any:
    """Run PyTorch's exporter; the onnx.ModelProto that it gives."""
    # Not square, and large enough that no tap is a single cell: the exporter takes extents of 1 for constants.
    example = torch.zeros(1, 3, 64, 96)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=module.output_names,
                dynamic_shapes={"image": {2: "height", 3: "width"}},
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise NstFastError(f"PyTorch {torch.__version__} could not export the network: {reason}") from error
    assert program is not None  # for the type checker: None belongs to the TorchScript exporter
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and log lines off the terminal; what they warn of is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = {logger: logger.level for logger in loggers}
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _strip(model: Any) -> None:
    """Remove the exporter's notes, which name source files of the machine that exports."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name, model.producer_version = "nst-fast", __version__


def _check(model: Any, opset: int, operators: frozenset[str]) -> None:
    """Raise :class:`VerificationError` unless every provider takes the model."""
    # A version conversion that fails leaves the exporter's own opset, with a log line only.
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    nodes = [node for node in model.graph.node if node.domain or node.op_type not in operators]
    foreign = sorted({f"{node.domain or 'onnx'}.{node.op_type}" for node in nodes})
    problems = []
    if opsets != {"": opset}:
        problems.append(f"its opsets are {opsets} instead of {opset}")
    if foreign or model.functions:
        problems.append(f"it has operators that not every provider takes: {', '.join(foreign) or 'functions'}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        problems.append("its weights lie in another file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problems.append(f"the ONNX checker refuses it: {error}")
    if problems:
        raise VerificationError(f"the exported model is unusable: {'; '.join(problems)}")


def _shapes(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Name, element type and shape of graph inputs or outputs; dynamic extents are formulas, as ``height//2``."""
    return [
        {
            "name": value.name,
            "dtype": onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            "shape": [dim.dim_param.strip("()") or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        }
        for value in values
    ]
