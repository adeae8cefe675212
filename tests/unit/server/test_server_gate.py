"""Who may come in: hosts, origins, tokens; how much they may send; and what every answer says to browsers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="no server: pip install 'nst-fast[ui]'")

from served import PATIENCE, in_process, upload
from starlette.types import Message, Receive, Scope, Send

from nst_fast.errors import UsageError
from nst_fast.server import gate
from nst_fast.server.gate import Doors, token_for

TOKEN = "a-token-of-this-test"
OPEN = Doors("0.0.0.0", TOKEN, ("paint.example.org",))


@pytest.mark.parametrize(
    "host", ["evil.example.org", "evil.example.org:8765", "127.0.0.1.evil.org", "", "10.0.0.1", "[::1"]
)
def test_a_foreign_host_is_refused(host: str, tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        assert client.get("/api/runs", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1234", "[::1]:8765", "127.0.0.1"])
def test_this_machine_is_let_in_through_any_port(host: str, tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        assert client.get("/api/runs", headers={"host": host}).status_code == 200
        assert client.get("/api/runs", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example.org", "null", "http://127.0.0.1:9999", "http://[::1"])
def test_a_foreign_origin_is_refused(origin: str, tmp_path: Path) -> None:
    with in_process(tmp_path) as client:
        for method in ("GET", "POST"):
            assert client.request(method, "/api/uploads", headers={"origin": origin}).status_code == 403
        assert client.post("/api/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_beyond_this_machine_everything_wants_the_token(tmp_path: Path) -> None:
    with in_process(tmp_path, OPEN, page=True) as client:
        client.headers["host"] = "paint.example.org"
        for path in ("/", "/page/main.js", "/api/runs", "/docs", "/openapi.json", "/?token=wrong"):
            assert client.get(path).status_code == 401, path
        assert client.get("/api/runs", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.post(f"/api/runs?token={TOKEN}").status_code == 401


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_do_not_see(tmp_path: Path) -> None:
    with in_process(tmp_path, OPEN, page=True) as client:
        client.headers["host"] = "paint.example.org"
        answer = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
        assert client.get("/").status_code == 200


def test_an_open_server_knows_addresses_and_its_names_alone(tmp_path: Path) -> None:
    with in_process(tmp_path, OPEN) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        codes = {name: client.get("/api/runs", headers={"host": name}).status_code for name in ("10.0.0.7", "x.org")}
        assert codes == {"10.0.0.7": 200, "x.org": 403}


def test_tokens() -> None:
    assert token_for("127.0.0.1", {}) == token_for("localhost", {}) == ""
    assert len(token_for("0.0.0.0", {})) > 40
    assert token_for("127.0.0.1", {gate.TOKEN_VARIABLE: TOKEN}) == TOKEN
    with pytest.raises(UsageError, match="16"):
        token_for("0.0.0.0", {gate.TOKEN_VARIABLE: "short"})


def test_a_body_may_not_be_too_long_whether_it_says_so_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "UPLOAD_BYTES", 10_000)
    with in_process(tmp_path) as client:
        answer = upload(client, bytes(20_000))
        assert (answer.status_code, answer.json()["error"]["option"]) == (413, "file")
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        pieces = (piece for piece in (head, *[bytes(4000)] * 5))  # a form as far as it is read
        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert client.post("/api/uploads", content=pieces, headers=kind).status_code == 413
        assert client.post("/api/runs", content=bytes(2**20 + 1)).status_code == 413
    assert list((tmp_path / "uploads").iterdir()) == []


def test_every_answer_keeps_other_sites_out(tmp_path: Path) -> None:
    with in_process(tmp_path, page=True) as client:
        for path in ("/", "/api/runs", "/nowhere", "/docs"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers


def test_a_fault_is_one_line_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError("of this test")

    monkeypatch.setattr("nst_fast.api.devices", fail)
    with in_process(tmp_path) as client:
        answer = client.get("/api/about")
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "ZeroDivisionError: of this test"
        assert client.get("/api/runs").status_code == 200


def test_an_answer_that_the_ending_server_does_not_wait_for_is_a_refusal(tmp_path: Path) -> None:
    sent: list[Message] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(PATIENCE)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def ended() -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/samples", "headers": [(b"host", b"127.0.0.1")]}
        answer = asyncio.create_task(gate.Gate(slow, Doors(), pytest.fail)(scope, receive, send))
        await asyncio.sleep(0)
        answer.cancel()
        await answer

    asyncio.run(ended())
    assert sent[0]["status"] == 503 and b"ending" in sent[1]["body"]
