from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nst_fast.errors import InputError
from nst_fast.images import save_image
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.run.record import EMBEDDED_ROWS, SCHEMA, UNRECORDED, RunRecord, current_options, read_record, thin


def record(steps: int = 3) -> RunRecord:
    return RunRecord(
        options={"steps": steps, "style_weight": 1e5},
        inputs={"content": {"name": "a.png", "sha256": "00", "size": [3, 2]}, "styles": []},
        weights={"source": "random, seed 0", "sha256": "00"},
        device="cpu",
        engine="eager",
        precision="fp32",
        machine={"cpu": "test"},
        history={"total": [1 / 3 * step for step in range(steps + 1)]},
    )


def test_a_record_comes_back_from_the_file_beside_the_picture(tmp_path: Path) -> None:
    record().save(tmp_path / "out.json")
    assert read_record(tmp_path / "out.json")["options"]["style_weight"] == 1e5


def test_a_record_of_before_an_option_says_what_was_done_without_it(tmp_path: Path) -> None:
    made = record()
    made.save(tmp_path / "old.json")
    assert read_record(tmp_path / "old.json")["options"] == {
        **made.options,
        "file_quality": 95,
        "chroma_tv_weight": 0,
        "style_crop": "none",
        "convolution": "direct",
        "seamless": "none",
        "transparency": "background",
        **dict.fromkeys(MASK_KINDS, ""),
    }
    made.options |= {
        "file_quality": 80,
        "chroma_tv_weight": 40.0,
        "style_crop": "auto",
        "convolution": "auto",
        "seamless": "x",
        "transparency": "keep",
    }
    made.options |= dict.fromkeys(MASK_KINDS, "m.png=s.png")
    made.save(tmp_path / "new.json")
    assert read_record(tmp_path / "new.json")["options"] == made.options


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_record_comes_back_from_inside_the_picture(tmp_path: Path, suffix: str) -> None:
    save_image(torch.rand(1, 3, 8, 8), tmp_path / f"out{suffix}", text=record().as_text())
    assert read_record(tmp_path / f"out{suffix}")["schema"] == SCHEMA


def test_a_long_history_is_thinned_inside_the_picture_only() -> None:
    long = record(steps=5000)
    assert len(json.loads(long.as_text()["nst-fast"])["history"]["total"]) == EMBEDDED_ROWS
    assert len(long.as_dict()["history"]["total"]) == 5001


def test_thinning_keeps_both_ends() -> None:
    assert thin([float(i) for i in range(11)], 3) == [0.0, 5.0, 10.0]
    assert thin([1.0, 2.0], 3) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "no run record"), ("{", "damaged"), ("[]", "not a run record"), ('{"schema": "x/9"}', "expected")],
)
def test_what_is_not_a_record_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_record(path)


def test_a_picture_without_record_is_refused(tmp_path: Path) -> None:
    save_image(torch.rand(1, 3, 8, 8), tmp_path / "plain.png")
    with pytest.raises(InputError, match="carries no run record"):
        read_record(tmp_path / "plain.png")


def test_options_of_before_style_crop_keep_their_meaning() -> None:
    old = {"scales": 0, "min_size": 0, "strength": 0.5, "style_weight": 100.0, "tv_weight": 0.0}
    found = current_options(old)
    assert (found["min_size"], found["strength"], found["style_crop"]) == (512, 1.0, "none")
    assert found["style_weight"] == pytest.approx(100 * (1000**0.5 - 1) / 999)
    assert current_options(old | {"scales": 2, "strength": 1.0}) == UNRECORDED | old | {"scales": 2, "strength": 1.0}
    new = UNRECORDED | old
    assert current_options(new) == new


def test_a_record_with_a_field_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    damaged = record()
    damaged.inputs["\ud800"] = 1
    damaged.save(tmp_path / "out.json")
    with pytest.raises(InputError, match="damaged"):
        read_record(tmp_path / "out.json")


def test_the_name_of_an_input_may_be_any_file_name(tmp_path: Path) -> None:
    made = record()
    made.inputs["content"]["name"] = "\udcff.png"  # bytes that are not UTF-8
    made.save(tmp_path / "out.json")
    assert read_record(tmp_path / "out.json")["inputs"]["content"]["name"] == "\udcff.png"
