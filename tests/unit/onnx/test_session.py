"""Sessions compute where they were asked to, or say why not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nst_fast.errors import DeviceError, OnnxModelError, OutOfMemoryError
from nst_fast.onnx import libraries
from nst_fast.onnx import session as session_module
from nst_fast.onnx.graph.writer import GraphWriter
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import (
    ORT_ERRORS,
    ProviderStatus,
    Session,
    check_placement,
    engine_prefix,
    failure,
    make_session,
    one_line,
    open_session,
    probe_provider,
    provider_list,
    session_options,
)
from nst_fast.options.providers import PROVIDERS
from nst_fast.system.machine import CudaDriver, Gpu

no_cuda = pytest.mark.skipif(probe_provider("cuda").works, reason="CUDA works here, so it cannot be missed")
lists_cuda = pytest.mark.skipif(
    PROVIDERS["cuda"].ep not in onnxruntime.get_available_providers(), reason="a CPU-only ONNX Runtime is installed"
)
GPU_PROVIDERS = [
    pytest.param(
        name,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not probe_provider(name).works, reason=probe_provider(name).detail)],
    )
    for name in ("cuda", "tensorrt")
]
CONVS = ["Conv", "Relu", "Conv", "Relu"]


def make_model(
    sizes: Sequence[int | str] = ("height", "width"), *, seed: int = 0, opset: int = 18, ir_version: int = 10
) -> bytes:
    """A small encoder: a convolution (tap ``conv``) and its ReLU (tap ``relu``)."""
    writer = GraphWriter("fp32")
    values = np.random.default_rng(seed).standard_normal((8, 3, 3, 3)).astype(np.float32)
    conv = writer.op("Conv", writer.input("image", [1, 3, *sizes]), writer.constant(values), pads=[1, 1, 1, 1])
    relu = writer.op("Relu", conv)
    for name, value in (("conv", conv), ("relu", relu)):
        writer.output(name, value, [1, 8, *sizes])
    model = writer.model("encoder", opset)
    model.ir_version = ir_version
    return bytes(model.SerializeToString())


def make_sum() -> bytes:
    """A model of two inputs: a + b."""
    writer = GraphWriter("fp32")
    writer.output("sum", writer.op("Add", *(writer.input(name, ["n"]) for name in "ab")), ["n"])
    return bytes(writer.model("add", 18).SerializeToString())


def make_image(height: int = 9, width: int = 13) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(make_model(), config=SessionConfig(threads=1))


@pytest.mark.parametrize("size", [(9, 13), (8, 8), (33, 47), (1, 5)])
def test_one_session_serves_every_size_and_equals_a_plain_run(session: Session, size: tuple[int, int]) -> None:
    assert (session.requested, session.actual, session.warnings) == ("cpu", "cpu", ())
    image = make_image(*size)
    plain = onnxruntime.InferenceSession(make_model(), providers=["CPUExecutionProvider"])
    actual = session.run(image)
    assert list(actual) == ["conv", "relu"]
    for name, values in zip(actual, plain.run(["conv", "relu"], {"image": image}), strict=True):
        np.testing.assert_allclose(actual[name], values, rtol=1e-6, atol=1e-6)


def test_outputs_of_one_run_survive_the_next(session: Session) -> None:
    first = session.run(make_image())["conv"]
    kept = first.copy()
    session.run(2 * make_image())
    np.testing.assert_array_equal(first, kept)


def test_a_binding_keeps_its_inputs_alive_and_runs_many_times(session: Session) -> None:
    image = make_image()
    alive = weakref.ref(image)
    binding = session.bind({"image": image})
    del image
    gc.collect()
    assert alive() is not None
    for _ in range(2):
        binding.run()
        np.testing.assert_array_equal(binding.outputs()["relu"], session.run(make_image())["relu"])


def test_strided_and_read_only_images_are_read_as_they_are(session: Session) -> None:
    image = make_image()
    channels_last = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    channels_last.flags.writeable = False
    np.testing.assert_array_equal(session.run(channels_last)["conv"], session.run(image)["conv"])


def test_models_of_several_inputs_are_fed_by_name() -> None:
    adder = make_session(make_sum())
    feeds = {"b": np.float32([1, 2]), "a": np.float32([10, 20])}
    np.testing.assert_array_equal(adder.evaluate(feeds)["sum"], [11, 22])
    with pytest.raises(OnnxModelError, match="the model takes a, b; it was given a"):
        adder.run(make_image())


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"picture": make_image()}, "the model takes image; it was given picture"),
        ({"image": make_image().astype(np.float64)}, r"data type.*double"),
        ({"image": make_image()[0]}, "rank for input: image Got: 3 Expected: 4"),
        ({"image": np.zeros((1, 4, 8, 8), np.float32)}, "index: 1 Got: 4 Expected: 3"),
        ({}, "the model takes image"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(session: Session, feeds: dict[str, Any], words: str) -> None:
    with pytest.raises(OnnxModelError, match=words):
        session.evaluate(feeds)


def test_a_model_of_one_size_refuses_another() -> None:
    fixed = make_session(make_model((16, 16)))
    assert fixed.run(make_image(16, 16))["relu"].shape == (1, 8, 16, 16)
    with pytest.raises(OnnxModelError, match="index: 2 Got: 9 Expected: 16"):
        fixed.run(make_image())


def test_a_failure_while_running_is_one_of_our_errors(session: Session) -> None:
    binding = session.bind({"image": make_image()})
    binding._binding.clear_binding_inputs()
    with pytest.raises(OnnxModelError, match="the model cannot be run"):
        binding.run()


def test_a_file_and_its_bytes_are_the_same_model_and_deterministic_runs_give_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "a model.onnx"
    path.write_bytes(make_model())
    config = SessionConfig(deterministic=True)
    runs = [make_session(model, config=config).run(make_image())["conv"] for model in (path, path.read_bytes())]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, make_model()[:60]], ids=["empty", "garbage", "cut"])
def test_a_damaged_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for model in (path, content):
        with pytest.raises(OnnxModelError, match="cannot be loaded") as caught:
            make_session(model)
        assert caught.value.exit_code == 5
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.onnx", ""], ids=["missing", "folder"])
def test_a_model_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxModelError, match="there is no such file"):
        make_session(tmp_path / name)


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"opset": 99}, r"it has opset 99, ONNX Runtime \S+ knows opset \d+ at most"),
        ({"ir_version": 99}, r"it has IR version 99, ONNX Runtime \S+ knows IR version \d+ at most"),
    ],
    ids=["opset", "ir"],
)
def test_a_model_newer_than_the_runtime_names_both_versions(versions: dict[str, int], words: str) -> None:
    with pytest.raises(OnnxModelError, match=words) as caught:
        make_session(make_model(**versions))
    assert caught.value.remedy.startswith("pip install --upgrade onnxruntime")


@no_cuda
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_an_error_in_one_line_with_a_remedy(provider: str) -> None:
    with pytest.raises(DeviceError, match=f"provider {provider} does not work") as caught:
        make_session(make_model(), provider)
    assert caught.value.exit_code == 6
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@no_cuda
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_fallback_that_is_allowed_is_taken_and_told(provider: str) -> None:
    fallback = make_session(make_model(), provider, allow_fallback=True)
    assert (fallback.requested, fallback.actual) == (provider, "cpu")
    assert f"provider {provider} does not work, cpu is used instead" in fallback.warnings[0]
    assert fallback.run(make_image())["relu"].shape == (1, 8, 9, 13)


@no_cuda
@lists_cuda
def test_a_strict_session_is_refused_in_the_words_that_are_waited_for() -> None:
    with pytest.raises(ORT_ERRORS, match=session_module.CPU_NODES):
        open_session(make_model(), "cuda", SessionConfig(), strict=True)


@pytest.mark.parametrize(
    ("placed", "provider", "actual", "complaint", "grave"),
    [
        ({"cpu": CONVS}, "cpu", "cpu", "", False),
        ({"cuda": CONVS}, "cuda", "cuda", "", False),
        ({}, "cuda", "cuda", "", False),
        ({"cuda": CONVS, "cpu": ["Resize"]}, "cuda", "cuda", "1 of 5 nodes do not run on cuda (1 Resize on cpu)", True),
        ({"cuda": CONVS, "cpu": ["Shape", "Gather"]}, "cuda", "cuda", "2 of 6 nodes", False),
        ({"cpu": CONVS}, "cuda", "cpu", "no node runs on cuda, all run on cpu", True),
        ({"tensorrt": CONVS, "cuda": ["Pad", "Pad"]}, "tensorrt", "tensorrt", "2 Pad on cuda", False),
        ({"tensorrt": CONVS, "cpu": ["MaxUnpool"]}, "tensorrt", "tensorrt", "1 MaxUnpool on cpu", True),
        ({"cuda": CONVS}, "tensorrt", "cuda", "no node runs on tensorrt, all run on cuda", True),
        ({"cpu": ["Shape"], "cuda": CONVS}, "tensorrt", "cuda", "no node runs on tensorrt", True),
    ],
)
def test_nodes_elsewhere_are_judged(
    placed: dict[str, list[str]], provider: str, actual: str, complaint: str, grave: bool
) -> None:
    found = check_placement(placed, provider)
    assert complaint in found[1]
    assert (found[0], bool(found[1]), found[2]) == (actual, bool(complaint), grave)


Place = Callable[[dict[str, list[str]]], None]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose probes of every provider succeed."""
    monkeypatch.setattr(session_module, "probe_provider", lambda name: ProviderStatus(name, "works"))
    return monkeypatch


@pytest.fixture
def place(probed: pytest.MonkeyPatch) -> Place:
    """Makes ONNX Runtime place the nodes as given; the session itself is one of the CPU."""
    cpu = make_session(make_model()).session

    def on(placed: dict[str, list[str]]) -> None:
        def open_session(model: Any, provider: str, config: Any, *, strict: bool) -> Any:
            if strict and placed.get("cpu"):
                raise RuntimeError("nodes are assigned to the CPU, but fallback to CPU EP has been explicitly disabled")
            return cpu

        probed.setattr(session_module, "open_session", open_session)
        probed.setattr(session_module, "_placement", lambda session, asked: placed)

    return on


@no_cuda
@lists_cuda
def test_a_session_that_lands_on_the_cpu_behind_a_good_probe_is_an_error(probed: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is asked for CUDA, cannot load it, and would give a CPU session."""
    with pytest.raises(DeviceError, match="cannot be loaded on cuda"):
        make_session(make_model(), "cuda")


def test_tensorrt_falls_back_to_cuda_where_that_works(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    place({"cuda": CONVS})
    status = {
        name: ProviderStatus(name, "refused" if name == "tensorrt" else "works", "libnvinfer.so.10 not found")
        for name in PROVIDERS
    }
    monkeypatch.setattr(session_module, "probe_provider", status.__getitem__)
    fallback = make_session(make_model(), "tensorrt", allow_fallback=True)
    assert (fallback.requested, fallback.actual) == ("tensorrt", "cuda")
    assert fallback.warnings == ("provider tensorrt does not work, cuda is used instead: libnvinfer.so.10 not found",)


def test_a_convolution_on_the_cpu_stops_a_cuda_session(place: Place) -> None:
    place({"cuda": CONVS, "cpu": ["Shape", "Gather"]})  # of sizes: a warning
    assert "1 Shape, 1 Gather on cpu" in make_session(make_model(), "cuda").warnings[0]
    place({"cuda": ["Relu"], "cpu": ["Conv"]})
    with pytest.raises(DeviceError, match=r"does not run the whole model: 1 of 2 nodes .* \(1 Conv on cpu\)"):
        make_session(make_model(), "cuda")
    allowed = make_session(make_model(), "cuda", allow_fallback=True)
    assert allowed.actual == "cuda"
    assert "1 Conv on cpu" in allowed.warnings[0]


def test_whether_tensorrt_builds_its_engine_or_finds_it_is_known(place: Place, tmp_path: Path) -> None:
    place({"tensorrt": CONVS})
    model, config = make_model((8, 8)), SessionConfig(engine_cache=tmp_path, precision="fp16")
    assert make_session(model, "tensorrt", config).engine == "built"
    (tmp_path / f"{engine_prefix(model, config)}_sm90.engine").touch()
    kept = make_session(model, "tensorrt", config)
    assert (kept.engine, kept.actual) == ("kept", "tensorrt")
    assert kept.seconds > 0
    for other in (make_model((8, 8), seed=1), make_model((8, 9))):  # other weights, another size
        assert make_session(other, "tensorrt", config).engine == "built"
    for changed in ({"precision": "fp32"}, {"engine_cache": None}):
        assert make_session(model, "tensorrt", replace(config, **changed)).engine == "built"
    assert make_session(model, "cuda", allow_fallback=True).engine == ""


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_only_a_session_on_a_gpu_captures_its_launches(place: Place, provider: str) -> None:
    place({provider: CONVS})
    captured = SessionConfig(cuda_graph=True)
    assert make_session(make_model(), provider, captured).cuda_graph
    assert not make_session(make_model(), provider).cuda_graph
    place({"cpu": CONVS})
    assert not make_session(make_model(), "cpu", captured).cuda_graph


@pytest.mark.parametrize("provider", GPU_PROVIDERS)
def test_a_gpu_computes_what_the_cpu_computes(provider: str, session: Session) -> None:
    gpu = make_session(make_model(), provider)
    assert (gpu.actual, gpu.warnings) == (provider, ())
    image = make_image(33, 47)
    for name, expected in session.run(image).items():
        np.testing.assert_allclose(gpu.run(image)[name], expected, rtol=5e-3, atol=5e-3)


def test_a_session_on_another_provider_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime drops a provider that cannot load and continues without it."""

    class Silent:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert options["enable_fallback"] == 0

        def get_providers(self) -> list[str]:
            return [PROVIDERS["cpu"].ep]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        open_session(b"", "cuda", SessionConfig(), strict=False)


@pytest.mark.parametrize(
    ("config", "strict", "entry", "value"),
    [
        (SessionConfig(), True, "session.disable_cpu_ep_fallback", "1"),
        (SessionConfig(), False, "session.disable_cpu_ep_fallback", "0"),
        (SessionConfig(), False, "session.intra_op.allow_spinning", "0"),
        (SessionConfig(), False, "session.set_denormal_as_zero", "1"),
        (
            SessionConfig(deterministic=True, threads=3),
            False,
            "session.set_denormal_as_zero",
            "0",
        ),  # every bit must be the same
    ],
)
def test_sessions_are_configured_as_their_entries_say(
    config: SessionConfig, strict: bool, entry: str, value: str
) -> None:
    options = session_options(config, strict=strict)
    assert options.get_session_config_entry(entry) == value
    assert options.use_deterministic_compute == config.deterministic
    assert options.log_severity_level == session_module.FATAL
    assert config.threads is None or options.intra_op_num_threads == config.threads


def test_a_gpu_session_never_lists_the_cpu_and_tensorrt_stands_before_cuda() -> None:
    names = {name: [full for full, _ in provider_list(row, b"", SessionConfig())] for name, row in PROVIDERS.items()}
    assert names["cpu"] == ["CPUExecutionProvider"]
    assert names["cuda"] == ["CUDAExecutionProvider"]
    assert names["tensorrt"] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert names["coreml"] == ["CoreMLExecutionProvider"]


def test_whatever_an_engine_depends_on_changes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = SessionConfig(precision="fp16")

    def names(gpu: Gpu, tensorrt: str, runtime: str = "1.31.1") -> list[str]:
        monkeypatch.setattr(session_module, "cuda_driver", lambda: CudaDriver((13, 2), (gpu,)))
        monkeypatch.setattr(libraries, "tensorrt_version", lambda: tensorrt)
        monkeypatch.setattr(onnxruntime, "__version__", runtime)
        others = (replace(half, precision="fp32"), replace(half, profile={"image": ((1, 3, 64, 64),) * 3}))
        return [engine_prefix(b"model", half), engine_prefix(b"modem", half), *(engine_prefix(b"", o) for o in others)]

    found = names(Gpu("NVIDIA H200", 90, 143_000), "10.16.1.11")
    (tmp_path / "m.onnx").write_bytes(b"model")
    assert engine_prefix(tmp_path / "m.onnx", half) == found[0]
    found += names(Gpu("NVIDIA H100", 90, 143_000), "10.16.1.11")
    found += names(Gpu("NVIDIA H200", 100, 143_000), "10.16.1.11")
    found += names(Gpu("NVIDIA H200", 90, 143_000), "10.16.2.0")
    found += names(Gpu("NVIDIA H200", 90, 143_000), "10.16.1.11", "1.32.0")
    assert len(set(found)) == len(found) == 20


@pytest.mark.parametrize(
    ("text", "provider", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 99", "cuda", OutOfMemoryError),
        ("CUDA failure 2: out of memory", "cuda", OutOfMemoryError),
        ("std::bad_alloc", "cuda", OutOfMemoryError),
        ("CUDA failure 719: unspecified launch failure", "cuda", DeviceError),
        ("CUDA failure 719: unspecified launch failure", "cpu", OnnxModelError),
    ],
)
def test_failures_are_of_the_memory_the_device_or_the_model(text: str, provider: str, kind: type) -> None:
    assert type(failure(RuntimeError(text), "the model cannot be run", provider)) is kind


def test_messages_lose_code_source_file_and_line_breaks() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from a b.onnx failed:/onnxruntime_src/onnxruntime/core/graph/"
        "model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::ModelOptions&) "
        "Unsupported\n thing.\n"
    )
    assert one_line(RuntimeError(text)) == "Unsupported thing"
