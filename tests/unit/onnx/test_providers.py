from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from nst_fast.errors import ModelError, UsageError
from nst_fast.onnx.libraries import provider_file
from nst_fast.onnx.providers import (
    FALLBACKS,
    PROVIDERS,
    CudaOptions,
    EngineKey,
    TensorrtOptions,
    check_provider_name,
    engine_cache_dir,
)
from nst_fast.options.config import MonitorOptions
from nst_fast.options.declaration import declared

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners of folders are POSIX's")

KEY = EngineKey(
    model_sha256="ab" * 32,
    onnxruntime="1.31.1",
    tensorrt="10.16.1.11",
    gpu="NVIDIA H200",
    sm=90,
    precision="fp16",
    shapes="",
)
PROFILE = {"image": ((1, 3, 64, 64), (1, 3, 512, 512), (1, 3, 1024, 1024))}


def test_the_options_of_the_commands_offer_exactly_these_providers() -> None:
    (provider,) = [item for item in declared(MonitorOptions) if item.name == "monitor_provider"]
    assert provider.option.choices == tuple(PROVIDERS)


def test_an_unknown_provider_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown provider 'tensor_rt'\. Did you mean tensorrt"):
        check_provider_name("tensor_rt")


def test_every_fallback_ends_on_the_cpu_and_none_on_itself() -> None:
    for name in PROVIDERS:
        assert name not in FALLBACKS[name]
        assert name == "cpu" or FALLBACKS[name][-1] == "cpu"


def test_cuda_computes_in_fp32_unless_tf32_is_allowed() -> None:
    assert CudaOptions().as_ort(allow_tf32=False)["use_tf32"] == "0"
    assert CudaOptions().as_ort(allow_tf32=True)["use_tf32"] == "1"


@pytest.mark.parametrize(
    ("field", "value", "option", "text"),
    [
        ("device_id", 3, "device_id", "3"),
        ("prefer_nhwc", True, "prefer_nhwc", "1"),
        ("max_workspace", False, "cudnn_conv_use_max_workspace", "0"),
        ("cuda_graph", True, "enable_cuda_graph", "1"),
    ],
)
def test_each_cuda_option_reaches_onnx_runtime(field: str, value: Any, option: str, text: str) -> None:
    options = replace(CudaOptions(), **{field: value}).as_ort(allow_tf32=False)
    assert options[option] == text
    assert options[option] != CudaOptions().as_ort(allow_tf32=False)[option]


@pytest.mark.parametrize(
    "make",
    [lambda **stream: CudaOptions(**stream).as_ort(allow_tf32=False), lambda **s: TensorrtOptions(**s).as_ort(None)],
)
def test_a_compute_stream_is_passed_by_its_address(make: Any) -> None:
    assert "user_compute_stream" not in make()
    options = make(compute_stream=0x7F00)
    assert (options["has_user_compute_stream"], options["user_compute_stream"]) == ("1", str(0x7F00))


def test_tensorrt_precision_is_one_flag() -> None:
    flags = {
        precision: [
            TensorrtOptions(precision=precision).as_ort(None)[f"trt_{kind}_enable"] for kind in ("fp16", "bf16")
        ]
        for precision in ("fp32", "fp16", "bf16")
    }
    assert flags == {"fp32": ["0", "0"], "fp16": ["1", "0"], "bf16": ["0", "1"]}


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"builder_level": 6}, {"builder_level": -1}])
def test_tensorrt_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TensorrtOptions(**wrong)


def test_a_profile_is_written_as_tensorrt_reads_it() -> None:
    options = TensorrtOptions(profile=PROFILE).as_ort(None)
    assert options["trt_profile_min_shapes"] == "image:1x3x64x64"
    assert options["trt_profile_opt_shapes"] == "image:1x3x512x512"
    assert options["trt_profile_max_shapes"] == "image:1x3x1024x1024"


def test_a_profile_of_two_inputs_names_both() -> None:
    profile = PROFILE | {"gram": ((64, 64), (64, 64), (64, 64))}
    assert TensorrtOptions(profile=profile).as_ort(None)["trt_profile_min_shapes"] == "gram:64x64,image:1x3x64x64"


def test_without_a_cache_folder_no_engine_is_kept() -> None:
    assert not [name for name in TensorrtOptions().as_ort(KEY) if "cache" in name]


def test_engines_and_timings_are_kept_in_the_cache_folder(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    options = TensorrtOptions(cache=folder, builder_level=5).as_ort(KEY)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_prefix"] == f"nst_{KEY.digest()[:32]}"
    assert options["trt_builder_optimization_level"] == "5"
    assert folder.is_dir()


def test_the_engine_key_is_stable() -> None:
    assert replace(KEY).digest() == KEY.digest()
    assert len(KEY.digest()) == 64


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_whatever_an_engine_depends_on_changes_its_key(field: str) -> None:
    other = 80 if field == "sm" else "another"
    assert replace(KEY, **{field: other}).digest() != KEY.digest()


def test_two_profiles_have_two_keys() -> None:
    smaller = {"image": (PROFILE["image"][0], PROFILE["image"][0], PROFILE["image"][1])}
    texts = [TensorrtOptions(profile=profile).shapes() for profile in ({}, PROFILE, smaller)]
    assert len(set(texts)) == 3
    assert texts[0] == ""


def test_tensorrt_knows_every_option_that_is_sent(tmp_path: Path) -> None:
    """ONNX Runtime refuses an option that it does not know: a misspelt one would show only where there is a GPU."""
    file = provider_file("tensorrt")
    if file is None:
        pytest.skip("the installed ONNX Runtime has no TensorRT provider")
    known = file.read_bytes()
    options = TensorrtOptions(profile=PROFILE, cache=tmp_path / "engines", compute_stream=1).as_ort(KEY)
    assert [name for name in options if name.encode() + b"\0" not in known] == []


@posix
def test_the_engine_cache_is_its_owners_alone(tmp_path: Path) -> None:
    folder = engine_cache_dir(tmp_path / "deep" / "engines")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert engine_cache_dir(folder).stat().st_mode & 0o777 == 0o700


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_an_engine_cache_that_others_could_write_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ModelError, match="can be written by others") as caught:
        engine_cache_dir(folder)
    assert caught.value.exit_code == 5


@posix
def test_an_engine_cache_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ModelError):
        engine_cache_dir(tmp_path)
