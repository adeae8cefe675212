from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nst_fast.errors import DeviceError, OnnxModelError, UsageError
from nst_fast.onnx import session as session_module
from nst_fast.onnx.providers import PROVIDERS, CudaOptions, TensorrtOptions
from nst_fast.onnx.runtime import ORT_ERRORS, ProviderStatus, SessionConfig, engine_key, open_session
from nst_fast.onnx.session import Session, check_placement, make_session, probe_provider

no_cuda = pytest.mark.skipif(probe_provider("cuda").works, reason="CUDA works here, so it cannot be missed")
lists_cuda = pytest.mark.skipif(
    PROVIDERS["cuda"] not in onnxruntime.get_available_providers(), reason="a CPU-only ONNX Runtime is installed"
)
GPU_PROVIDERS = [
    pytest.param(
        name,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not probe_provider(name).works, reason=probe_provider(name).detail)],
    )
    for name in ("cuda", "tensorrt")
]


def make_model(
    sizes: Sequence[int | str] = ("height", "width"), *, opset: int = 18, ir_version: int = 10, seed: int = 0
) -> bytes:
    """A small encoder: a convolution (tap ``conv``) and its ReLU (tap ``relu``)."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *sizes])
    taps = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, *sizes]) for name in ("conv", "relu")]
    values = np.random.default_rng(seed).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
    ]
    graph = helper.make_graph(nodes, "encoder", [image], taps, [numpy_helper.from_array(values, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return bytes(model.SerializeToString())


def make_sum() -> bytes:
    """A model of two inputs: a + b."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["sum"])], "add", sides[:2], sides[2:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


def make_image(height: int = 9, width: int = 13) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(make_model(), threads=1)


def test_what_is_asked_for_on_the_cpu_is_what_runs(session: Session) -> None:
    assert (session.requested, session.actual, session.warnings) == ("cpu", "cpu", ())
    assert session.inputs == {"image": (1, 3, "height", "width")}
    assert session.outputs == ["conv", "relu"]


def test_a_bound_run_equals_a_plain_run(session: Session) -> None:
    image = make_image()
    plain = onnxruntime.InferenceSession(make_model(), providers=["CPUExecutionProvider"])
    expected = dict(zip(("conv", "relu"), plain.run(["conv", "relu"], {"image": image}), strict=True))
    actual = session.run(image)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (1, 5)])
def test_one_session_serves_every_size(session: Session, size: tuple[int, int]) -> None:
    found = session.run(make_image(*size))
    assert found["relu"].shape == (1, 8, *size)
    np.testing.assert_array_equal(found["relu"], np.maximum(found["conv"], 0))


def test_outputs_of_one_run_survive_the_next(session: Session) -> None:
    first = session.run(make_image())["conv"]
    kept = first.copy()
    session.run(2 * make_image())
    np.testing.assert_array_equal(first, kept)


def test_a_binding_runs_many_times_on_the_same_inputs(session: Session) -> None:
    binding = session.bind({"image": make_image()})
    binding.run()
    first = binding.outputs()
    binding.run()
    np.testing.assert_array_equal(binding.outputs()["relu"], first["relu"])
    np.testing.assert_array_equal(first["relu"], session.run(make_image())["relu"])


def test_a_binding_keeps_its_inputs_alive(session: Session) -> None:
    image = make_image()
    alive = weakref.ref(image)
    binding = session.bind({"image": image})
    del image
    gc.collect()
    assert alive() is not None
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
    with pytest.raises(OnnxModelError, match="the model takes a, b; it was given an image alone"):
        adder.run(make_image())


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"picture": make_image()}, "the model takes image; it was given picture"),
        ({"image": make_image().astype(np.float64)}, "float64"),
        ({"image": make_image()[0]}, "3x9x13"),
        ({"image": np.zeros((1, 4, 8, 8), np.float32)}, "1x4x8x8"),
        ({}, "the model takes image"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(session: Session, feeds: dict[str, Any], words: str) -> None:
    with pytest.raises(OnnxModelError, match=words):
        session.evaluate(feeds)


def test_a_model_of_one_size_refuses_another() -> None:
    fixed = make_session(make_model((16, 16)))
    assert fixed.run(make_image(16, 16))["relu"].shape == (1, 8, 16, 16)
    with pytest.raises(OnnxModelError, match="1x3x16x16; it was given float32 of 1x3x9x13"):
        fixed.run(make_image())


def test_what_fails_while_running_is_one_of_our_errors(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    binding = session.bind({"image": make_image()})
    binding._binding.clear_binding_inputs()
    with pytest.raises(OnnxModelError, match="the model cannot be run"):
        binding.run()


def test_deterministic_runs_give_the_same_bits() -> None:
    runs = [make_session(make_model(), deterministic=True).run(make_image())["conv"] for _ in range(2)]
    np.testing.assert_array_equal(*runs)


def test_a_file_and_its_bytes_are_the_same_model(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "a model.onnx"
    path.write_bytes(make_model())
    np.testing.assert_array_equal(make_session(path).run(make_image())["conv"], session.run(make_image())["conv"])


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
    ("model", "words"),
    [
        (make_model(opset=99), r"it has opset 99, ONNX Runtime \S+ knows opset \d+ at most"),
        (make_model(ir_version=99), r"it has IR version 99, ONNX Runtime \S+ knows IR version \d+ at most"),
    ],
    ids=["opset", "ir"],
)
def test_a_model_newer_than_the_runtime_names_both_versions(model: bytes, words: str) -> None:
    with pytest.raises(OnnxModelError, match=words) as caught:
        make_session(model)
    assert caught.value.remedy.startswith("pip install --upgrade onnxruntime")


def test_an_unknown_provider_is_refused_even_with_fallback() -> None:
    with pytest.raises(UsageError, match="unknown provider"):
        make_session(make_model(), "directml", allow_fallback=True)


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


def test_tensorrt_falls_back_to_cuda_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {name: ProviderStatus(name, name != "tensorrt", "libnvinfer.so.10 not found") for name in PROVIDERS}
    monkeypatch.setattr(session_module, "probe_provider", status.__getitem__)
    chosen, warnings = session_module._choose("tensorrt", allow_fallback=True)
    assert chosen == "cuda"
    assert warnings == ["provider tensorrt does not work, cuda is used instead: libnvinfer.so.10 not found"]


@no_cuda
@lists_cuda
def test_a_session_that_lands_on_the_cpu_behind_a_good_probe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: ONNX Runtime is asked for CUDA, cannot load it, and would give a CPU session."""
    monkeypatch.setattr(session_module, "probe_provider", lambda name: ProviderStatus(name, True))
    monkeypatch.setattr(session_module, "check_provider", lambda name: None)
    with pytest.raises(DeviceError, match="cannot be loaded on cuda"):
        make_session(make_model(), "cuda")


@no_cuda
@lists_cuda
def test_a_strict_session_is_refused_in_the_words_that_are_waited_for() -> None:
    with pytest.raises(ORT_ERRORS, match=session_module.CPU_NODES):
        open_session(make_model(), "cuda", SessionConfig(), strict=True)


CONVS = ["Conv", "Relu", "Conv", "Relu"]


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
    assert found[0] == actual
    assert complaint in found[1]
    assert bool(found[1]) == bool(complaint)
    assert found[2] == grave


def test_the_placement_is_read_back_from_the_session(session: Session) -> None:
    (operators,) = session_module._placement(session.session).values()
    assert any("Conv" in operator for operator in operators)


def place(monkeypatch: pytest.MonkeyPatch, placed: dict[str, list[str]]) -> None:
    """A machine on which CUDA works and ONNX Runtime places the nodes so; the session itself is one of the CPU."""
    cpu = make_session(make_model()).session
    monkeypatch.setattr(session_module, "probe_provider", lambda name: ProviderStatus(name, True))
    monkeypatch.setattr(session_module, "check_provider", lambda name: None)
    monkeypatch.setattr(session_module, "_placement", lambda session: placed)

    def open_session(model: Any, provider: str, config: Any, *, strict: bool) -> Any:
        if strict and placed.get("cpu"):
            raise RuntimeError("nodes are assigned to the CPU, but fallback to CPU EP has been explicitly disabled")
        return cpu

    monkeypatch.setattr(session_module, "open_session", open_session)


def test_a_convolution_on_the_cpu_stops_a_cuda_session(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, {"cuda": ["Relu"], "cpu": ["Conv"]})
    with pytest.raises(DeviceError, match=r"does not run the whole model: 1 of 2 nodes .* \(1 Conv on cpu\)"):
        make_session(make_model(), "cuda")
    allowed = make_session(make_model(), "cuda", allow_fallback=True)
    assert allowed.actual == "cuda"
    assert "1 Conv on cpu" in allowed.warnings[0]


def test_whether_tensorrt_builds_its_engine_or_finds_it_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place(monkeypatch, {"tensorrt": CONVS})
    model, options = make_model((8, 8)), TensorrtOptions(cache=tmp_path, precision="fp16")
    assert make_session(model, "tensorrt", tensorrt=options).engine == "built"
    (tmp_path / f"{engine_key(model, options).prefix}_sm90.engine").touch()
    kept = make_session(model, "tensorrt", tensorrt=options)
    assert (kept.engine, kept.actual) == ("kept", "tensorrt")
    assert kept.seconds > 0
    for other in (make_model((8, 8), seed=1), make_model((8, 9))):  # other weights, another size
        assert make_session(other, "tensorrt", tensorrt=options).engine == "built"
    for changed in ({"precision": "fp32"}, {"cache": None}):
        assert make_session(model, "tensorrt", tensorrt=replace(options, **changed)).engine == "built"
    assert make_session(model, "cuda", allow_fallback=True).engine == ""


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_only_a_session_on_a_gpu_captures_its_launches(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    place(monkeypatch, {provider: CONVS})
    wish = {"cuda": CudaOptions(cuda_graph=True), "tensorrt": TensorrtOptions(cuda_graph=True)}
    assert make_session(make_model(), provider, **wish).cuda_graph
    assert not make_session(make_model(), provider).cuda_graph
    monkeypatch.undo()
    assert not make_session(make_model(), "cpu", **wish).cuda_graph


def test_sizes_computed_on_the_cpu_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, {"cuda": CONVS, "cpu": ["Shape", "Gather"]})
    tolerated = make_session(make_model(), "cuda")
    assert tolerated.actual == "cuda"
    assert "1 Shape, 1 Gather on cpu" in tolerated.warnings[0]


@pytest.mark.parametrize("provider", GPU_PROVIDERS)
def test_a_gpu_computes_what_the_cpu_computes(provider: str, session: Session) -> None:
    gpu = make_session(make_model(), provider)
    assert (gpu.actual, gpu.warnings) == (provider, ())
    image = make_image(33, 47)
    for name, expected in session.run(image).items():
        np.testing.assert_allclose(gpu.run(image)[name], expected, rtol=5e-3, atol=5e-3)
