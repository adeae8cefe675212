"""A headless Chromium for tests, driven over the WebDriver protocol with the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for an element's id
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Left": "\ue012", "Right": "\ue014", "Down": "\ue015"}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900")


class Browser:
    """One window."""

    def __init__(self, driver: str, session: str) -> None:
        self._base = f"{driver}/session/{session}"

    def open(self, address: str) -> None:
        call("POST", f"{self._base}/url", {"url": address})

    def element(self, selector: str) -> str:
        found = call("POST", f"{self._base}/element", {"using": "css selector", "value": selector})
        return f"{self._base}/element/{found[ELEMENT]}"

    def type(self, selector: str, text: str) -> None:
        """Type into an element; into a file input, the file's path."""
        call("POST", f"{self.element(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        call("POST", f"{self.element(selector)}/click", {})

    def run(self, script: str) -> Any:
        """The value that a function body returns."""
        return call("POST", f"{self._base}/execute/sync", {"script": script, "args": []})

    def keys(self, *names: str) -> None:
        """Press keys, one after the other, whatever has the focus: names of :data:`KEYS`, or characters."""
        pressed = [KEYS.get(name, name) for name in names]
        moves = [{"type": kind, "value": key} for key in pressed for kind in ("keyDown", "keyUp")]
        call("POST", f"{self._base}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": moves}]})

    def drag(self, selector: str, *places: tuple[float, float]) -> None:
        """Press a mouse's button in an element, move through places in it, and let go.

        Args:
            places: shares of the element's width and height.
        """
        x, y, width, height = self.run(
            f"const box = document.querySelector('{selector}').getBoundingClientRect();"
            "return [box.x, box.y, box.width, box.height]"
        )
        moves = [
            {"type": "pointerMove", "duration": 20, "x": round(x + right * width), "y": round(y + down * height)}
            for right, down in places
        ]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        call("POST", f"{self._base}/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return call("POST", f"{self._base}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited; the page's own content policy does not apply."""
        answer = self.devtools("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        entries = call("POST", f"{self._base}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def tab(self) -> str:
        """Open another tab and go to it; the one that was left, for :meth:`go_to`."""
        left: str = call("GET", f"{self._base}/window")
        self.go_to(call("POST", f"{self._base}/window/new", {"type": "tab"})["handle"])
        return left

    def go_to(self, tab: str) -> None:
        call("POST", f"{self._base}/window", {"handle": tab})

    def screenshot(self) -> bytes:
        return base64.b64decode(call("GET", f"{self._base}/screenshot"))

    def wait(self, script: str, seconds: float) -> Any:
        """Poll a function body until it returns something true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                text = self.run("return document.body.innerText")
                raise AssertionError(f"waited {seconds} s in vain for {script!r}; the page says: {text}")
            time.sleep(0.2)
        return value


def call(method: str, address: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{method} {address}: {json.load(error)['value']['message']}") from None


@contextmanager
def chromium(downloads: Path) -> Iterator[Browser]:
    """A browser that saves into a folder; skips the test where Chromium and its driver are not installed."""
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (binary and driver):
        pytest.skip("no chromium with chromedriver (apt-get install chromium chromium-driver)")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "started successfully on port" in line)
        base = f"http://127.0.0.1:{said.rstrip().rstrip('.').rsplit(' ', 1)[1]}"
        preferences = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
        options = {"binary": binary, "args": list(FLAGS), "prefs": preferences}
        logged = {"goog:loggingPrefs": {"performance": "ALL"}}  # where the requests are
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, **logged}}}
        session = call("POST", f"{base}/session", wanted)["sessionId"]
        try:
            yield Browser(base, session)
        finally:
            call("DELETE", f"{base}/session/{session}")
    finally:
        process.terminate()
        process.communicate(timeout=20)
