"""Runs of the server: orders, the queue, events, stopping and going on, what is left after a restart."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="no server: pip install 'nst-fast[ui]'")

from pictures import encoded, sample
from PIL import Image
from served import LONG, TINY, events, finished, in_process, order, started, until_step, upload

from nst_fast.api import read_record
from nst_fast.errors import OutputError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.presets import PRESETS
from nst_fast.server.pictures import Previews
from nst_fast.server.queue import MOST_STARTS

# What two runs of the command line differ in, too.
MEASURED = {"created", "seconds", "steps_per_second", "peak_memory_mib", "phases", "plan", "output_sha256"}


def facts(client: httpx.Client, id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/runs/{id}").json()
    return found


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


# --- what can be asked for


def test_options_are_those_of_the_declarations(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        found = {each["name"]: each for each in client.get("/api/options").json()}
        recipes = client.get("/api/presets").json()
    assert list(found) == list(declared(StylizeConfig))
    assert {name: each["default"] for name, each in found.items()} == StylizeConfig().as_dict()
    size = found["image_size"]
    assert (size["kind"], size["minimum"], size["maximum"], size["first"]) == ("integer", 16, 32768, True)
    assert found["color"]["choices"] == ["none", "keep", "match", "luma"] and found["region"]["files"]
    assert {each["name"]: each["values"] for each in recipes["presets"]} == {
        name: preset.values for name, preset in PRESETS.items()
    }
    assert recipes["qualities"]["draft"] == {"steps": 60}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"image_size": 9}, "image_size", "`image_size` 9: must be from 16 to 32768"),
    ({"imagesize": 9}, "imagesize", "unknown option 'imagesize'"),
    ({"steps": "x"}, "steps", "must be a whole number"),
    ({"style_weight_each": "1,2"}, "style_weight_each", "2 weights for 1 style images"),
    ({"device": "cuda:77"}, "device", "is not available"),
    ({"weights": "/etc/passwd"}, "weights", "no file of the server is read"),
    ({"init": "../secret.png"}, "init", "no file of the server is read"),
    ({"init": "0" * 24}, "init", "there is no upload"),
    ({"content_mask": "/etc/passwd"}, "content_mask", "no file of the server is read"),
    ({"region": "a=b"}, "region", "no file of the server is read"),
    ({"steps": [1]}, "steps", "`steps`"),
    ({"max_memory": "1KiB"}, "max_memory", "needs at least"),
]


def test_wrong_options_are_refused_in_the_words_of_the_command_line(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        for options, option, said in WRONG:
            for path in ("/api/plan", "/api/runs"):
                answer = client.post(path, json=order(client, **options))
                assert answer.status_code == 422
                assert said in error(answer)["message"]
                assert error(answer)["option"] == option and error(answer)["exit_code"] > 1
        assert client.get("/api/runs").json() == []


def test_wrong_orders_are_refused(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        good = order(client)
        wrong = {
            "content": ({"content": "x"}, {"content": None}, {"content": "0" * 24}),
            "styles": ({"styles": []}, {"styles": ["x"]}, {"styles": good["styles"] * 17}),
            "preset": ({"preset": "x"},),
            "quality": ({"quality": "x"},),
            "extra": ({"extra": 1},),
        }
        for option, changes in wrong.items():
            for change in changes:
                answer = client.post("/api/runs", json=good | change)
                assert (answer.status_code, error(answer)["option"]) == (422, option), answer.text
        for body in (b"", b"{", b"[]", b"\xff", b"[" * 10_000, b'{"content": NaN}'):
            assert client.post("/api/runs", content=body).status_code in (400, 422)
        for method, path in (("GET", "x"), ("GET", "0" * 16), ("DELETE", "0" * 16), ("POST", "0" * 16 + "/stop")):
            assert client.request(method, f"/api/runs/{path}").status_code == 404
        assert client.put("/api/runs").status_code == 405


def test_a_plan_says_what_a_run_would_take(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        asked = order(client)
        plan = client.post("/api/plan", json=asked).json()
        assert (plan["width"], plan["height"], plan["steps"], plan["seconds"]) == (32, 21, 6, None)
        assert plan["memory_mib"] > 0 and plan["tiles"] == 1 and plan["words"][0].startswith("plan: 32x21 whole")
        ran = finished(client, client.post("/api/runs", json=asked).json()["id"])
        asked["options"] = TINY | {"steps": 12}
        assert client.post("/api/plan", json=asked).json()["seconds"] == pytest.approx(2 * ran["seconds"], rel=0.01)


def test_masks_are_uploads(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        mask = upload(client, encoded(Image.new("L", (48, 32), 255), "PNG"), "mask.png").json()["id"]
        asked = order(client, content_mask=mask, init=mask, steps=2)
        asked["options"]["region"] = f"{mask}={asked['styles'][0]}:0.5"
        ran = finished(client, client.post("/api/runs", json=asked).json()["id"])
        assert (ran["state"], ran["error"]) == ("done", None)
        record = read_record(tmp_path / "runs" / ran["id"] / "picture.json")
        assert [each["name"] for each in record["inputs"]["masks"]["content_mask"]] == [f"{mask}.png"]
        assert f"--content-mask={tmp_path}/uploads/{mask}.png" in ran["command"]


# --- one run


def test_a_run_from_the_order_to_the_picture(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        id = started(client)
        told = list(events(client, id))
        steps = [data["step"] for kind, data in told if kind == "step"]
        previews = [data for kind, data in told if kind == "preview"]
        assert steps[-1] == 6 and len(steps) >= 3 and len(previews) >= 3
        assert told[-1][0] == "state" and told[-1][1]["state"] == "done"
        run = facts(client, id)
        assert run == told[-1][1]
        assert (run["name"], run["place"], run["step"], run["error"]) == ("harbour-starry", 0, 6, None)
        picture = client.get(f"/{run['picture']}")
        assert picture.headers["content-disposition"] == 'attachment; filename="harbour-starry.png"'
        assert picture.content == (tmp_path / "runs" / id / "picture.png").read_bytes()
        assert len(picture.content) == run["bytes"]
        for path in ("preview", "thumbnail", "content"):
            assert client.get(f"/api/runs/{id}/{path}").headers["content-type"] == "image/webp"
        curve = client.get(f"/api/runs/{id}/losses").json()
        assert curve["step"] == list(range(7)) and set(curve["losses"]) >= {"total", "content", "style"}
        assert client.get("/api/runs").json() == [run]
        assert client.delete(f"/api/runs/{id}").status_code == 204
        assert client.get(f"/api/runs/{id}").status_code == 404
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_command_and_the_program_make_the_same_picture(tmp_path: Path) -> None:
    """All bytes without a record inside; with one, all but what was measured."""
    with in_process(tmp_path / "ui") as client:
        bare = finished(client, started(client, metadata=False))
        full = finished(client, started(client))
        served = [client.get(f"/{run['picture']}").content for run in (bare, full)]
    for run, program in ((bare, False), (full, True)):
        command = shlex.split(run["command"])
        command = [sys.executable, "-c", run["python"]] if program else [sys.executable, "-m", "nst_fast", *command[1:]]
        folder = tmp_path / run["id"]
        folder.mkdir()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert (tmp_path / bare["id"] / "picture.png").read_bytes() == served[0]
    here = tmp_path / full["id"] / "picture.png"
    (tmp_path / "served.png").write_bytes(served[1])
    mine, theirs = read_record(here), read_record(tmp_path / "served.png")
    assert {name for name in mine if mine[name] != theirs[name]} <= MEASURED
    assert (pixels(here.read_bytes()) == pixels(served[1])).all()


def test_a_run_that_is_stopped_goes_on_to_the_same_picture(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        undisturbed = finished(client, started(client, steps=80, optimizer="adam"))
        id = started(client, steps=80, optimizer="adam")
        until_step(client, id, 8)
        assert client.post(f"/api/runs/{id}/stop").json()["stopping"]
        stopped = finished(client, id)
        assert stopped["state"] == "stopped" and 8 <= stopped["step"] < 80
        record = read_record(tmp_path / "runs" / id / "picture.png")
        assert (record["status"], record["steps"]) == ("stopped", stopped["step"])
        assert client.get(f"/api/runs/{id}/losses").json()["step"][-1] == stopped["step"]
        assert client.post(f"/api/runs/{id}/stop").status_code == 409
        assert client.post(f"/api/runs/{id}/continue").status_code == 200
        assert finished(client, id)["state"] == "done"
        assert client.post(f"/api/runs/{id}/continue").status_code == 409
        both = [client.get(f"/{facts(client, run)['picture']}").content for run in (id, undisturbed["id"])]
        assert (pixels(both[0]) == pixels(both[1])).all()


def test_a_run_that_fails_says_why_and_the_queue_goes_on(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        asked = order(client)
        for path in (tmp_path / "uploads").glob(f"{asked['styles'][0]}.png"):
            path.write_bytes(encoded(sample(), "PNG")[:100])
        broken = finished(client, client.post("/api/runs", json=asked).json()["id"])
        assert broken["state"] == "failed" and broken["error"]["exit_code"] == 3
        assert broken["error"]["kind"] == "InputError" and broken["picture"] is None
        assert client.get(f"/api/runs/{broken['id']}/picture").status_code == 404
        assert finished(client, started(client))["state"] == "done"


# --- the queue


def test_runs_wait_for_one_another_and_see_their_places(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        first, second, third = (started(client, **LONG) for _ in range(3))
        until_step(client, first)
        assert [facts(client, id)["place"] for id in (first, second, third)] == [0, 1, 2]
        assert [facts(client, id)["state"] for id in (first, second)] == ["running", "queued"]
        assert client.delete(f"/api/runs/{first}").status_code == 409
        places: list[int] = []

        def follow() -> None:
            for kind, data in events(client, third):
                if kind == "state":
                    places.append(data["place"])
                    if data["state"] == "running":
                        return

        follower = threading.Thread(target=follow)
        follower.start()
        assert client.post(f"/api/runs/{second}/stop").json()["state"] == "stopped"
        began = time.monotonic()
        client.post(f"/api/runs/{first}/stop")
        until_step(client, third)
        assert time.monotonic() - began < 30  # not the hours that 100,000 steps take
        follower.join(30)
        assert places[-1] == 0 and places[0] in (1, 2) and places == sorted(places, reverse=True)
        assert client.delete(f"/api/runs/{second}").status_code == 204
        client.post(f"/api/runs/{third}/stop")


def test_names_differ(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        names = [facts(client, started(client, **LONG))["name"] for _ in range(3)]
    assert names == ["harbour-starry", "harbour-starry-2", "harbour-starry-3"]


def test_what_the_end_of_the_server_interrupts_goes_on_at_the_next_start(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        running, queued = started(client, steps=800, optimizer="adam"), started(client)
        until_step(client, running, 20)
    state = json.loads((tmp_path / "runs" / running / "run.json").read_text())
    assert state["state"] == "running" and state["step"] >= 20
    with in_process(tmp_path) as client:
        until_step(client, running, state["step"] + 1)
        assert f"going on after step {state['step']} of 800" in facts(client, running)["notes"]
        assert facts(client, queued)["place"] == 1
        client.post(f"/api/runs/{running}/stop")
        assert finished(client, queued)["state"] == "done"


def test_a_run_that_was_finished_before_the_server_took_note_is_done(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        id = started(client)
        finished(client, id)
    path = tmp_path / "runs" / id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "step": 0}))
    written = (tmp_path / "runs" / id / "picture.png").stat().st_mtime_ns
    (tmp_path / "runs" / id / "preview.webp").unlink()
    with in_process(tmp_path) as client:
        assert (finished(client, id)["state"], facts(client, id)["step"]) == ("done", 6)
        assert client.get(f"/api/runs/{id}/preview").status_code == 200
    assert (tmp_path / "runs" / id / "picture.png").stat().st_mtime_ns == written


def test_a_run_that_ends_the_server_again_and_again_is_given_up(tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        id = started(client, **LONG)
        until_step(client, id)
    path = tmp_path / "runs" / id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"starts": MOST_STARTS}))
    with in_process(tmp_path) as client:
        failed = finished(client, id)
        assert failed["state"] == "failed" and "ended 5 times" in failed["error"]["message"]


def test_what_is_no_run_any_more_is_left_as_it_is(tmp_path: Path) -> None:
    """A damaged file, and a run whose pictures somebody has removed."""
    with in_process(tmp_path) as client:
        id = started(client)
        finished(client, id)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "run.json").write_text("{")
    for path in (tmp_path / "uploads").iterdir():
        path.unlink()
    with in_process(tmp_path) as client:
        assert client.get("/api/runs").json() == []
    assert (tmp_path / "runs" / "x" / "run.json").read_text() == "{"
    assert (tmp_path / "runs" / id / "picture.png").is_file()


def test_a_full_disk_does_not_end_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("run.json: cannot be written: no space left on device")

    with in_process(tmp_path) as client:
        with monkeypatch.context() as patch:
            patch.setattr("nst_fast.server.runs.write_atomic", full)
            assert finished(client, started(client))["state"] == "done"
        assert finished(client, started(client))["state"] == "done"
        assert len(client.get("/api/runs").json()) == 2


# --- previews


def test_previews_that_come_too_fast_or_cost_too_much_are_dropped(
    monkeypatch: pytest.MonkeyPatch, picture: Any
) -> None:
    from nst_fast.api import StepEvent
    from nst_fast.server import pictures

    encoding, goes_on, shown = threading.Event(), threading.Event(), []

    def slow(*_: Any, **__: Any) -> bytes:
        encoding.set()
        assert goes_on.wait(30)
        return b"webp"

    def event(step: int) -> StepEvent:
        return StepEvent(0, step, 9, {"total": 1.0}, 0.0, 0.0, 0.0, picture)

    monkeypatch.setattr(pictures, "webp", slow)
    previews = Previews(lambda step, data: shown.append((step, data)))
    previews.offer(event(1))
    assert encoding.wait(30)
    previews.offer(event(2))
    goes_on.set()
    while not shown or previews.busy:
        time.sleep(0.001)
    monkeypatch.setattr(pictures, "ALLOWANCE", -1.0)
    previews.offer(event(3))
    monkeypatch.setattr(pictures, "ALLOWANCE", 1e9)
    previews.offer(event(4))
    previews.close()
    assert shown == [(1, b"webp"), (4, b"webp")]


def test_a_picture_that_is_not_finite_has_no_preview_and_those_after_it_have(picture: Any) -> None:
    from nst_fast.api import StepEvent

    shown: list[int] = []
    previews = Previews(lambda step, data: shown.append(step))
    for step, image in ((1, picture * float("nan")), (2, picture)):
        previews.offer(StepEvent(0, step, 9, {"total": 1.0}, 0.0, 0.0, 0.0, image))
        while previews.busy:
            time.sleep(0.001)
    previews.close()
    assert shown == [2]
