"""``nst-fast export``: the encoder or the objective as an ONNX file that has been proven against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nst_fast.cli.completion import words
from nst_fast.cli.console import Messages, emit_result
from nst_fast.cli.options import Json, Quiet, overwrites, takes
from nst_fast.errors import UsageError
from nst_fast.options.config import ExportConfig
from nst_fast.options.providers import PROVIDERS

if TYPE_CHECKING:
    from nst_fast.onnx.checked_export import CheckedModel

SCHEMA = "nst-fast/export/1"
CAPABILITIES = ("8.9", "12.0")  # what --prove builds for: Ada and Blackwell


Target = Literal["onnx", "openvino"]
Prover = Literal["tensorrt-rtx"]


@takes(ExportConfig, recipes=True)
def export(
    config: ExportConfig,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; by default an .onnx goes to the user's cache."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            help="Prove parity on this ONNX Runtime provider; may be given again. [cpu]",
            autocompletion=words(*PROVIDERS),
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="With --graph step: write a folder that makes pictures without PyTorch."),
    ] = None,
    target: Annotated[
        Target, typer.Option("--target", help="openvino: write OpenVINO's NAME.xml and NAME.bin, run by it.")
    ] = "onnx",
    prove: Annotated[
        Prover | None,
        typer.Option("--prove", help="Parse the graph and build engines by TensorRT for RTX; needs no GPU."),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", help="With --prove: of the GPU to build for; may be given again. [8.9, 12.0]"),
    ] = None,
    overwrite: Annotated[bool, overwrites("what exists")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export to ONNX, check the file, and prove that ONNX Runtime computes what PyTorch computes.

    Example: nst-fast export --network vgg16 --weights imagenet

    Without -o the file goes where `nst-fast stylize` finds it for its monitor. If any tap differs beyond the tolerance
    on any provider, or TensorRT refuses the graph, no file is written and the exit code is 9.
    """
    messages = Messages(quiet=quiet)
    check_combination(output, bundle, target, provider, prove, capability)
    providers = tuple(provider or ["cpu"])
    facts: dict[str, Any] = {"schema": SCHEMA, "status": "complete", "output": str(bundle)}
    if bundle is not None:
        from nst_fast.onnx.bundle import write_bundle

        write_bundle(config, bundle, overwrite=overwrite, providers=providers, note=messages.say)
    else:
        messages.say("exporting")
        capabilities = (capability or CAPABILITIES) if prove else ()
        published = publish(config, output, target, providers, capabilities, overwrite=overwrite)
        facts |= {"output": str(published.path), "manifest": published.manifest}
        if not as_json:
            show_parity(published, messages)
    emit_result(facts, facts["output"], as_json=as_json)


def publish(
    config: ExportConfig,
    output: Path | None,
    target: Target,
    providers: Sequence[str],
    capabilities: Sequence[str],
    *,
    overwrite: bool,
) -> CheckedModel:
    """Write the file or files of a format."""
    if target == "openvino" and output is not None:
        from nst_fast.onnx.openvino import export_ir

        return export_ir(config, output, overwrite=overwrite)
    from nst_fast.onnx.checked_export import export_model

    return export_model(config, output, providers=providers, capabilities=capabilities, overwrite=overwrite)


def check_combination(
    output: Path | None,
    bundle: Path | None,
    target: Target,
    provider: list[str] | None,
    prove: Prover | None,
    capability: list[str] | None,
) -> None:
    """Refuse options that the others leave without effect."""
    itself = "OpenVINO itself runs what is written"
    is_ir = target == "openvino"
    for refused, message, remedy in (
        (bundle and output, "both --output and --bundle", "Give one of them"),
        (capability and not prove, "--capability without --prove", "Add --prove tensorrt-rtx"),
        (is_ir and not output, "--target openvino without --output", "Name the .xml file to write"),
        (is_ir and (bundle or provider or prove), "--target openvino with --bundle, --provider or --prove", itself),
        (bundle and prove, "--prove with --bundle", "Prove an export of the same options without --bundle"),
    ):
        if refused:
            raise UsageError(message, remedy)


def show_parity(published: CheckedModel, messages: Messages) -> None:
    """The parity table on stderr: one row per provider, size and tap."""
    from rich.table import Table

    table = Table("provider", "size", "tap", "max abs error", "relative error", title="PyTorch against the export")
    for row in published.rows:
        size = f"{row.size[1]}x{row.size[0]}"
        table.add_row(row.provider, size, row.tap, f"{row.max_abs_err:.2e}", f"{row.relative_err:.2e}")
    if not messages.quiet:
        messages.console.print(table)
    if proof := published.manifest.get("tensorrt_rtx"):
        for engine in proof["engines"]:
            messages.say(
                f"TensorRT for RTX {proof['version']}: {proof['nodes']} nodes in one subgraph; engine for compute "
                f"capability {engine['capability']}: {engine['bytes'] / 2**20:.1f} MiB in {engine['seconds']} s"
            )
