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
        with urllib.request.urlopen(request, timeout=60) as answer:
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
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = call("POST", f"{base}/session", wanted)["sessionId"]
        try:
            yield Browser(base, session)
        finally:
            call("DELETE", f"{base}/session/{session}")
    finally:
        process.terminate()
        process.communicate(timeout=20)
