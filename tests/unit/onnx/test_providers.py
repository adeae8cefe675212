"""Options of the providers as ONNX Runtime reads them, the key of a TensorRT engine, and the folder it is kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nst_fast.errors import ModelError, UsageError
from nst_fast.onnx.libraries import provider_file
from nst_fast.onnx.providers import SessionConfig, engine_cache_dir
from nst_fast.options.config import MonitorOptions
from nst_fast.options.providers import PROVIDERS, find_provider

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners of folders are POSIX's")

ENGINE = "nst_" + "ab" * 16
PROFILE = {"image": ((1, 3, 64, 64), (1, 3, 512, 512), (1, 3, 1024, 1024))}
SHAPES = {"min": "image:1x3x64x64", "opt": "image:1x3x512x512", "max": "image:1x3x1024x1024"}


def test_every_fallback_ends_on_the_cpu_and_none_on_itself() -> None:
    for name, row in PROVIDERS.items():
        assert name == row.name
        assert name not in row.fallbacks
        assert name == "cpu" or row.fallbacks[-1] == "cpu"


def test_a_row_is_built_in_or_a_plugin() -> None:
    """A plugin tells ONNX Runtime's name itself, and gives no memory that PyTorch's tensors could be in."""
    for row in PROVIDERS.values():
        assert bool(row.ep) != bool(row.module)
        assert not row.module or row.memory == "cpu"


def test_a_plugin_without_a_row_is_found_by_its_module() -> None:
    row = find_provider("plugin:my-chip:level=3,mode=a:b")
    assert (row.name, row.module) == ("plugin:my-chip:level=3,mode=a:b", "onnxruntime_ep_my_chip")
    assert not row.package  # nobody knows whose package has that name
    assert row.options == {"level": "3", "mode": "a:b"}
    assert (row.fallbacks, row.memory) == (("cpu",), "cpu")
    assert find_provider("plugin:onnxruntime_qnn").module == "onnxruntime_qnn"


def test_options_are_added_to_those_of_a_row_and_the_kind_of_device_is_ours() -> None:
    row = find_provider("plugin:openvino:device=npu,num_streams=2")
    assert (row.kinds, row.options) == (("NPU",), {"num_streams": "2"})
    assert row.hardware == PROVIDERS["openvino"].hardware
    options = SessionConfig(threads=3).options(row)
    assert options["num_streams"] == "2"
    assert json.loads(options["load_config"])["CPU"] == {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 3}
    assert SessionConfig().options(find_provider("plugin:openvino:load_config={}"))["load_config"] == "{}"


@pytest.mark.parametrize("name", ["plugin:", "plugin:a:b", "plugin:a:=1", "plugin:a:b=1,c", "plugin:a b", "cud", ""])
def test_what_names_no_provider_is_refused_as_an_option_and_as_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="unknown provider"):
        find_provider(name)
    with pytest.raises(UsageError, match=r"`monitor_provider` .*must be one of cpu, cuda"):
        MonitorOptions(monitor_provider=name)


def test_tensorrt_for_rtx_keeps_what_it_compiles(tmp_path: Path) -> None:
    config = SessionConfig(profile=PROFILE, engine_cache=tmp_path / "engines")
    assert config.options(PROVIDERS["tensorrt-rtx"]) == {
        "nv_runtime_cache_path": str(tmp_path / "engines"),
        **{f"nv_profile_{end}_shapes": SHAPES[end] for end in ("min", "opt", "max")},
    }


@pytest.mark.parametrize(("precision", "flag"), [("fp32", "0"), ("fp16", "0"), ("tf32", "1")])
def test_cuda_multiplies_in_tf32_only_where_asked_and_then_with_all_that_makes_it_fast(
    precision: str, flag: str
) -> None:
    options = SessionConfig(precision=precision).cuda()
    assert [options[name] for name in ("use_tf32", "prefer_nhwc", "fuse_conv_bias")] == [flag] * 3


@pytest.mark.parametrize(
    ("provider", "change", "option", "text"),
    [
        ("cuda", {"device_id": 3}, "device_id", "3"),
        ("cuda", {"cuda_graph": True}, "enable_cuda_graph", "1"),
        ("cuda", {"compute_stream": 0x7F00}, "user_compute_stream", str(0x7F00)),
        ("cuda", {"compute_stream": 0x7F00}, "has_user_compute_stream", "1"),
        ("tensorrt", {"device_id": 3}, "device_id", "3"),
        ("tensorrt", {"cuda_graph": True}, "trt_cuda_graph_enable", "1"),
        ("tensorrt", {"compute_stream": 0x7F00}, "user_compute_stream", str(0x7F00)),
        ("tensorrt", {"precision": "fp16"}, "trt_fp16_enable", "1"),
        ("tensorrt", {"profile": PROFILE}, "trt_profile_min_shapes", "image:1x3x64x64"),
        ("tensorrt", {"profile": PROFILE}, "trt_profile_opt_shapes", "image:1x3x512x512"),
        ("tensorrt", {"profile": PROFILE}, "trt_profile_max_shapes", "image:1x3x1024x1024"),
        (
            "tensorrt",
            {"profile": PROFILE | {"gram": ((64, 64),) * 3}},
            "trt_profile_min_shapes",
            "gram:64x64,image:1x3x64x64",
        ),
    ],
)
def test_each_option_reaches_onnx_runtime(provider: str, change: dict[str, Any], option: str, text: str) -> None:
    row = PROVIDERS[provider]
    assert SessionConfig(**change).options(row)[option] == text
    assert SessionConfig().options(row).get(option) != text


def test_without_a_cache_folder_no_engine_is_kept() -> None:
    assert not [name for name in SessionConfig().tensorrt(ENGINE) if "cache" in name]


def test_engines_and_timings_are_kept_in_the_cache_folder(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    options = SessionConfig(engine_cache=folder).tensorrt(ENGINE)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_prefix"] == ENGINE
    assert folder.is_dir()


def test_two_profiles_have_two_texts() -> None:
    smaller = {"image": (PROFILE["image"][0], PROFILE["image"][0], PROFILE["image"][1])}
    texts = [SessionConfig(profile=profile).shapes() for profile in ({}, PROFILE, smaller)]
    assert len(set(texts)) == 3
    assert texts[0] == ""


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_knows_every_option_that_is_sent(provider: str, tmp_path: Path) -> None:
    """ONNX Runtime refuses an option that it does not know: a misspelt one would show only where there is a GPU."""
    file = provider_file(provider)
    if file is None:
        pytest.skip(f"the installed ONNX Runtime has no provider {provider}")
    known = file.read_bytes()
    config = SessionConfig(profile=PROFILE, engine_cache=tmp_path / "engines", compute_stream=1)
    options = config.options(PROVIDERS[provider], ENGINE)
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
