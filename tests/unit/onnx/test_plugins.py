"""Plugins of ONNX Runtime: found by module, registered once, run where a device is, or refused with the reason."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from processes import python

from nst_fast.errors import DeviceError
from nst_fast.onnx import libraries, plugins
from nst_fast.onnx.session import Binding, make_session, probe_provider
from nst_fast.options.providers import PROVIDERS, find_provider

SOURCE = "def get_ep_name():\n    return {ep!r}\n\n\ndef get_library_path():\n    return {path!r}\n"


class Fake:
    """A plugin of a module that is written, and of devices that ONNX Runtime is made to report."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.registered: list[tuple[str, str]] = []
        patch.syspath_prepend(folder)
        patch.setattr(onnxruntime, "register_execution_provider_library", lambda *both: self.registered.append(both))
        self.devices()

    def module(self, source: str = SOURCE.format(ep="FakeExecutionProvider", path="libfake.so")) -> None:
        (self.folder / "onnxruntime_ep_fake.py").write_text(source)

    def devices(self, *kinds: str, ep: str = "FakeExecutionProvider") -> None:
        made = [
            SimpleNamespace(
                ep_name=ep, device=SimpleNamespace(type=SimpleNamespace(name=kind), vendor=f"maker {number}")
            )
            for number, kind in enumerate(kinds)
        ]
        self.patch.setattr(onnxruntime, "get_ep_devices", lambda: made)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    probe_provider.cache_clear()
    # With a memory of its own: the real plugins stay registered with ONNX Runtime.
    monkeypatch.setattr(plugins, "register", functools.cache(plugins.register.__wrapped__))
    yield Fake(tmp_path, monkeypatch)
    sys.modules.pop("onnxruntime_ep_fake", None)
    probe_provider.cache_clear()


def test_an_installed_plugin_without_a_row_is_listed(fake: Fake) -> None:
    assert "plugin:fake" not in plugins.unlisted()
    fake.module()
    assert "plugin:fake" in plugins.unlisted()


def test_what_is_not_installed_is_absent_and_may_not_bring_another_runtime(fake: Fake) -> None:
    row = replace(PROVIDERS["webgpu"], module="onnxruntime_ep_fake")
    detail = "onnxruntime-ep-webgpu is not installed"
    assert libraries.why_absent(row, ()) == (detail, "pip install --no-deps onnxruntime-ep-webgpu")
    fake.module()
    assert libraries.why_absent(row, ()) is None


def test_a_package_that_nobody_knows_is_not_advised(fake: Fake) -> None:
    status = probe_provider("plugin:fake")
    assert (status.state, status.detail) == ("absent", "there is no module onnxruntime_ep_fake")
    assert "pip" not in status.remedy


def test_a_plugin_is_registered_once_under_its_providers_name(fake: Fake) -> None:
    fake.module()
    assert {plugins.register("onnxruntime_ep_fake") for _ in range(2)} == {"FakeExecutionProvider"}
    assert fake.registered == [("FakeExecutionProvider", "libfake.so")]


def test_functions_may_have_the_shorter_names(fake: Fake) -> None:
    fake.module(SOURCE.format(ep="Short", path="x").replace("get_", ""))
    assert plugins.register("onnxruntime_ep_fake") == "Short"


@pytest.mark.parametrize("source", ["raise OSError('libx.so: not found')", "", "syntax error"])
def test_a_module_that_is_no_plugin_is_refused(source: str, fake: Fake) -> None:
    fake.module(source)
    status = probe_provider("plugin:fake")
    assert status.state == "refused"
    assert "module onnxruntime_ep_fake is no plugin that works" in status.detail


@pytest.mark.parametrize(
    ("name", "kinds", "number", "maker"),
    [
        ("plugin:fake", ["CPU", "GPU", "NPU", "GPU"], 0, "maker 1"),
        ("plugin:fake", ["CPU", "GPU", "NPU", "GPU"], 1, "maker 3"),
        ("plugin:fake", ["CPU", "NPU"], 0, "maker 1"),
        ("plugin:fake:device=cpu", ["GPU", "CPU"], 0, "maker 1"),
    ],
)
def test_the_best_kind_of_device_is_taken(name: str, kinds: list[str], number: int, maker: str, fake: Fake) -> None:
    fake.module()
    fake.devices(*kinds)
    assert plugins.find_device(find_provider(name), number).device.vendor == maker


@pytest.mark.parametrize(
    ("name", "kinds", "detail"),
    [
        ("plugin:fake", [], "it finds no GPU or NPU or CPU here"),
        ("plugin:fake:device=npu", ["CPU", "GPU"], "it finds no NPU here (only CPU, GPU)"),
    ],
)
def test_without_a_device_the_plugin_is_refused(name: str, kinds: list[str], detail: str, fake: Fake) -> None:
    fake.module()
    fake.devices(*kinds)
    status = probe_provider(name)
    assert (status.state, status.detail) == ("refused", detail)
    assert "use the provider cpu" in status.remedy
    with pytest.raises(DeviceError, match="does not work: it finds no"):
        make_session(b"", name)


def test_the_devices_of_others_are_not_taken(fake: Fake) -> None:
    fake.module()
    fake.devices("GPU", ep="AnotherExecutionProvider")
    assert "it finds no GPU" in probe_provider("plugin:fake").detail


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF files: Linux only")
@pytest.mark.parametrize(
    ("lost", "remedy"),
    [("libcuda.so.1", "Install the NVIDIA driver"), ("libno-such.so.7", "Install the system's libraries")],
)
def test_a_library_that_does_not_load_is_named(lost: str, remedy: str, fake: Fake) -> None:
    said = f"Failed to load library /x/libplugin.so with error: {lost}: cannot open shared object file: No such file"
    detail, advice = libraries.diagnosis(find_provider("plugin:fake"), said)
    assert lost in detail and "not found" in detail
    assert advice.startswith(remedy)


def test_a_failed_registration_is_told_in_onnx_runtimes_words(fake: Fake) -> None:
    def refuse(name: str, path: str) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : made for\n another version")

    fake.module()
    fake.patch.setattr(onnxruntime, "register_execution_provider_library", refuse)
    assert probe_provider("plugin:fake").detail == "made for another version"


def test_an_input_of_a_provider_with_memory_of_its_own_is_bound_again_before_every_run() -> None:
    """ONNX Runtime copies it when it is bound: a picture that changed in place would not be seen."""
    events: list[str] = []

    class Io:
        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            events.append(f"bind {name}")

    inner = SimpleNamespace(io_binding=Io, run_with_iobinding=lambda binding, options: events.append("run"))
    for copies, expected in ((True, ["bind x", "bind x", "run", "bind x", "run"]), (False, ["bind x", "run", "run"])):
        events.clear()
        session: Any = SimpleNamespace(session=inner, device="cpu", cuda_graph=False, copies=copies)
        binding = Binding(session, shared=True)
        binding.bind_input("x", torch.zeros(1))
        binding.run()
        binding.run()
        assert events == expected


@pytest.mark.parametrize(
    "name", [name for name, row in PROVIDERS.items() if row.module and libraries.why_absent(row, ()) is None]
)
def test_an_installed_plugin_works_or_the_doctor_says_why_not(name: str) -> None:
    done = python("-m", "nst_fast", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    (status,) = (each for each in json.loads(done.stdout)["providers"] if each["name"] == name)
    assert status["state"] in ("works", "refused")
    assert status["detail"] and (status["works"] or status["remedy"])
