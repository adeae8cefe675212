"""What a program passes to the functions of nst_fast: pictures in memory, presets, typed options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nst_fast import Listeners, StylizeConfig, evaluate, resume, stylize, stylize_together
from nst_fast.errors import ResumeError, UsageError
from nst_fast.options.presets import find_preset

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
TINY: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": ["relu1_2"],
    "style_taps": {"relu1_1": 1.0, "relu2_1": 0.5},
    "image_size": 32,
    "steps": 3,
    "monitor_every": 0,
    "engine": "eager",
    "device": "cpu",
    "checkpoint_every": 0,
}


@pytest.fixture
def arrays(pair: tuple[Path, Path]) -> Arrays:
    content, style = (np.asarray(Image.open(path).convert("RGB")) for path in pair)
    return content, style


def test_arrays_give_the_picture_of_their_files(pair: tuple[Path, Path], arrays: Arrays) -> None:
    made, expected = stylize(*arrays, **TINY), stylize(*pair, **TINY)
    assert torch.equal(made.image, expected.image)
    inputs = made.record.inputs
    assert [inputs["content"]["name"], inputs["styles"][0]["name"]] == ["array", "array"]
    assert inputs["content"]["size"] == expected.record.inputs["content"]["size"]
    assert made.record.options["style_taps"] == "relu1_1,relu2_1:0.5"
    (together,) = stylize_together([arrays[0]], [Image.open(pair[1])], **TINY)
    torch.testing.assert_close(together.image, expected.image)
    assert together.record.inputs["styles"][0]["name"] == "image"


def test_arrays_are_scored_as_their_files(pair: tuple[Path, Path], arrays: Arrays) -> None:
    in_memory = evaluate(*arrays, arrays[0], weights="random:0").pictures[0]
    files = evaluate(*pair, pair[0], weights="random:0").pictures[0]
    assert in_memory.scores == files.scores
    assert str(in_memory.picture) == "array"


def test_a_run_of_arrays_is_resumed_when_they_are_given_again(arrays: Arrays, tmp_path: Path) -> None:
    steps = iter(range(9))
    options = TINY | {"checkpoint_every": 1, "steps": 6}
    expected = stylize(*arrays, **options)
    stylize(*arrays, output=tmp_path / "out.png", listeners=Listeners(stop=lambda: next(steps) > 2), **options)
    with pytest.raises(ResumeError, match=r"began with an array in memory.*`content`"):
        resume(tmp_path / "out.png")
    with pytest.raises(ResumeError, match="the given array is not the picture that the run began with"):
        resume(tmp_path / "out.png", content=arrays[1], style=arrays[1])
    made = resume(tmp_path / "out.png", content=arrays[0], style=[arrays[1]])
    assert torch.equal(made.image, expected.image)
    assert made.record.steps == 6


def test_a_preset_stands_between_config_and_options(pair: tuple[Path, Path]) -> None:
    config = StylizeConfig(steps=1, style_weight=3.0)
    options = stylize(*pair, config, preset="bold", **TINY | {"steps": 2}).record.options
    bold = find_preset("bold").values
    assert (options["style_weight"], options["min_size"]) == (bold["style_weight"], bold["min_size"])
    assert options["steps"] == 2
    with pytest.raises(UsageError, match="Did you mean bold"):
        stylize(*pair, preset="bald")
    with pytest.raises(UsageError, match="style_taps"):
        stylize(*pair, style_tap="relu1_1")
