"""``nst-fast weights``: what can be loaded, from where, whether it is whole, and how to bring it in by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nst_fast.cli.commands import Command, Group
from nst_fast.cli.completion import words
from nst_fast.cli.console import Messages, emit_result
from nst_fast.cli.options import expanding
from nst_fast.errors import UsageError, VerificationError
from nst_fast.network.taps import CONVS_PER_BLOCK, check_network
from nst_fast.options.config import StylizeConfig
from nst_fast.system.files import shown

if TYPE_CHECKING:
    from nst_fast.network.weights.cache import WeightFile

SCHEMA = "nst-fast/weights/1"

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Sha256 = Annotated[str | None, typer.Option("--sha256", help="The hash that the file's supplier states.")]

app = typer.Typer(
    cls=Group, help="List, fetch, verify or import the network's weights.", no_args_is_help=True, add_completion=False
)


@app.command("list", cls=Command)
def list_weights(as_json: Json = False) -> None:
    """List what can be loaded, and what of it is on this machine; a file that is damaged is marked."""
    from nst_fast.network.vgg import IMAGENET_MEAN, IMAGENET_STD
    from nst_fast.network.weights import AUTO, cache, hub, original

    held = cache.holdings()
    damaged = [shown(file.path) for file in held if file.state != "intact"]

    def marked(files: Sequence[str]) -> str:
        return ", ".join(f"{file} (damaged)" if file in damaged else file for file in files)

    ours = {
        "network": original.NETWORK,
        "package": f"{original.PACKAGE} {original.VERSION}",
        "sha256": original.SHA256,
        "files": [shown(file.path) for file in held if file.source == "original"],
        "attribution": original.ATTRIBUTION,
    }
    networks = [describe(hub.hub_file(network), network, held) for network in CONVS_PER_BLOCK]
    imported = [as_dict(file) for file in held if not file.source]
    found = {
        "auto": AUTO,
        "original": ours,
        "networks": networks,
        "imported": imported,
        "damaged": damaged,
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    }
    where = marked(ours["files"]) or f"not on this machine: `{original.INSTALL}`"
    lines = [f"{ours['network']}  original  {ours['package']}  sha256 {original.SHA256[:8]}...  {where}"]
    for facts in networks:
        where = marked(facts["files"]) or f"not on this machine: `nst-fast weights fetch {facts['network']}`"
        lines.append(f"{facts['network']}  imagenet  {facts['hub_file']}  sha256 {facts['sha256_prefix']}...  {where}")
    lines += [
        "any    random    seeded numbers: --weights random[:SEED]",
        *(f"imported  {marked([file['path']])}" for file in imported),
        f"auto  {', '.join(f'{source} for {network}' for network, source in AUTO.items())}",
        f"normalisation  pictures in [0, 1], RGB, mean {IMAGENET_MEAN}, std {IMAGENET_STD}",
        f"attribution  {original.ATTRIBUTION}",
    ]
    emit_result({"schema": SCHEMA, "status": "complete", **found}, *lines, as_json=as_json)


def describe(file: Any, network: str, held: Sequence[WeightFile]) -> dict[str, Any]:
    """What torchvision publishes for a network, and the files of it that are here."""
    return {
        "network": network,
        "hub_file": file.name,
        "sha256_prefix": file.hash_prefix,
        "addresses": file.addresses,
        "files": [shown(one.path) for one in held if (one.network, one.source) == (network, "imagenet")],
    }


def as_dict(held: WeightFile) -> dict[str, str]:
    facts = {"network": held.network, "source": held.source, "path": shown(held.path)}
    return {**facts, "state": held.state, "sha256": held.sha256}


@app.command(cls=Command)
def fetch(
    network: Annotated[
        list[str] | None,
        typer.Argument(help="vgg19 or vgg16. (default vgg19)", autocompletion=words(*CONVS_PER_BLOCK)),
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option("--mirror", help="A folder to fetch from, http, https or file; may be given again."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fetch torchvision's ImageNet weights now, so that no run has to.

    Example: nst-fast weights fetch vgg19 vgg16

    A fetch that was cut is continued by the next one. NST_FAST_WEIGHTS_URL names mirrors for every command, separated
    by spaces; NST_FAST_OFFLINE=1 forbids the network.
    """
    messages = Messages(quiet=quiet)
    from nst_fast.network.weights import cache

    wanted = network or [StylizeConfig().network]
    for name in wanted:
        check_network(name)
    files = []
    for name in wanted:
        messages.say(f"looking for {name}")
        _, digest, read = cache.pretrained_features(name, tuple(mirror or ()))
        copy = cache.copy_of(name)
        files.append(cache.WeightFile(name, copy if copy.exists() else read, "intact", digest, digest, "imagenet"))
    conclude(files, as_json=as_json)


@app.command(cls=Command)
@expanding
def verify(
    file: Annotated[list[Path] | None, typer.Argument(help="Weight files. (default all on this machine)")] = None,
    sha256: Sha256 = None,
    as_json: Json = False,
) -> None:
    """Hash weight files and compare them with what they should be; exit code 9 if one differs. Changes nothing."""
    expected = checked_hash(sha256)
    if expected and len(file or ()) != 1:
        raise UsageError("--sha256 belongs to one file", "Name that file")
    from nst_fast.network.weights import cache

    held = [cache.examine(path, expected) for path in file] if file else cache.holdings()
    wrong = [one for one in held if one.state != "intact"]
    if not (wrong and as_json):  # the error is the one JSON object then
        conclude(held, as_json=as_json)
    if wrong:
        raise VerificationError("; ".join(map(complaint, wrong)), remedy_for(wrong))


def complaint(held: WeightFile) -> str:
    if held.state == "unknown":
        return f"{shown(held.path)}: nothing to compare its sha256 {held.sha256} with"
    return f"{shown(held.path)} has the sha256 {held.sha256 or '(unreadable)'}, not {held.expected or 'one on record'}"


def remedy_for(wrong: Sequence[WeightFile]) -> str:
    if all(one.state == "unknown" for one in wrong):
        return "Give the hash that its supplier states with --sha256"
    from nst_fast.network.weights.original import REINSTALL

    networks = sorted({one.network for one in wrong if one.source == "imagenet"})
    remedies = [f"`nst-fast weights fetch {' '.join(networks)}`"] if networks else []
    remedies += [f"`{REINSTALL}`"] if any(one.source == "original" for one in wrong) else []
    return f"Run {' and '.join(remedies)}" if remedies else "Fetch it again from its source"


@app.command("import", cls=Command)
@expanding
def import_weights(
    file: Annotated[Path, typer.Argument(help="A .pth, .pt or .safetensors file.")],
    sha256: Sha256 = None,
    as_json: Json = False,
) -> None:
    """Take a weight file that came by another way into the cache.

    Example: nst-fast weights import vgg19-dcbb9e9d.pth

    torchvision's own files are known by their hash, and become what `--weights imagenet` loads. Any other file needs
    the hash that its supplier states; it is kept as a plain tensor file whose path is printed, for --weights PATH.
    """
    expected = checked_hash(sha256)
    from nst_fast.network.weights import cache

    conclude([cache.import_file(file, expected)], as_json=as_json)


def checked_hash(given: str | None) -> str | None:
    if given is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", given):
        raise UsageError(f"--sha256 {given!r} is no SHA-256", "It has 64 hexadecimal digits")
    return given.lower() if given else None


def conclude(held: Sequence[WeightFile], *, as_json: bool) -> None:
    """The files on stdout: their paths, and what is known of them."""
    facts = {"schema": SCHEMA, "status": "complete", "files": [as_dict(one) for one in held]}
    lines = [f"{one.state}  {one.sha256[:16]}  {shown(one.path)}" for one in held]
    none = "no weights on this machine: `nst-fast weights fetch` gets them"
    emit_result(facts, *lines or [none], as_json=as_json)
