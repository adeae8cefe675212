"""The bundle: a folder that makes pictures without PyTorch, from Python, from a browser, or from any other language."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from nst_fast import __version__
from nst_fast.errors import OutputError, UsageError
from nst_fast.network.taps import channels_of, cut, halvings_of, smallest_side
from nst_fast.objective import losses
from nst_fast.objective.coefficients import coefficients
from nst_fast.onnx.checked_export import export_model
from nst_fast.onnx.graph.step import AdamConstants
from nst_fast.options.config import ExportConfig
from nst_fast.system.files import make_folder, refuse_inputs, user_path, write_atomic

SCHEMA = "nst-fast/bundle/2"
MODELS = {"targets.onnx": "objective", "step.onnx": "step"}
MANIFEST = "manifest.json"
COPIED = ("run.py", "index.html", "app.js", "README.md")


def write_bundle(
    options: ExportConfig,
    folder: Path,
    *,
    overwrite: bool = False,
    providers: tuple[str, ...] = ("cpu",),
    note: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Export the two models of a bundle, each checked, and write beside them what drives them.

    Args:
        options: of the step graph.
        folder: made if absent.
        overwrite: replace what an earlier bundle left there.
        providers: the ONNX Runtime providers to check.
        note: receives one sentence before each export.

    Raises:
        UsageError: not a step graph in fp32, or one that the bundle's programs cannot feed.
        OutputError: the folder cannot be written, or holds a bundle already.
        VerificationError: a model is out of tolerance.
    """
    if options.graph != "step" or options.precision != "fp32":
        raise UsageError(
            f"a bundle of `graph` {options.graph} `precision` {options.precision}",
            "Use `graph` step `precision` fp32",
        )
    if any(options.wraps) or options.edge_weight:
        raise UsageError("a bundle with `seamless` or `edge_weight`: its run.py knows neither", "Leave them out")
    folder = user_path(folder)
    present = [name for name in (*MODELS, MANIFEST, *COPIED) if (folder / name).exists()]
    if present and not overwrite:
        raise OutputError(f"{folder}: {present[0]} exists", "Choose another folder, or add `overwrite`")
    refuse_inputs([folder / name for name in present], [Path(options.weights)])
    make_folder(folder)
    models = {}
    for name, graph in MODELS.items():
        note(f"exporting {name}")
        made = export_model(options.replace(graph=graph), folder / name, providers=providers, overwrite=overwrite)
        models[name] = {key: made.manifest[key] for key in ("model_sha256", "model_bytes", "inputs", "outputs")}
    for name in COPIED:
        write_atomic(folder / name, package_files("nst_fast.onnx").joinpath("bundle_files", name).read_bytes())
    manifest = json.dumps(describe(options, models), indent=1)
    write_atomic(folder / MANIFEST, (manifest + "\n").encode())  # last: without it the bundle is unfinished


def describe(options: ExportConfig, models: dict[str, Any]) -> dict[str, Any]:
    """What a host needs to drive the models, and nothing that it could not compute with."""
    pools = [layer for layer in cut(options.network, options.taps) if layer.startswith("pool")]
    colors = losses.tv_colors(options.tv_weight, options.chroma_tv_weight).tolist() if options.has_tv else None
    return {
        "schema": SCHEMA,
        "nst_fast": __version__,
        "network": options.network,
        "smallest_side": max(16, smallest_side(options.taps)),
        "terms": [
            {
                "kind": term.partition("/")[0],
                "tap": (tap := term.partition("/")[2]),
                "channels": channels_of(tap),
                "halvings": halvings_of(tap),
                **dataclasses.asdict(coefficient),
            }
            for term, coefficient in coefficients(options).items()
        ],
        "tv_colors": colors,
        "pools": [{"name": pool, "halvings": halvings_of(pool) - 1} for pool in pools],
        "adam": dataclasses.asdict(AdamConstants()),
        "models": models,
    }
