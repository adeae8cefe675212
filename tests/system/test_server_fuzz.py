"""Requests by chance against every operation of the server's OpenAPI: no answer is a fault of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn", reason="no server: pip install 'nst-fast[ui]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import TINY, finished, in_process, order

from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared

SLOW = "/api/samples"  # which are drawn for seconds
NAMES = list(declared(StylizeConfig))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(max_size=30) | st.sampled_from(
    ["-", "..", "/etc/passwd", "1e999", "0" * 24, "a=b:1;c=d", "60s", "~root"]
)
VALUES = JSON | TEXT | st.sampled_from([0, -1, 2**63, 1e308, True])
SEGMENTS = st.text(min_size=1, max_size=30) | st.sampled_from(["..", "%2e%2e%2f", "0" * 16, "0" * 24])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with in_process(tmp_path_factory.mktemp("server")) as client:
        yield client


@pytest.fixture(scope="module")
def known(client: httpx.Client) -> dict[str, Any]:
    """An order that is good, the id of its run, and the description of the API."""
    asked = order(client, steps=1)
    id = client.post("/api/runs", json=asked).json()["id"]
    assert finished(client, id)["state"] == "done"
    return {"order": asked, "run": id, "api": client.get("/openapi.json").json()}


@st.composite
def bodies(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """Any bytes, any JSON, or a good order with something else in it."""
    kind = draw(st.sampled_from(["bytes", "json", "parts", "options", "options"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    body: Any = draw(JSON)
    if kind == "parts":
        body = good | draw(
            st.dictionaries(st.sampled_from([*good, "preset", "quality", "x"]), JSON, min_size=1, max_size=2)
        )
    if kind == "options":
        changed = draw(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, min_size=1, max_size=3))
        body = good | {"options": TINY | {"steps": 1} | changed}
    return json.dumps(body).encode()


def check(answer: httpx.Response, operation: dict[str, Any]) -> None:
    """The status is one that the description has, and a refusal has its shape."""
    assert answer.status_code < 500, answer.text
    assert str(answer.status_code) in operation["responses"] or answer.status_code in (307, 405), answer.text
    if answer.status_code >= 400:
        fault = answer.json()["error"]
        assert (
            fault["message"]
            and "\n" not in fault["message"]
            and set(fault) == {*("message", "remedy", "option", "exit_code", "kind")}
        )


def test_a_body_that_is_no_text_is_refused_as_described(client: httpx.Client, known: dict[str, Any]) -> None:
    """What Schemathesis has found."""
    answer = client.post("/api/runs", content=b"\xff", headers={"content-type": "application/json"})
    check(answer, known["api"]["paths"]["/api/runs"]["post"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_is_answered_by_a_fault(client: httpx.Client, known: dict[str, Any], data: st.DataObject) -> None:
    path, methods = data.draw(st.sampled_from([each for each in known["api"]["paths"].items() if each[0] != SLOW]))
    method = data.draw(st.sampled_from(sorted(methods)))
    id = data.draw(SEGMENTS if method == "delete" else SEGMENTS | st.just(known["run"])) if "{id}" in path else ""
    url = httpx.URL(str(client.base_url)).copy_with(
        raw_path=httpx.URL(f"http://x{path}".replace("{id}", "ID")).raw_path
    )
    url = httpx.URL(str(url).replace("ID", "".join(f"%{byte:02x}" for byte in id.encode("utf-8", "replace"))))
    headers = {
        "content-type": data.draw(
            st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=x"])
        )
    }
    content = data.draw(bodies(known["order"])) if method == "post" else None
    answer = client.request(method, url, content=content, headers=headers)
    check(answer, methods[method])
    if answer.status_code == 201 and path == "/api/runs":
        made = answer.json()["id"]
        client.post(f"/api/runs/{made}/stop")
        finished(client, made)
        client.delete(f"/api/runs/{made}")
