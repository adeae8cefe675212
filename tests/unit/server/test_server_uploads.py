"""Uploads: pictures alone, in their folder alone, named by nobody but us."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="no server: pip install 'nst-fast[ui]'")

from pictures import encoded, sample
from PIL import Image
from served import TINY, finished, in_process, upload

from nst_fast.api import stylize
from nst_fast.options.config import StylizeConfig
from nst_fast.server import uploads as module
from nst_fast.server.uploads import Uploads
from nst_fast.system.machine import peak_memory_mib, reset_peak_memory


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def polyglot() -> bytes:
    """A PNG that is a page and an archive too."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("run.py", "print('no')")
    return encoded(sample(), "PNG") + b"<html><script>alert(1)</script></html>" + sink.getvalue()


def test_a_picture_is_kept_as_it_is_and_shown_as_webp(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        answer = upload(client, encoded(sample(), "JPEG"), "C:\\photos\\harbour.jpg")
        facts = answer.json()
        assert answer.status_code == 201
        assert (facts["name"], facts["width"], facts["height"], facts["record"]) == ("harbour.jpg", 48, 32, None)
        assert client.get(f"/api/uploads/{facts['id']}/about").json() == facts
        assert client.get("/api/uploads").json() == [facts]
        for path in ("", "/thumbnail"):
            shown = client.get(f"/api/uploads/{facts['id']}{path}")
            assert shown.headers["content-type"] == "image/webp"
            assert Image.open(io.BytesIO(shown.content)).size == (48, 32)
    assert (tmp_path / "uploads" / f"{facts['id']}.jpg").read_bytes() == encoded(sample(), "JPEG")
    assert all(name.startswith(f"uploads/{facts['id']}") for name in files(tmp_path))


def test_the_same_picture_has_the_same_id_also_after_a_restart(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        first = upload(client).json()
    with in_process(tmp_path) as client:
        assert upload(client, name="other.png").json() == first == client.get("/api/uploads").json()[0]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "WEBP", "AVIF"])
def test_other_kinds_of_pictures(kind: str, tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        assert upload(client, encoded(sample(), kind), "x").status_code == 201


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (encoded(sample(), "PNG")[:200], "x.png"),
        (encoded(sample(size=(8, 8)), "PNG"), "8x8"),
        (encoded(Image.new("1", (30_000, 30_000)), "PNG"), "179 megapixels"),
    ],
    ids=["empty", "svg", "pdf", "truncated", "small", "bomb"],
)
def test_what_is_no_usable_picture_is_refused_by_name_and_leaves_nothing(
    data: bytes, said: str, tmp_path: Path
) -> None:
    with in_process(tmp_path) as client:
        bounded, before = reset_peak_memory(), peak_memory_mib()
        answer = upload(client, data, "x.png")
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert said in error["message"] and error["option"] == "file" and error["exit_code"] == 3
        assert str(tmp_path) not in answer.text
        assert not bounded or peak_memory_mib() - before < 64
    assert files(tmp_path) == []


def test_a_polyglot_is_shown_without_what_else_it_is(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        id = upload(client, polyglot(), "x.html").json()["id"]
        shown = client.get(f"/api/uploads/{id}")
        assert shown.headers["content-type"] == "image/webp" and b"script" not in shown.content


@pytest.mark.parametrize(
    "name",
    ["../../outside.png", "..\\..\\outside.png", "/etc/outside", "a\0b.png", "x" * 5000, "..", "\ud83d.png", "CON"],
)
def test_names_never_become_paths(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with in_process(folder) as client:
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n--x--\r\n'
        data = body % (name[:3000].encode("utf-8", "surrogatepass"), encoded(sample(), "PNG"))
        answer = client.post("/api/uploads", content=data, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 201
        id = answer.json()["id"]
        assert "/" not in answer.json()["name"] and len(answer.json()["name"]) <= 120
    assert all(path.startswith(f"deep/folder/uploads/{id}") for path in files(tmp_path))


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
        b"x" * 300,
        PART + b"1\r\n" + PART + b"2\r\n--x--\r\n",  # two
        PART + b"1\r\n",  # no end
    ],
)
def test_a_damaged_form_is_refused(body: bytes, tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        for kind in (
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "text/plain",
            "",
            "multipart/form-data; boundary=" + "x" * 300,
        ):
            answer = client.post("/api/uploads", content=body, headers={"content-type": kind})
            assert answer.status_code == 422 and answer.json()["error"]["option"] == "file"
    assert files(tmp_path) == []


def test_a_large_upload_goes_through_the_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    data = encoded(sample(size=(300, 300)), "BMP")
    with in_process(tmp_path) as client:
        assert len(data) > 2**18
        assert upload(client, data).status_code == 201


def test_a_hundred_uploads_keep_memory_and_those_that_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    with in_process(tmp_path) as client:
        first = upload(client).json()["id"]
        id = client.post("/api/runs", json={"content": first, "styles": [first], "options": TINY}).json()["id"]
        assert finished(client, id)["state"] == "done"
        before = peak_memory_mib() if reset_peak_memory() else None
        for value in range(100):
            picture = Image.new("RGB", (400, 300), (value, 2 * value, 255 - value))
            assert upload(client, encoded(picture, "PNG"), f"{value}.png").status_code == 201
        assert before is None or peak_memory_mib() - before < 64
        names = [each["name"] for each in client.get("/api/uploads").json()]
    assert names == [*(f"{value}.png" for value in range(99, 89, -1)), "harbour.png"]
    assert len(list((tmp_path / "uploads").glob("*.json"))) == 11


def test_a_picture_of_ours_brings_its_options(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    made = tmp_path / "made.png"
    config = StylizeConfig(weights="random:0", style_taps="relu1_1", content_taps="relu1_1", steps=2, image_size=32)
    stylize(*pair, config, output=made, content_mask=str(pair[0]), monitor_every=0)
    with in_process(tmp_path / "folder") as client:
        record = upload(client, made.read_bytes()).json()["record"]
    assert record["steps"] == 2 and record["image_size"] == 32 and record["weights"] == "random:0"
    assert "content_mask" not in record
    assert StylizeConfig().replace(**record).style_taps.text == "relu1_1"


def test_what_broken_uploads_have_left_goes(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    old, new = uploads.temporary(), uploads.temporary()
    for path in (old, new):
        path.write_bytes(b"1")
    os.utime(old, (time.time() - 7200,) * 2)
    uploads.forget(())
    assert (old.exists(), new.exists()) == (False, True)


def test_an_upload_that_ends_while_another_looks_around_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(tmp_path)
    coming = uploads.temporary()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [coming])  # there when it was looked for
    uploads.forget(())


def test_damaged_facts_are_no_upload(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps({"id": 1}))
    assert Uploads(tmp_path).all() == []


def test_samples_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_SIDE", 64)
    with in_process(tmp_path) as client:
        found = client.get("/api/samples").json()
        assert [each["kind"] for each in found] == ["content", "style"]
        assert client.get(f"/api/uploads/{found[0]['id']}/about").json()["width"] == 64
    monkeypatch.setattr(module, "SAMPLE_SIDE", 1)
    with in_process(tmp_path) as client:
        assert client.get("/api/samples").json() == found
