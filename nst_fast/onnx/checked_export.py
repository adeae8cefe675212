"""Exported models, checked against PyTorch before they are written, and kept in the cache, where they are found again.

A model and its sidecar are two files. The sidecar is written last: a crash between the two leaves a model whose sidecar
is missing or another model's, and :func:`nst_fast.onnx.export.open_model` refuses that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nst_fast.errors import OnnxModelError, OutputError, UsageError
from nst_fast.network.taps import cut
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.onnx.export import build_graph, identity_of, open_model, sidecar_of
from nst_fast.onnx.parity import ParityRow, check_parity
from nst_fast.onnx.session import check_provider
from nst_fast.onnx.tensorrt_rtx import prove
from nst_fast.options.config import ExportConfig
from nst_fast.system.files import cache_dir, check_writable, sha256_bytes, user_path, write_atomic

CACHE_FOLDER = "models"


@dataclass(frozen=True)
class CheckedModel:
    """A model that computes what PyTorch computes.

    Attributes:
        path: of its file.
        manifest: its sidecar's content, with the parity table.
        model: its bytes, for a session.
        rows: the parity rows of this export; empty for a model that was found in the cache.
    """

    path: Path
    manifest: Mapping[str, Any]
    model: bytes = field(repr=False)
    rows: Sequence[ParityRow] = ()


def export_model(
    options: ExportConfig,
    output: Path | None = None,
    *,
    providers: Sequence[str] = ("cpu",),
    capabilities: Sequence[str] = (),
    overwrite: bool = False,
) -> CheckedModel:
    """Export, check on every provider, and only then write the model and its sidecar.

    Args:
        options: what is exported.
        output: the model's file; by default in the cache, where an older export of the same identity is replaced.
        providers: the ONNX Runtime providers to check; whether they work is found out before the export.
        capabilities: of GPUs, as "8.9": TensorRT for RTX must build an engine for each (:mod:`.tensorrt_rtx`).
        overwrite: replace an output that exists.

    Raises:
        OutputError: the output exists or cannot be written.
        DeviceError: a provider does not work on this machine, or TensorRT for RTX is not installed.
        WeightsError: the weights are missing, damaged or lack a layer.
        VerificationError: the model is out of tolerance, or refused by TensorRT. Nothing was written.
    """
    if not providers:
        raise UsageError("an export must be checked on at least one provider", "Name one, as cpu")
    if output is not None:
        output = user_path(output)
        for path in (output, sidecar_of(output)):
            check_writable(path, overwrite, inputs=[Path(options.weights)])
    for provider in dict.fromkeys(providers):
        check_provider(provider)
    encoder, weights_sha256 = encoder_for(options)
    path = output or cached_path(options, weights_sha256)
    made = _checked(options, encoder, weights_sha256, providers, path)
    if capabilities:
        proof = prove(made.model, made.manifest["inputs"], capabilities)
        made = replace(made, manifest={**made.manifest, "tensorrt_rtx": proof})
    _write(made)
    return made


def find_or_export(
    options: ExportConfig,
    note: Callable[[str], None] = lambda sentence: None,
    loaded: tuple[Encoder, str] | None = None,
) -> CheckedModel:
    """The cached export of these options and weights; if there is none, or it is damaged, it is exported now.

    Where the cache cannot be written, the model is served from memory, with a note.

    Args:
        options: what is exported.
        note: receives one sentence about each thing the user should know.
        loaded: the encoder that the options describe, on any device, and the sha256 of its weights; loaded if absent.

    Raises:
        WeightsError: the weights are missing, damaged or lack a layer.
        VerificationError: the fresh export is out of tolerance.
    """
    encoder, weights_sha256 = loaded or encoder_for(options)
    path = cached_path(options, weights_sha256)
    if path.exists():
        try:
            model, manifest = open_model(path)
            return CheckedModel(path, manifest, model)
        except OnnxModelError as error:
            note(f"the cached model is refused and exported anew: {error.message}")
    else:
        note("exporting the network to ONNX, once")
    made = _checked(options, copy.deepcopy(encoder).cpu().float(), weights_sha256, ["cpu"], path)
    try:
        _write(made)
    except OutputError as error:
        note(f"the exported model cannot be kept for later runs: {error.message}")
    return made


def encoder_for(options: ExportConfig) -> tuple[Encoder, str]:
    """The encoder that the options describe, and the sha256 of its weights. Raises :class:`WeightsError`."""
    encoder, weights = make_encoder(options.weights, options.network, options.taps, **options.encoder_keywords)
    return encoder, weights.sha256


def cached_path(options: ExportConfig, weights_sha256: str) -> Path:
    """Where the cache keeps the export of these options and weights; another identity has another name."""
    key = sha256_bytes(json.dumps(identity_of(options, weights_sha256)).encode())[:16]
    deepest = cut(options.network, options.taps)[-1]
    facts = (options.network, options.graph, deepest, f"op{options.opset}", options.precision, key)
    return cache_dir(CACHE_FOLDER) / f"{'-'.join(facts)}.onnx"


def _checked(
    options: ExportConfig, encoder: Encoder, weights_sha256: str, providers: Sequence[str], path: Path
) -> CheckedModel:
    """Build the model and check its parity, in memory."""
    graph = build_graph(encoder, options, weights_sha256)
    rows = [
        row for provider in dict.fromkeys(providers) for row in check_parity(encoder, options, graph.model, provider)
    ]
    manifest = {**graph.manifest, "parity": [row.as_dict() for row in rows]}
    return CheckedModel(path, manifest, graph.model, rows)


def _write(made: CheckedModel) -> None:
    write_atomic(made.path, made.model)
    sidecar = json.dumps(made.manifest, indent=1, ensure_ascii=False)
    write_atomic(sidecar_of(made.path), (sidecar + "\n").encode())
