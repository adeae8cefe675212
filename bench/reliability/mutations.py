"""Damaged files for the fuzzing campaign: sound ones made by code, and ways to damage each kind below its surface."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from differential import chunk
from PIL import Image

from nst_fast.images.film import FilmInfo, Frame, write_film
from nst_fast.network.weights import random_state
from nst_fast.onnx.export import METADATA_KEY, SCHEMA
from nst_fast.onnx.graph.writer import GraphWriter
from nst_fast.options.config import StylizeConfig
from nst_fast.run.record import RunRecord

Mutator = Callable[[bytes, Random], bytes]

ODD_WORDS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80", b"\0\1\0\0"]
ODD_VALUES: list[Any] = [
    *(None, True, [], {}, "", "x" * 5000, 0, -1, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf")),
    *([[]], {"": {}}, [None], "\ud800", "\0", "../../etc/passwd", "[red]", [1] * 100),
]


@cache
def picture(kind: str, variant: int) -> bytes:
    """A sound picture: RGB with orientation and text, grey, with alpha or of many frames, 48 x 32."""
    coarse = np.random.default_rng(variant).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((48, 32), Image.Resampling.BICUBIC)
    image = image.convert(
        ("RGB", "L", "RGBA", "P")[variant] if kind not in {"JPEG", "BMP"} else ("RGB", "L")[variant % 2]
    )
    options: dict[str, Any] = {}
    # Pillow 13's encoder of AVIF ends the process when several frames carry EXIF; we read AVIF and never write it.
    if kind not in {"GIF", "BMP"} and variant != 1 and (kind, variant) != ("AVIF", 0):
        exif = Image.Exif()
        exif[274] = 6
        exif[270] = "a description"
        options["exif"] = exif.tobytes()
    if kind in {"GIF", "WEBP", "TIFF", "AVIF"} and variant == 0:
        options |= {"save_all": True, "append_images": [image.rotate(90)]}
    if kind == "TIFF" and variant == 1:
        options["compression"] = "tiff_lzw"
    if kind == "JPEG" and variant >= 2:
        options["progressive"] = True
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@cache
def film(suffix: str) -> bytes:
    """A sound film of five frames, 48 x 32, with a tone where the kind holds any."""
    import av

    pixels = (
        np.stack([np.asarray(Image.open(io.BytesIO(picture("BMP", 0))))] * 5) // np.arange(1, 6)[:, None, None, None]
    )
    times = tuple(Fraction(at, 25) for at in range(5))
    info = FilmInfo((32, 48), times, Fraction(1, 5))
    with tempfile.TemporaryDirectory() as folder:
        path, tone = Path(folder) / f"film{suffix}", Path(folder) / "tone.mka"
        with av.open(tone, "w") as out:
            stream = out.add_stream("libopus", rate=48_000)
            wave = np.sin(np.arange(9600)[None] / 10).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
            frame.sample_rate = 48_000
            out.mux([*stream.encode(frame), *stream.encode(None)])
        frames = [Frame(at, time, pixels[at].astype(np.uint8)) for at, time in enumerate(times)]
        write_film(path, frames, info, audio=tone)
        return path.read_bytes()


def damaged(data: bytes, chance: Random) -> bytes:
    """Bytes changed, removed, repeated, cut off or exchanged; mostly near the beginning, where headers are."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not broken:
            break
        at = chance.randrange(min(len(broken), chance.choice((64, 400, 10**9))))
        match chance.randrange(7):
            case 0:
                broken[at] = chance.randrange(256)
            case 1:
                broken[at] ^= 1 << chance.randrange(8)
            case 2:
                broken[at : at + 4] = chance.choice(ODD_WORDS)
            case 3:
                del broken[at : at + chance.randrange(1, 64)]
            case 4:
                broken[at:at] = broken[at : at + chance.randrange(64)]
            case 5:
                other = chance.randrange(len(broken))
                broken[at : at + 16] = broken[other : other + 16]
            case _:
                if chance.random() < 0.2:
                    del broken[at:]
    return bytes(broken)


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of every chunk."""
    chunks, at = [], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_below_the_checksums(data: bytes, chance: Random) -> bytes:
    """A PNG whose chunks are changed, swapped or doubled, with checksums that are right."""
    chunks = chunks_of(data)
    pixels = b"".join(body for kind, body in chunks if kind == b"IDAT")
    for _ in range(chance.randrange(1, 4)):
        index = chance.randrange(len(chunks))
        kind, body = chunks[index]
        match chance.randrange(5):
            case 0:
                chunks[index] = (kind, damaged(body, chance))
            case 1 if kind == b"IDAT":
                chunks[index] = (kind, zlib.compress(damaged(zlib.decompress(pixels), chance)))
            case 2:
                chunks.insert(chance.randrange(len(chunks)), (kind, body))
            case 3:
                name = chance.choice(
                    (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"pHYs")
                )
                chunks.insert(chance.randrange(len(chunks)), (name, damaged(body[:200] or b"\0" * 9, chance)))
            case _:
                if len(chunks) > 1:
                    del chunks[index]
    return data[:8] + b"".join(chunk(kind, body) for kind, body in chunks)


def tiff_tags(data: bytes, chance: Random) -> bytes:
    """A TIFF with odd values in its first directory."""
    if data[2:4] not in {b"*\0", b"\0*"}:
        return damaged(data, chance)  # BigTIFF
    broken, order = bytearray(data), "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, start)[0]
    for _ in range(chance.randrange(1, 4)):
        entry = start + 2 + 12 * chance.randrange(count)
        value = chance.choice((0, 1, 2, 3, 7, 16, 255, 65_535, 2**31, 2**32 - 1, start, chance.randrange(2**32)))
        match chance.randrange(4):  # tag, type, count or value
            case 0 | 1 as field:
                struct.pack_into(order + "H", broken, entry + 2 * field, value % 2**16)
            case field:
                struct.pack_into(order + "I", broken, entry + 4 * (field - 1), value)
    return bytes(broken)


@cache
def state() -> dict[str, torch.Tensor]:
    """VGG-19's first convolution."""
    return random_state("vgg19", ["conv1_1"], 0)


@cache
def safetensors_file() -> bytes:
    from safetensors.torch import save

    return bytes(save(state()))


@cache
def checkpoint(*, zipped: bool) -> bytes:
    sink = io.BytesIO()
    torch.save(state() | {"epoch": 3}, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


def changed_json(value: Any, chance: Random) -> Any:
    """A copy of plain data with one thing in it replaced, removed or put elsewhere."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(sorted(value))
        match chance.randrange(6):
            case 0:
                return {key: inner for key, inner in value.items() if key != name}
            case 1:
                return value | {str(chance.choice(ODD_VALUES))[:20]: value[name]}
            case _:
                return value | {name: changed_json(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        index = chance.randrange(len(value))
        return [*value[:index], changed_json(value[index], chance), *value[index + 1 :]]
    return chance.choice(ODD_VALUES)


def safetensors_header(data: bytes, chance: Random) -> bytes:
    """A safetensors file with another header, whose length is right."""
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(changed_json(header, chance)).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def zip_entries(data: bytes, chance: Random) -> bytes:
    """A zip archive with a damaged entry and right checksums, so that the damage reaches what reads the entry."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
        names = old.namelist()
        chosen = chance.choice([name for name in names if name.endswith("data.pkl")] * 5 + names)
        for name in names:
            content = old.read(name)
            new.writestr(name, damaged(content, chance) if name == chosen else content)
    return sink.getvalue()


@cache
def record() -> bytes:
    """A sound run record."""
    picture_facts = {"name": "a.png", "sha256": "0" * 64, "size": [48, 32]}
    made = RunRecord(
        options=StylizeConfig().as_dict(),
        inputs={"content": picture_facts, "styles": [picture_facts]},
        weights={"source": "random, seed 0", "sha256": "0" * 64},
        machine={"cpu": "one"},
        device="cpu",
        engine="fast",
        precision="fp32",
        losses={"total": 1.0, "content/relu4_2": 0.5},
        history={"total": [2.0, 1.0], "content/relu4_2": [1.0, 0.5]},
        finish=["sharpened"],
        warnings=["a warning"],
    )
    return made.as_text()["nst-fast"].encode()


def record_tree(data: bytes, chance: Random) -> bytes:
    """A record that is JSON, with one to three things in it changed."""
    tree = json.loads(data)
    for _ in range(chance.randrange(1, 4)):
        tree = changed_json(tree, chance)
    return json.dumps(tree).encode("utf-8", "replace")


@cache
def model() -> bytes:
    """A small ONNX model with the metadata of an export of ours."""
    writer = GraphWriter("fp32")
    weight = writer.constant(np.ones((4, 3, 3, 3), np.float32), "weight")
    features = writer.op("Conv", writer.input("image", [1, 3, "h", "w"]), weight, pads=[1, 1, 1, 1])
    writer.output("relu1_1", writer.op("Relu", features), [1, 4, "h", "w"])
    made = writer.model("encoder", opset=18)
    made.metadata_props.add(key=METADATA_KEY, value=json.dumps({"schema": SCHEMA}))
    return bytes(made.SerializeToString())
