"""Files that were made to do harm: each is refused in one line by an error of ours, runs nothing, fills nothing."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pictures import encoded, png_chunk, sample, with_chunk
from PIL import Image
from safetensors.torch import save

from nst_fast.cli.info import describe
from nst_fast.errors import InputError, NstFastError, OnnxModelError, UsageError, WeightsError
from nst_fast.images import load_image, save_image
from nst_fast.jobs.runner import Job
from nst_fast.jobs.series import Series, continues
from nst_fast.network.weights import available_taps, load_weights
from nst_fast.network.weights.cache import note_of, pretrained_features
from nst_fast.onnx.export import METADATA_KEY, SCHEMA, open_model, sidecar_of
from nst_fast.options.config import StylizeConfig
from nst_fast.run.provenance import recorded_options
from nst_fast.run.record import RunRecord, read_record
from nst_fast.system.files import sha256_bytes
from nst_fast.system.machine import peak_memory_mib, reset_peak_memory

# --- pictures


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small picture whose header claims another size."""
    data = bytearray(encoded(sample(), kind))
    match kind:
        case "BMP":
            struct.pack_into("<ii", data, 18, width, height)
        case "GIF":
            struct.pack_into("<HH", data, 6, width, height)
        case "JPEG":
            struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
        case "TIFF":
            for tag, value in ((256, width), (257, height)):
                at = data.index(struct.pack("<HHI", tag, 4, 1))
                struct.pack_into("<I", data, at + 8, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "side"), [("BMP", 100_000), ("BMP", 2**31 - 1), ("GIF", 65_535), ("JPEG", 65_500), ("TIFF", 10**6)]
)
def test_a_claim_of_a_huge_picture_is_refused_before_it_costs_memory(kind: str, side: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(claiming(kind, side, side))
    bounded = reset_peak_memory()
    before = peak_memory_mib("cpu")
    with pytest.raises(InputError):
        load_image(tmp_path / "a")
    assert not bounded or peak_memory_mib("cpu") - before < 64


def test_a_picture_of_48_megapixels_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (8000, 6000), 77).save(tmp_path / "a.jpg")
    bounded = reset_peak_memory()
    before = peak_memory_mib("cpu")
    assert load_image(tmp_path / "a.jpg", longest_side=64).tensor.shape == (1, 3, 48, 64)
    assert not bounded or peak_memory_mib("cpu") - before < 64  # decoded whole, as floats, it would be 550


def tiff_whose_directories_form_a_ring() -> bytes:
    data = bytearray(encoded(sample(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def tiff_with_a_tag_of_four_billion_values() -> bytes:
    data = bytearray(encoded(sample(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<HHII", data, start + 2 + 12 * 2, 258, 3, 2**32 - 1, 8)
    return bytes(data)


STRANGE: dict[str, bytes] = {
    "png and zip": encoded(sample(), "PNG") + b"PK\3\4" + bytes(100),
    "gif and script": encoded(sample(), "GIF") + b"*/=1;alert(1)//",
    "jpeg with a page in its comment": encoded(sample(), "JPEG", comment=b"<html><script>alert(1)</script>"),
    "jpeg and pickle": encoded(sample(), "JPEG") + b"\x80\x04cos\nsystem\n",
    "png that says it is a page": with_chunk(encoded(sample(), "PNG"), png_chunk(b"tEXt", b"Comment\0<html>")),
    "tiff ring": tiff_whose_directories_form_a_ring(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_picture_that_is_something_else_as_well_is_a_picture_and_its_other_half_is_dropped(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(STRANGE[name])
    image = load_image(tmp_path / "a")
    assert image.original_size == (48, 32)
    save_image(image.tensor, tmp_path / "out.png")
    written = (tmp_path / "out.png").read_bytes()
    assert not any(part in written for part in (b"PK\3\4", b"html", b"alert", b"system"))


def test_a_tag_of_four_billion_values_is_refused_or_ignored(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tiff_with_a_tag_of_four_billion_values())
    with pytest.raises(InputError):
        load_image(tmp_path / "a")


def test_where_a_picture_was_taken_is_not_passed_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[2] = (48.0, 31.0, 0.0)
    (tmp_path / "a.jpg").write_bytes(encoded(sample(), "JPEG", exif=exif))
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        save_image(load_image(tmp_path / "a.jpg").tensor, tmp_path / f"out{suffix}")
        assert b"SecretCamera" not in (tmp_path / f"out{suffix}").read_bytes()
        with Image.open(tmp_path / f"out{suffix}") as picture:
            assert not picture.getexif().get_ifd(0x8825)


# --- weights


def refuses(data: bytes, name: str, tmp_path: Path) -> str:
    (tmp_path / name).write_bytes(data)
    for load in (lambda path: load_weights(path, "vgg19", ["relu1_1"]), lambda path: available_taps(path, "vgg19")):
        with pytest.raises(WeightsError) as raised:
            load(str(tmp_path / name))
        assert "\n" not in str(raised.value)
    return str(raised.value)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def floats(*offsets: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape or [64], "data_offsets": list(offsets)}


LIES: dict[str, bytes] = {
    "header of 8 EiB": struct.pack("<Q", 2**63) + b"{}",
    "header of 200 MB": struct.pack("<Q", 200 * 2**20) + b"{}",
    "overlap": safetensors({"features.0.bias": floats(0, 256), "features.2.bias": floats(0, 256)}, bytes(256)),
    "1 TB": safetensors({"features.0.bias": floats(0, 2**40, shape=[2**38])}, bytes(256)),
    "backwards": safetensors({"features.0.bias": floats(256, 0)}, bytes(256)),
    "negative": safetensors({"features.0.bias": floats(0, 256, shape=[-64])}, bytes(256)),
    "overflow": safetensors({"features.0.bias": floats(0, 256, shape=[2**63, 2])}, bytes(256)),
    "nested": safetensors(b"[" * 5000),
    "deep": safetensors(b'{"a":' * 5000),
    "no text": safetensors(b"\xff\xfe{}"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_safetensors_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    refuses(LIES[name], "a.safetensors", tmp_path)


def test_a_checkpoint_that_claims_a_tensor_larger_than_memory_is_refused(tmp_path: Path) -> None:
    """One number, repeated by a stride of zero, has any shape one likes; it must not be copied out."""
    sink = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(1).expand(10**6, 10**6)}, sink)
    reset_peak_memory()
    before = peak_memory_mib("cpu")
    assert "features.0.weight is [1000000, 1000000]" in refuses(sink.getvalue(), "a.pth", tmp_path)
    assert peak_memory_mib("cpu") - before < 256


def test_an_archive_of_a_later_age_is_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    torch.save({}, sink)
    data = bytearray(sink.getvalue())
    data[data.index(b"PK\1\2") + 6] = 131  # "version needed to extract": Python knows up to 6.3
    refuses(bytes(data), "a.pth", tmp_path)


def test_an_archive_whose_entries_climb_out_of_it_writes_nothing(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("../../escaped/data.pkl", b"\x80\x02}.")
        archive.writestr("/tmp/escaped", b"x")
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    refuses(sink.getvalue(), "deep/deeper/a.pth", tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.pth", "deep", "deeper"]


# --- models


def weighing(location: str | None = None, **entries: str) -> onnx.ModelProto:
    """A model of one addition, whose number lies in the model or, with a location, in another file."""
    number = helper.make_tensor("number", TensorProto.FLOAT, [1], [1.0])
    if location is not None:
        number.ClearField("float_data")
        number.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            number.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("image", "sum")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "number"], ["sum"])], "g", ends[:1], ends[1:], [number]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def forged(model: onnx.ModelProto | bytes, path: Path, identity: object = None) -> Path:
    """The model with a sidecar that agrees with it in every hash, as a forger would write it."""
    identity = {"schema": SCHEMA} if identity is None else identity
    if isinstance(model, onnx.ModelProto):
        model.metadata_props.add(
            key=METADATA_KEY, value=identity if isinstance(identity, str) else json.dumps(identity)
        )
        data = model.SerializeToString()
    else:
        data = model
    path.write_bytes(data)
    sidecar = {"schema": SCHEMA, "model_bytes": len(data), "model_sha256": sha256_bytes(data)}
    sidecar_of(path).write_text(json.dumps(sidecar))
    return path


def test_a_forgery_without_a_fault_would_open(tmp_path: Path) -> None:
    """So that the refusals below are known to come from what they say."""
    assert open_model(forged(weighing(), tmp_path / "m.onnx"))[1]["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../secret", {}),
        ("/etc/passwd", {}),
        ("link", {}),
        ("hard link", {}),
        ("short", {"length": "400"}),
        ("secret", {"length": str(2**62)}),
        ("secret", {"offset": "-1"}),
        ("C:\\secret", {}),
    ],
)
def test_numbers_from_another_file_are_refused(location: str, entries: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(400))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "short").write_bytes(bytes(3))
    (folder / "secret").write_bytes(bytes(4))
    if os.name != "nt":
        (folder / "link").symlink_to(tmp_path / "secret")
        os.link(tmp_path / "secret", folder / "hard link")
    with pytest.raises(OnnxModelError, match="numbers from other files"):
        open_model(forged(weighing(location, **entries), folder / "m.onnx"))


def with_node(*arguments: Any, **attributes: Any) -> onnx.ModelProto:
    model = weighing()
    model.graph.node.append(helper.make_node(*arguments, **attributes))
    return model


def with_a_function() -> onnx.ModelProto:
    model, node = weighing(), helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("mine", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))
    return model


SECRET = weighing("../secret").graph
FOREIGN: dict[str, Callable[[], onnx.ModelProto]] = {
    "external constant": lambda: with_node("Constant", [], ["other"], value=SECRET.initializer[0]),
    "external data in a branch": lambda: with_node("If", ["image"], ["other"], then_branch=SECRET, else_branch=SECRET),
    "function": with_a_function,
    "custom operator": lambda: with_node("Anything", ["image"], ["other"], domain="com.example"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_export_of_ours_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxModelError, match="no export of nst-fast"):
        open_model(forged(FOREIGN[name](), tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    "model", [b"", b"\xff" * 64, b"<html>", weighing().SerializeToString()[:-4]], ids=["empty", "noise", "page", "cut"]
)
def test_bytes_that_are_no_model_are_refused_even_if_their_hash_is_right(model: bytes, tmp_path: Path) -> None:
    with pytest.raises(OnnxModelError):
        open_model(forged(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("identity", ["{", "[]", "1", "null", "[" * 100_000, '{"a": {"b": []}}'])
def test_a_forged_identity_is_refused(identity: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxModelError):
        open_model(forged(weighing(), tmp_path / "m.onnx", identity))


# --- JSON

GOOD: dict[str, Any] = json.loads(
    RunRecord(
        options=StylizeConfig().as_dict(),
        inputs={"content": {"name": "a", "sha256": "0", "size": [1, 1]}, "styles": []},
        weights={"source": "random", "sha256": "0"},
        machine={},
        device="cpu",
        engine="eager",
        precision="fp32",
        losses={"total": 1.0},
        history={"total": [1.0, 2.0]},
    ).as_text()["nst-fast"]
)
TEXTS = {
    "nothing": "",
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "a number of 5000 digits": "9" * 5000,
    "a number of 400 digits": json.dumps({**GOOD, "seconds": 10**400}),
    "a number without end": '{"schema": 1e999999}',
    "no JSON": "{'schema': 1}",
    "a lone surrogate": '{"schema": "\\ud800"}',
    "another schema": json.dumps({**GOOD, "schema": "nst-fast/run/99"}),
}
CHANGES: dict[str, Any] = {
    "options": [[], None, 1, {"steps": "many"}, {"steps": 10**400}, {"style_weight": 10**400}, {"unknown": 1}],
    "inputs": [
        *([], {"content": 1}, {"content": {"name": 1}}, {"content": {"size": 1}}),
        *({"styles": styles} for styles in (5, [1], None, [None], {})),
    ],
    "weights": [[], {"source": 1}, {"sha256": []}],
    "losses": [[], {"total": "x"}, {"total": []}],
    "history": [[], {"total": 1}, {"total": ["x"]}, {"total": [[]]}],
    "seconds": ["x", [], {}],
    "steps": ["x", 1.5, None],
    "finish": ["x", [1], {}],
    "warnings": [None, [[]]],
    "status": [1, None],
    "plan": [[]],
    "machine": ["x"],
}
DEFECTS = [(name, value) for name, values in CHANGES.items() for value in values]


def use(path: Path) -> None:
    """All that the commands do with a record of somebody else."""
    record = read_record(path)
    describe(record)
    StylizeConfig().replace(**recorded_options(path))


def test_a_sound_record_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    use(tmp_path / "a.json")


DAMAGED = TEXTS | {f"{name} {str(value)[:20]}": json.dumps({**GOOD, name: value}) for name, value in DEFECTS}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(DAMAGED[name])
    with pytest.raises(InputError if name in TEXTS else (InputError, UsageError)) as raised:
        use(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["options", "inputs", "weights", "machine", "device"])
def test_a_record_with_a_hole_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({key: value for key, value in GOOD.items() if key != name}))
    with pytest.raises(InputError, match=f"{name} is missing"):
        use(tmp_path / "a.json")


def test_a_record_with_losses_that_are_not_finite_is_shown(tmp_path: Path) -> None:
    record = {**GOOD, "losses": {"total": None}, "history": {"total": [1.0, None]}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert "total not finite" in "\n".join(describe(read_record(tmp_path / "a.json")))


def test_the_last_of_two_equal_keys_counts_for_everybody(tmp_path: Path) -> None:
    text = json.dumps(GOOD)[:-1] + ', "status": "forged"}'
    (tmp_path / "a.json").write_text(text)
    assert read_record(tmp_path / "a.json")["status"] == "forged"


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
@pytest.mark.parametrize("name", ["/dev/zero", "fifo", "folder", "missing", "a\0b"])
def test_a_record_that_is_no_file_neither_hangs_nor_fills_the_memory(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(InputError):
        read_record(tmp_path / ("zero.json" if name == "/dev/zero" else f"{name}.json"))


def test_a_record_beyond_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nst_fast.run.record.MOST_BYTES", 100)
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match="no file, or larger than"):
        read_record(tmp_path / "a.json")


def test_a_record_inside_a_picture_is_read_with_the_same_care(tmp_path: Path) -> None:
    for text in [*TEXTS.values(), json.dumps({**GOOD, "inputs": []})]:
        save_image(torch.zeros(1, 3, 16, 16), tmp_path / "b.png", text={"nst-fast": text})
        with pytest.raises(InputError):
            read_record(tmp_path / "b.png")


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "another schema"])
def test_other_json_files_of_ours_are_read_with_care(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXTS[name]
    (tmp_path / "plan.json").write_text(text)
    series = Series("sweep", "", {}, [Job("a", "pictures/a.png", StylizeConfig(), None, ())])
    assert not continues(tmp_path / "plan.json", series)
    (tmp_path / "m.onnx").write_bytes(weighing().SerializeToString())
    sidecar_of(tmp_path / "m.onnx").write_text(text)
    with pytest.raises(OnnxModelError):
        open_model(tmp_path / "m.onnx")
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path))
    copy = tmp_path / "weights" / "vgg19-imagenet-features.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(save({"features.0.bias": torch.zeros(64)}))
    note_of(copy).write_text(text)
    with pytest.raises(NstFastError, match="NST_FAST_OFFLINE"):
        pretrained_features("vgg19")
