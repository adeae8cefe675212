"""Reading and checking weight files; no file can make this run code.

Names are torchvision's, ``features.N.weight`` and ``features.N.bias``, where N is the position of the convolution in
:func:`nst_fast.network.taps.layer_names`. A file may hold only the first blocks: it then serves only their taps.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.errors import WeightsError, nearest
from nst_fast.network.taps import CONVS_PER_BLOCK, convolutions, cut, layer_names
from nst_fast.system.files import check_local, shown

SUFFIXES = (".safetensors", ".pth", ".pt")
# Training scripts wrap: the whole network or only its features in DataParallel (`module.`), the network in another
# (`encoder.features.`), the dictionary in a checkpoint (`state_dict`).
_FEATURE_KEY = re.compile(r"(?:.*\.)?features\.(?:module\.)?(\d+\.(?:weight|bias))")
_BARE_KEY = re.compile(r"(?:module\.)?(\d+\.(?:weight|bias))")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_FETCH_AGAIN = "Fetch or save it again (torch.save(model.state_dict(), ...)), or leave `weights` out"


def read_features(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that can be VGG features, on the CPU, as they are stored and named as torchvision does.

    Raises :class:`WeightsError` for a file that is missing, damaged, of another kind, unsafe, or without VGG features.
    """
    _check_kind(path)
    stored = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_checkpoint(path)
    tensors = {key: value for key, value in stored.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for pattern in (_FEATURE_KEY, _BARE_KEY):
        found = {key: match[1] for key in tensors if (match := pattern.fullmatch(key))}
        if len(set(found.values())) < len(found):
            raise WeightsError(f"{shown(path)} holds several networks", "Save the state_dict of one VGG alone")
        if found:
            return {f"features.{name}": tensors[key] for key, name in found.items()}
    names = ", ".join(list(tensors)[:3]) or "no tensors at all"
    raise WeightsError(
        f"{shown(path)} has no VGG features (features.0.weight ...); it has {names}",
        "Give the state_dict of torchvision's vgg16 or vgg19",
    )


def servable_taps(names: Collection[str], network: str) -> list[str]:
    """The taps that can be computed from tensors of these names: everything before the first missing layer."""
    layers = layer_names(network)
    missing = [index for index, layer in enumerate(layers) if set(_tensor_names(index, layer)) - set(names)]
    return layers[: missing[0]] if missing else layers


def select(features: Mapping[str, Tensor], network: str, taps: Iterable[str], path: Path) -> dict[str, Tensor]:
    """Exactly the tensors that the network needs up to its deepest tap: checked, copied, float32.

    Raises :class:`WeightsError` for those of another network, what is not finite, or a layer that the file lacks.
    """
    check_shapes(features, network, path)
    layers = cut(network, taps)
    needed = [name for index, layer in enumerate(layers) for name in _tensor_names(index, layer)]
    missing = [name for name in needed if name not in features]
    if missing:
        raise _lacking(features, network, layers, missing, path)
    selected = {
        name: features[name].detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name in needed
    }
    _refuse(path, network, _not_finite(selected))
    return selected


def check_shapes(features: Mapping[str, Tensor], network: str, path: Path) -> None:
    """Raise :class:`WeightsError` with the first differences if tensors have shapes that the network does not have."""
    fitting = fitting_networks(features)
    _refuse(path, network, _differences(features, network), f"They fit `network` {fitting[0]}" if fitting else "")


def fitting_networks(features: Mapping[str, Tensor]) -> list[str]:
    """The networks whose layers these tensors can be; the first blocks of VGG-16 and VGG-19 have the same shapes."""
    return [network for network in CONVS_PER_BLOCK if not _differences(features, network)]


def check_whole(features: Mapping[str, Tensor], path: Path) -> None:
    """Raise :class:`WeightsError` unless all tensors are finite numbers of the shapes of one network."""
    network = next(iter(fitting_networks(features)), "vgg19")
    check_shapes(features, network, path)
    _refuse(path, network, _not_finite(features))


def what_text_is_it(head: bytes) -> str | None:
    """What the first bytes of a supposed weight file say it is when it is no such file; None when they say nothing."""
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (`git lfs pull` gets the file)"
    if start and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        return "a text file"
    return None


def _check_kind(path: Path) -> None:
    """Refuse what cannot be a weight file before any reader opens it."""
    remedy = _neighbours(path)
    try:
        if not path.exists():
            check_local(path)
            raise WeightsError(f"there is no weight file {shown(path)}", remedy)
        if not path.is_file():
            raise WeightsError(f"{shown(path)} is {'a folder' if path.is_dir() else 'no file'}, not weights", remedy)
        if path.suffix.lower() not in SUFFIXES:
            raise WeightsError(f"{shown(path)} does not end in {', '.join(SUFFIXES)}", remedy)
        with path.open("rb") as stream:
            head = stream.read(512)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise WeightsError(f"cannot read weights from {shown(path)}: {error}", remedy) from error
    if kind := what_text_is_it(head) if head else "empty":
        raise WeightsError(f"{shown(path)} is {kind}, not weights", remedy)


def _neighbours(path: Path) -> str:
    """A remedy that names weight files near a path that is none."""
    folder = path if path.is_dir() else path.parent
    try:
        files = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry != path)
    except (OSError, ValueError):
        files = []
    hint = nearest(path.name, ["auto", "original", "imagenet", "random", *files])
    if not hint and files:
        hint = f"{shown(folder)} has {', '.join(files[:3])}."
    choices = "`weights` takes auto, original, imagenet, random[:SEED] or a .safetensors, .pth or .pt file"
    return f"{hint} {choices}".strip()


def _read_safetensors(path: Path) -> Mapping[object, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{shown(path)} is not a readable safetensors file: {error}", _FETCH_AGAIN) from error


def _read_checkpoint(path: Path) -> Mapping[object, object]:
    """A .pth or .pt file through torch's restricted unpickler, which makes tensors and containers and nothing else."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_zip_bomb(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickle protocols and sparse tensors help no user
            # Files from before torch 1.6, torchvision's VGG among them, are no zip archives and cannot be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged or hostile pickle can make the unpickler fail in any way
        raise WeightsError(f"{shown(path)} is refused: {_unpickling_reason(error)}", _FETCH_AGAIN) from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{shown(path)} holds a {type(loaded).__name__}, not a state_dict", _FETCH_AGAIN)
    return dict(next((loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)), loaded))


def _unpickling_reason(error: Exception) -> str:
    """torch's messages span ten lines and advise loading unsafely; what matters is the object that was in the way."""
    if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {foreign[1]}, which is no tensor and could run code"
    if isinstance(error, pickle.UnpicklingError):
        return "it is not a checkpoint that can be read safely"
    return str(error).split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__


def _refuse_zip_bomb(path: Path) -> None:
    """PyTorch stores without compression; an archive that unpacks to more than its own size was made to fill memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:  # all that zipfile raises
        raise WeightsError(f"{shown(path)} is a damaged archive: {error}", _FETCH_AGAIN) from error
    if unpacked > path.stat().st_size:
        raise WeightsError(f"{shown(path)} unpacks to {unpacked} bytes, more than its size", _FETCH_AGAIN)


def _tensor_names(index: int, layer: str = "conv") -> list[str]:
    """The tensors of the layer at an index of ``features``; none unless it is a convolution."""
    return [f"features.{index}.{kind}" for kind in ("weight", "bias")] if layer.startswith("conv") else []


def _differences(features: Mapping[str, Tensor], network: str) -> list[str]:
    expected: dict[str, list[int]] = {}
    for index, inputs, outputs in convolutions(network).values():
        expected |= zip(_tensor_names(index), ([outputs, inputs, 3, 3], [outputs]), strict=True)
    differences = []
    for name in sorted(features, key=lambda name: int(name.split(".")[1])):
        tensor = features[name]
        if name not in expected:
            differences.append(f"{name} is no layer of {network}")
        elif list(tensor.shape) != expected[name]:
            differences.append(f"{name} is {list(tensor.shape)}, not {expected[name]}")
        elif not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            differences.append(f"{name} is not a plain tensor of real numbers but {tensor.dtype}, {tensor.layout}")
    return differences


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    faulty = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    return [f"{name} has values that are not finite" for name in faulty]


def _refuse(path: Path, network: str, differences: list[str], hint: str = "") -> None:
    if differences:
        more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        remedy = hint or f"Give torchvision's {network} weights, or leave `weights` out"
        message = f"{shown(path)} does not hold {network}'s weights: {'; '.join(differences[:3])}{more}"
        raise WeightsError(message, remedy)


def _lacking(
    features: Mapping[str, Tensor], network: str, layers: list[str], missing: list[str], path: Path
) -> WeightsError:
    """A file cut too early, or with a hole: what it lacks and which taps it can serve all the same."""
    servable = servable_taps(features, network)
    lacking = list(dict.fromkeys(layers[int(name.split(".")[1])] for name in missing))
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    message = (
        f"{shown(path)} lacks {', '.join(lacking)} of {network}, which {layers[-1]} needs "
        f"(missing: {', '.join(missing[:3])}{more})"
    )
    if not servable:
        return WeightsError(message, "It can serve no tap at all; give a whole file or leave `weights` out")
    last = next(layer for layer in reversed(servable) if layer.startswith("conv"))
    others = ", ".join(layer for layer in servable if not layer.startswith("conv"))
    return WeightsError(
        message, f"It has conv1_1 to {last}; taps it can serve: those and {others}. Or leave `weights` out"
    )
