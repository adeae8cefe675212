"""Export = build, prove, publish: a model reaches its place only after its parity was proven, and whole or not at all.

A model and its sidecar are two files, so the sidecar, written last, is the seal: a crash between the two leaves a
model whose sidecar is missing or another model's, and :func:`nst_fast.onnx.export.open_model` refuses that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nst_fast.errors import OnnxModelError, OutputError, UsageError
from nst_fast.network.taps import cut
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective
from nst_fast.onnx.export import ExportModule, build_graph, identity_of, open_model, sidecar_of
from nst_fast.onnx.monitor import Monitor
from nst_fast.onnx.parity import ParityRow, check_parity
from nst_fast.onnx.session import check_provider, make_session
from nst_fast.onnx.step.export import build_step_export
from nst_fast.onnx.step.parity import check_step_parity
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.system.files import cache_dir, check_writable, sha256_bytes, write_atomic

CACHE_FOLDER = "models"

Listener = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """A proven model.

    Attributes:
        path: where it lies.
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
    overwrite: bool = False,
) -> Published:
    """Export, prove with every provider, and only then write the model and its sidecar.

    Args:
        options: what is exported.
        output: the model's file; by default the user's cache, where :func:`find_or_export` finds it and where an
            older export of the same identity is replaced.
        providers: the ONNX Runtime providers to prove; the cheap question whether they work comes first.
        overwrite: replace an output that exists.

    Raises:
        OutputError: the output exists or cannot be written.
        DeviceError: a provider does not work on this machine.
        WeightsError: the weights are missing, damaged or lack a layer.
        VerificationError: the model is out of tolerance. Nothing was written.
    """
    if not providers:
        raise UsageError("an export must be proven with at least one provider", "Name one, as --provider cpu")
    if output is not None:
        for path in (output, sidecar_of(output)):
            check_writable(path, overwrite, inputs=[Path(options.weights).expanduser()])
    for provider in dict.fromkeys(providers):
        check_provider(provider)
    encoder, weights_sha256 = encoder_for(options)
    published = _prove(options, encoder, weights_sha256, providers, output or cached_path(options, weights_sha256))
    _write(published)
    return published


def find_or_export(
    options: ExportConfig, *, loaded: tuple[Encoder, str] | None = None, note: Listener = lambda sentence: None
) -> Published:
    """The cached export of these options and weights; if there is none, or it is damaged, it is exported now.

    A cache that cannot be written costs an export per run, not the run: the model is served from memory, with a note.

    Args:
        options: what is exported.
        loaded: the encoder that the options describe, on any device, and the sha256 of its weights; loaded if absent.
        note: hears one sentence about each thing the user should know.

    Raises:
        WeightsError: the weights are missing, damaged or lack a layer.
        VerificationError: the fresh export is out of tolerance.
    """
    encoder, weights_sha256 = loaded or encoder_for(options)
    path = cached_path(options, weights_sha256)
    if path.exists():
        try:
            model, manifest = open_model(path)
            return Published(path, manifest, model)
        except OnnxModelError as error:
            note(f"the cached model is refused and exported anew: {error.message}")
    else:
        note("exporting the network to ONNX, once")
    published = _prove(options, copy.deepcopy(encoder).cpu().float(), weights_sha256, ["cpu"], path)
    try:
        _write(published)
    except OutputError as error:
        note(f"the exported model cannot be kept for later runs: {error.message}")
    return published


def open_monitor(
    encoder: Encoder, objective: Objective, config: StylizeConfig, weights_sha256: str, note: Listener
) -> Monitor:
    """A monitor of the objective, its model found or exported.

    Args:
        encoder: the loop's, made of the config.
        objective: the loop's.
        config: says the provider and whether a fallback is welcome.
        weights_sha256: of the encoder's weights.
        note: hears one sentence about each thing the user should know.

    Raises:
        DeviceError: the provider does not work here and no fallback is allowed; found before any export.
        VerificationError: the model had to be exported and is out of tolerance.
    """
    if not config.allow_fallback:
        check_provider(config.monitor_provider)
    options = ExportConfig.serving(objective.options)
    published = find_or_export(options, loaded=(encoder, weights_sha256), note=note)
    session = make_session(published.model, config.monitor_provider, allow_fallback=config.allow_fallback)
    for sentence in session.warnings:
        note(sentence)
    return Monitor(session, objective)


def encoder_for(options: ExportConfig) -> tuple[Encoder, str]:
    """The encoder that the options describe, and the sha256 of its weights. Raises :class:`WeightsError`."""
    encoder, weights = make_encoder(
        options.weights,
        options.network,
        options.taps,
        pooling=options.pooling,
        padding=options.padding,
        normalize_input=options.input_normalization == "imagenet",
    )
    return encoder, weights.sha256


def cached_path(options: ExportConfig, weights_sha256: str) -> Path:
    """Where the cache keeps the export of these options and weights; another identity has another name."""
    key = sha256_bytes(json.dumps(identity_of(options, weights_sha256)).encode())[:16]
    deepest = cut(options.network, options.taps)[-1]
    return (
        cache_dir(CACHE_FOLDER)
        / f"{options.network}-{options.graph}-{deepest}-op{options.opset}-{options.precision}-{key}.onnx"
    )


def _prove(
    options: ExportConfig, encoder: Encoder, weights_sha256: str, providers: Sequence[str], path: Path
) -> Published:
    """Build the model and check its parity, in memory."""
    checked = dict.fromkeys(providers)
    if options.has_gradient:
        graph = build_step_export(encoder, options, weights_sha256)
        rows = [row for provider in checked for row in check_step_parity(encoder, options, graph.model, provider)]
    else:
        module = ExportModule(encoder, options)
        graph = build_graph(module, options, weights_sha256)
        rows = [row for provider in checked for row in check_parity(module, graph.model, provider)]
    manifest = {**graph.manifest, "parity": [row.as_dict() for row in rows]}
    return Published(path, manifest, graph.model, rows)


def _write(published: Published) -> None:
    write_atomic(published.path, published.model)
    sidecar = json.dumps(published.manifest, indent=1, ensure_ascii=False)
    write_atomic(sidecar_of(published.path), (sidecar + "\n").encode())
