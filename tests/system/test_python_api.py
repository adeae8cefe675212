"""What a program passes to the functions of nst_fast: pictures in memory, presets, typed options."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from nst_fast import Listeners, StylizeConfig, evaluate, resume, stylize, stylize_together, texture
from nst_fast.errors import InputError, ResumeError, UsageError
from nst_fast.options.evaluate import EvaluateConfig
from nst_fast.options.layers import find_preset

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
TYPED = {"content_taps": ["relu1_2"], "style_taps": {"relu1_1": 1.0, "relu2_1": 0.5}, "checkpoint_every": 0}
TINY = tiny.TINY | TYPED | {"image_size": 32, "steps": 3}


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


def test_a_texture_has_the_size_and_the_options_that_are_given(pair: tuple[Path, Path], arrays: Arrays) -> None:
    options = {name: value for name, value in TINY.items() if name != "content_taps"}
    made = texture(arrays[1], (32, 48), seamless="x", **options)
    assert made.image.shape == (1, 3, 32, 48)
    assert (made.record.inputs["content"], made.record.options["content_weight"]) == (None, 0.0)
    assert torch.equal(made.image, texture(pair[1], (32, 48), {"seamless": "x"}, **options).image)
    for size in ((32, 4), (32,), "ab", (32.5, 32), 32):
        with pytest.raises(UsageError, match="height and width"):
            texture(arrays[1], size, **options)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(UsageError, match="no style image"):
        texture([], (32, 32), **options)


@pytest.mark.parametrize(("kind", "name"), [(np.asarray, "an array"), (bytes, "bytes")])
def test_a_run_of_pictures_in_memory_is_resumed_when_they_are_given_again(
    kind: Callable[..., Any], name: str, pair: tuple[Path, Path], arrays: Arrays, tmp_path: Path
) -> None:
    steps = iter(range(9))
    options = TINY | {"checkpoint_every": 1, "steps": 6}
    given = arrays if kind is np.asarray else tuple(path.read_bytes() for path in pair)
    stylize(*given, output=tmp_path / "out.png", listeners=Listeners(stop=lambda: next(steps) > 2), **options)
    with pytest.raises(ResumeError, match=rf"began with {name} in memory.*`content`"):
        resume(tmp_path / "out.png")
    with pytest.raises(ResumeError, match="is not the picture that the run began with"):
        resume(tmp_path / "out.png", content=given[1], style=given[1])
    made = resume(tmp_path / "out.png", content=given[0], style=[given[1]])
    assert torch.equal(made.image, stylize(*pair, **options).image)
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


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("steps", np.int64(2), 2),
        ("steps", np.array(2), 2),
        ("steps", torch.tensor(2), 2),
        ("style_weight", np.float32(0.5), 0.5),
        ("style_weight", np.int32(3), 3.0),
        ("style_weight", torch.tensor(0.5), 0.5),
        ("until_converged", np.bool_(True), True),
        ("optimizer", np.str_("adam"), "adam"),
        ("max_memory", np.int64(4 * 2**30), "4294967296"),
        ("checkpoint_every", np.int64(7), "7"),
        ("time_budget", np.float64(90.5), "90.5"),
        ("style_weight_each", np.array([0.25, 0.75]), "0.25,0.75"),
        ("style_crop", np.array([0.0, 3.0, 0.0, 0.0]), "0.0,3.0,0.0,0.0"),
        ("style_crop", (np.float64(0), np.int64(3), 0, 0), "0.0,3,0,0"),
        ("style_taps", {np.str_("relu1_1"): np.float32(0.5)}, "relu1_1:0.5"),
        ("style_taps", np.array(["relu1_1", "relu2_1"]), "relu1_1,relu2_1"),
        ("weights", Path("vgg.pth"), "./vgg.pth"),
        ("weights", Path("a") / "vgg.pth", "a/vgg.pth"),
        ("init", Path("noise"), "./noise"),
    ],
)
def test_scalars_of_numpy_and_pytorch_are_their_python_values(name: str, given: object, value: object) -> None:
    config = StylizeConfig().replace(**{name: given})
    written = config.as_dict()[name]
    assert (written, type(written)) == (value, type(value))
    assert json.loads(json.dumps(written)) == value
    assert StylizeConfig.of({name: given}) == config == StylizeConfig().replace(**{name: written})


@pytest.mark.parametrize("given", [np.float64(2.0), np.array([2]), np.array([2, 3]), torch.tensor([2]), np.bool_(True)])
def test_a_scalar_is_held_to_the_type_of_its_option(given: object) -> None:
    with pytest.raises(UsageError, match=r"`steps`.*must be a whole number"):
        StylizeConfig().replace(steps=given)


def test_weights_and_start_may_be_paths_and_the_config_a_dict(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from nst_fast.network.weights import load_weights

    save_file(load_weights("random:0", "vgg19", ["relu2_1"]).state, tmp_path / "blocks.safetensors")
    options = TINY | {"weights": tmp_path / "blocks.safetensors", "init": pair[0]}
    expected = stylize(*pair, StylizeConfig(**TINY | {"init": str(pair[0])}))
    for made in (stylize(*pair, options), stylize(*pair, **options)):
        assert torch.equal(made.image, expected.image)
    assert evaluate(*pair, pair[0], {"weights": "random:0"}).pictures[0].scores


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_a_file_give_the_picture_of_the_file(pair: tuple[Path, Path], kind: type) -> None:
    expected = stylize(*pair, **TINY)
    data = [kind(path.read_bytes()) for path in pair]
    made = stylize(*data, **TINY)
    assert torch.equal(made.image, expected.image)
    content, given = expected.record.inputs["content"], made.record.inputs["content"]
    assert given == content | {"name": "bytes"}
    several = stylize(data[0], data, **TINY)
    assert len(several.record.inputs["styles"]) == 2


def test_what_is_no_picture_is_refused_as_content_and_style(pair: tuple[Path, Path]) -> None:
    """What is none: unit/images/test_given.py."""
    for pictures in ((7, pair[1]), (pair[0], b"no picture"), (pair[0], [pair[1], None])):
        with pytest.raises(InputError):
            stylize(*pictures, **TINY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": "steps=3"}, "`config` is str. Give a StylizeConfig or a dict"),
        ({"config": EvaluateConfig()}, "`config` is EvaluateConfig"),
        ({"config": {"stepz": 3}}, "unknown option 'stepz'"),
        ({"config": {3: 3}}, "unknown option 3"),
        ({"listeners": print}, "no Observer. Give Listeners"),
        ({"networks": "vgg19"}, "str is no Networks"),
        ({"output": 3}, "`output` is int, no path"),
        ({"output": b"out.png"}, "`output` is bytes, no path"),
        ({"preset": 3}, "unknown preset 3"),
        ({"steps": "3"}, "must be a whole number"),
        ({"steps": None}, "must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_by_a_sentence(
    pair: tuple[Path, Path], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        stylize(*pair, **TINY | arguments)


def test_one_output_is_no_sequence_of_letters(pair: tuple[Path, Path], tmp_path: Path) -> None:
    stylize_together([pair[0]], pair[1], outputs=str(tmp_path / "one.png"), **TINY)  # type: ignore[arg-type]
    assert (tmp_path / "one.png").is_file()
    with pytest.raises(UsageError, match="1 outputs for 2 content images"):
        stylize_together([pair[0], pair[0]], pair[1], outputs="ab", **TINY)  # type: ignore[arg-type]


def test_any_thread_may_call(pair: tuple[Path, Path]) -> None:
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: stylize(*pair, **TINY | {"monitor_every": 1})).result()
    assert torch.equal(made.image, stylize(*pair, **TINY).image)


def test_weights_of_caffes_convention_give_the_picture_of_the_original_and_a_note(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    from nst_fast.network.weights import load_weights

    published = load_weights("original", "vgg19", ["relu2_1"])
    torch.save(published.state | published.raw, tmp_path / "vgg.pth")
    notes: list[str] = []
    made = stylize(*pair, **TINY | {"weights": tmp_path / "vgg.pth"}, listeners=Listeners(note=notes.append))
    expected = stylize(*pair, **TINY | {"weights": "original"})
    torch.testing.assert_close(made.image, expected.image, atol=1e-3, rtol=0)
    assert any("vgg.pth: converted from BGR in 0 to 255" in note for note in notes)
    assert made.record.weights["note"] in str(notes)
