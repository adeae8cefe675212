"""Damaged files through every reader: ``python bench/reliability/fuzz.py``. See README.md beside this.

The only outcomes allowed are success and an error of ours in one line. Each input follows from the seed, the target and
its number alone, so that ``--target png --only 1234`` repeats one. A watched child reads; one that hangs is ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import differential
import mutations as m
import oddities
import torch

from nst_fast.benchmark.report import to_json
from nst_fast.benchmark.scripts import conditions, say
from nst_fast.cli.info import describe
from nst_fast.errors import NstFastError
from nst_fast.images import load_image, read_text, save_image
from nst_fast.images.film import open_film, write_film
from nst_fast.network.weights import available_taps, load_weights
from nst_fast.onnx.export import SCHEMA as MODEL_SCHEMA
from nst_fast.onnx.export import open_model, sidecar_of
from nst_fast.onnx.session import make_session
from nst_fast.options.config import StylizeConfig
from nst_fast.run.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from nst_fast.run.provenance import recorded_options
from nst_fast.run.record import read_record
from nst_fast.system.files import sha256_bytes
from nst_fast.system.machine import peak_memory_mib, reset_peak_memory

LIMIT_SECONDS = 10.0  # for one input
LIMIT_MIB = 256.0  # above what the process held before it
KEPT_FAILURES = 20


@dataclass(frozen=True)
class Target:
    """A reader, what it is fed, and how many inputs a whole campaign gives it."""

    suffix: str
    share: int
    make: Callable[[Random], bytes]
    readers: tuple[Callable[[Path], object], ...]
    prepare: Callable[[Path], object] = lambda path: None


@dataclass
class Tally:
    """The results of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    peak_mib: float = 0.0


def picture_target(kind: str, share: int) -> Target:
    deep = {"PNG": m.png_below_the_checksums, "TIFF": m.tiff_tags}.get(kind, m.damaged)

    def make(chance: Random) -> bytes:
        sound = m.picture(kind, chance.randrange(4))
        return chance.choice((m.damaged, deep))(sound, chance)

    return Target(f".{kind.lower()}", share, make, (load_small, load_whole, read_text))


def odd_target(suffix: str, share: int, make: Callable[[Random], bytes], deep: m.Mutator) -> Target:
    """Pictures that are sound, or nearly, and half of them damaged."""

    def maybe_damaged(chance: Random) -> bytes:
        data = make(chance)
        return chance.choice((m.damaged, deep))(data, chance) if chance.random() < 0.5 else data

    return Target(suffix, share, maybe_damaged, (load_small, load_whole, read_text))


def film_target(suffix: str) -> Target:
    return Target(suffix, 1000, lambda chance: m.damaged(m.film(suffix), chance), (read_film, copy_film))


def read_film(path: Path) -> None:
    with open_film(path, max_megapixels=5) as film:
        for _ in film.frames():
            pass


def copy_film(path: Path) -> None:
    """A part of a film, with its sound."""
    with open_film(path, max_megapixels=5, start=0.05) as film:
        sound = path if film.info.audio else None
        write_film(path.with_name(f"copy{path.suffix}"), film.frames(), film.info, audio=sound)


def load_small(path: Path) -> None:
    load_image(path, longest_side=20, max_megapixels=5)


def load_whole(path: Path) -> None:
    load_image(path, max_megapixels=5, background="#ff00ff")


def load(path: Path) -> None:
    load_weights(str(path), "vgg19", ["relu1_1"])


def list_taps(path: Path) -> None:
    available_taps(str(path), "vgg19")


def use_record(path: Path) -> None:
    describe(read_record(path))
    StylizeConfig().replace(**recorded_options(path))


def put_record_into_a_picture(path: Path) -> None:
    save_image(
        torch.zeros(1, 3, 16, 16), path.with_suffix(".png"), text={"nst-fast": path.read_text("utf-8", "replace")}
    )


def use_record_of_picture(path: Path) -> None:
    use_record(path.with_suffix(".png"))


def run_model(path: Path) -> None:
    data, _ = open_model(path)
    make_session(data)


def forge_sidecar(path: Path) -> None:
    data = path.read_bytes()
    facts = {"schema": MODEL_SCHEMA, "model_bytes": len(data), "model_sha256": sha256_bytes(data)}
    sidecar_of(path).write_text(json.dumps(facts))


def sealed(data: bytes) -> bytes:
    """A checkpoint with the digest that its bytes have."""
    return data[:-32] + bytes.fromhex(sha256_bytes(data[:-32]))


def checkpoint_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        image = torch.zeros(1, 3, 16, 16)
        moments = {"moments": [image, image], "step": 3}
        found = Checkpoint(
            record=json.loads(m.record()),
            places={"content": "a", "styles": ["b"], "weights": "random:0", "output": "c.png"},
            step=3,
            scale=0,
            first=0,
            seconds=1.0,
            history=torch.ones(3, 2),
            pastiche=image,
            optimizer=moments,
            guard={"best": image, "total": 1.0, "step": 2},
            rules={},
            average=None,
        )
        write_checkpoint(path, found)
        return path.read_bytes()


def checkpoint_input(chance: Random) -> bytes:
    mutate = chance.choice((m.damaged, m.safetensors_header))
    broken = mutate(_SOUND["checkpoint"], chance)
    return sealed(broken) if chance.random() < 0.8 else broken


_SOUND: dict[str, bytes] = {}

TARGETS: dict[str, Target] = {
    **{kind.lower(): picture_target(kind, 4500) for kind in ("PNG", "JPEG", "TIFF", "WEBP")},
    **{kind.lower(): picture_target(kind, 1000) for kind in ("GIF", "BMP", "AVIF")},
    "png-colors": odd_target(".png", 3000, oddities.color_png, m.png_below_the_checksums),
    "tiff-deep": odd_target(".tif", 3000, oddities.deep_tiff, m.tiff_tags),
    "exif": odd_target(".jpg", 2000, oddities.turned, m.damaged),
    "differential": Target(".zip", 2000, differential.archive, (differential.check,)),
    "safetensors": Target(
        ".safetensors",
        1500,
        lambda chance: chance.choice((m.damaged, m.safetensors_header))(m.safetensors_file(), chance),
        (load, list_taps),
    ),
    "pth": Target(".pth", 1000, lambda c: c.choice((m.damaged, m.zip_entries))(m.checkpoint(zipped=True), c), (load,)),
    "pth-legacy": Target(".pth", 1000, lambda chance: m.damaged(m.checkpoint(zipped=False), chance), (load, list_taps)),
    "record": Target(
        ".json",
        2000,
        lambda chance: chance.choice((m.damaged, m.record_tree, m.record_tree))(m.record(), chance),
        (use_record, use_record_of_picture),
        put_record_into_a_picture,
    ),
    "onnx": Target(".onnx", 1000, lambda chance: m.damaged(m.model(), chance), (run_model,), forge_sidecar),
    "checkpoint": Target(".safetensors", 1500, checkpoint_input, (read_checkpoint,)),
    **{f"film-{kind}": film_target(f".{kind}") for kind in ("mp4", "mkv", "webm", "gif", "webp")},
}


def input_of(seed: int, name: str, number: int) -> bytes:
    """The bytes of an input; the same on every machine that has the same Pillow, torch and onnx."""
    if not _SOUND:
        _SOUND["checkpoint"] = checkpoint_bytes()
    return TARGETS[name].make(Random(f"{seed} {name} {number}"))


def feed(name: str, data: bytes, folder: Path, tally: Tally) -> str:
    """Give an input to the target's readers; what is wrong with the outcome, empty when nothing is."""
    target = TARGETS[name]
    path = folder / f"input{target.suffix}"
    path.write_bytes(data)
    target.prepare(path)
    tally.inputs += 1
    for reader in target.readers:
        reset_peak_memory()
        before, started = peak_memory_mib("cpu"), time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what Python would print on the user's terminal
                reader(path)
            tally.accepted += 1
        except NstFastError as error:
            tally.refused[type(error).__name__] += 1
            if "\n" in str(error):
                return f"{reader.__name__}: a message of several lines: {error!r}"
        except BaseException:  # whatever it is, it is what the campaign looks for
            return f"{reader.__name__}: {traceback.format_exc()}"
        taken, grown = time.perf_counter() - started, peak_memory_mib("cpu") - before
        tally.slowest_ms = max(tally.slowest_ms, 1e3 * taken)
        tally.peak_mib = max(tally.peak_mib, grown)
        if grown > LIMIT_MIB:
            return f"{reader.__name__}: took {grown:.0f} MiB"
    return ""


def work(channel: Connection, seed: int, name: str, numbers: range) -> None:
    """In the child: send which input begins, and its result."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C complain there of every damaged file
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            data = input_of(seed, name, number)
            channel.send(("begins", number))
            tally = Tally()
            problem = feed(name, data, Path(folder), tally)
            channel.send((problem, tally))
    channel.send(("ends", numbers.stop))


def campaign(seed: int, name: str, numbers: range, tally: Tally, failures: list[dict[str, Any]]) -> None:
    """Feed a target; a child that dies or hangs is a failure, and another continues after that input."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=work, args=(theirs, seed, name, numbers), daemon=True)
    child.start()
    theirs.close()
    number, problem = numbers.start, ""
    try:
        while True:
            if not ours.poll(LIMIT_SECONDS):
                problem = f"hangs: nothing for {LIMIT_SECONDS:g} seconds"
                break
            message, content = ours.recv()
            if message == "ends":
                break
            if message == "begins":
                number = content
                continue
            add(tally, content)
            if message:
                failures.append({"target": name, "number": number, "problem": message})
    except EOFError:
        child.join()
        problem = f"ended the process with {child.exitcode}"
    finally:
        child.kill()
        child.join()
    if problem:
        failures.append({"target": name, "number": number, "problem": problem})
        tally.inputs += 1
        if number + 1 < numbers.stop:
            campaign(seed, name, range(number + 1, numbers.stop), tally, failures)


def add(tally: Tally, more: Tally) -> None:
    tally.inputs += more.inputs
    tally.accepted += more.accepted
    tally.refused.update(more.refused)
    tally.slowest_ms = max(tally.slowest_ms, more.slowest_ms)
    tally.peak_mib = max(tally.peak_mib, more.peak_mib)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of a whole campaign: 0.01 takes seconds")
    parser.add_argument("--target", choices=TARGETS, action="append", help="may be given again; by default all")
    parser.add_argument("--only", type=int, help="write this input of the target to stdout and feed no other")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if arguments.only is not None:
        data = input_of(arguments.seed, names[0], arguments.only)
        sys.stdout.buffer.write(data)
        with tempfile.TemporaryDirectory() as folder:
            say(feed(names[0], data, Path(folder), Tally()))
        return 0
    forkable = [name for name in names if name != "differential"]  # libvips does not survive a fork once it was used
    for name, number in ((name, number) for name in forkable for number in range(100)):
        input_of(arguments.seed, name, number)  # makes the sound files, which the children inherit
    started, failures, tallies = time.monotonic(), list[dict[str, Any]](), dict[str, Tally]()
    for name in names:
        tally = tallies.setdefault(name, Tally())
        campaign(arguments.seed, name, range(round(TARGETS[name].share * arguments.share)), tally, failures)
        say(f"{name}: {tally.inputs} inputs, {len(failures)} failures so far")
    facts = {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
        "limits": {"seconds": LIMIT_SECONDS, "mib": LIMIT_MIB},
        "inputs": sum(tally.inputs for tally in tallies.values()),
        "failures": len(failures),
        "targets": {name: vars(tally) for name, tally in tallies.items()},
        "first_failures": failures[:KEPT_FAILURES],
    }
    sys.stdout.write(to_json(conditions("nst-fast/fuzz/1") | facts))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
