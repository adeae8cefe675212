"""Options of the providers as ONNX Runtime reads them, the key of a TensorRT engine, and the folder it is kept in."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from nst_fast.errors import ModelError
from nst_fast.onnx.libraries import provider_file
from nst_fast.onnx.providers import FALLBACKS, EngineKey, SessionConfig, engine_cache_dir
from nst_fast.options.config import PROVIDERS

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


def test_every_fallback_ends_on_the_cpu_and_none_on_itself() -> None:
    assert FALLBACKS.keys() == PROVIDERS.keys()
    for name, others in FALLBACKS.items():
        assert name not in others
        assert name == "cpu" or others[-1] == "cpu"


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
    def options(config: SessionConfig) -> dict[str, str]:
        return config.cuda() if provider == "cuda" else config.tensorrt(None)

    assert options(SessionConfig(**change))[option] == text
    assert options(SessionConfig()).get(option) != text


def test_without_a_cache_folder_no_engine_is_kept() -> None:
    assert not [name for name in SessionConfig().tensorrt(KEY) if "cache" in name]


def test_engines_and_timings_are_kept_in_the_cache_folder(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    options = SessionConfig(engine_cache=folder).tensorrt(KEY)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_prefix"] == KEY.prefix
    assert folder.is_dir()


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_whatever_an_engine_depends_on_changes_its_key(field: str) -> None:
    other = 80 if field == "sm" else "another"
    assert replace(KEY).prefix == KEY.prefix
    assert replace(KEY, **{field: other}).prefix != KEY.prefix


def test_two_profiles_have_two_keys() -> None:
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
    options = config.cuda() if provider == "cuda" else config.tensorrt(KEY)
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
