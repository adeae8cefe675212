"""Options from files, the environment, presets and flags: which of them wins, and what is said of a slip."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
from in_process import Run

from nst_fast.api import stylize
from nst_fast.cli.options import values_of
from nst_fast.errors import InputError, UsageError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.layers import as_toml, environment_layer, file_layer, find_preset, line_of

OWN = set(declared(StylizeConfig))
SOURCES = ("flag", "environment", "file", "preset")  # the first that gives an option decides
STEPS = {"flag": 1, "environment": 2, "file": 3, "preset": 500}  # classic has 500


def values(folder: Path, file: str = "", variables: dict[str, str] | None = None, **flags: object) -> dict[str, object]:
    """The values of options as the command line finds them."""
    path = folder / "run.toml"
    path.write_text(file, encoding="utf-8")
    named = {name: flags.pop(name, None) for name in ("preset", "quality", "replayed")}
    return values_of(environment_layer(variables or {}), flags, OWN, **named, config_file=path)  # type: ignore[arg-type]


@pytest.mark.parametrize("present", [set(some) for n in range(5) for some in itertools.combinations(SOURCES, n)])
def test_a_flag_beats_a_variable_that_a_file_and_that_a_preset(present: set[str], tmp_path: Path) -> None:
    found = values(
        tmp_path,
        "steps = 3" if "file" in present else "",
        {"NST_FAST_STEPS": "2"} if "environment" in present else {},
        **({"steps": 1} if "flag" in present else {}),
        **({"preset": "classic"} if "preset" in present else {}),
    )
    wanted = next((STEPS[source] for source in SOURCES if source in present), StylizeConfig().steps)
    assert StylizeConfig().replace(**found).steps == wanted


@pytest.mark.parametrize(
    ("file", "variables", "flags", "wanted"),
    [
        ("quality = 'best'", {}, {}, 400),
        ("quality = 'best'\nsteps = 7", {}, {}, 7),
        ("steps = 7", {}, {"quality": "draft"}, 60),
        ("steps = 7", {"NST_FAST_QUALITY": "draft"}, {"steps": 9}, 9),
        ("preset = 'classic'", {}, {}, 500),
        ("preset = 'classic'", {"NST_FAST_PRESET": "tutorial"}, {}, 300),
        ("preset = 'classic'", {"NST_FAST_PRESET": "tutorial"}, {"preset": "adam-smoothing"}, 1000),
        ("preset = 'classic'", {}, {"quality": "draft"}, 60),
    ],
)
def test_presets_and_qualities_come_from_the_nearest_source(
    file: str, variables: dict[str, str], flags: dict[str, object], wanted: int, tmp_path: Path
) -> None:
    assert values(tmp_path, file, variables, **flags)["steps"] == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 3\n\nimage_sze = 3", "run.toml, line 3: unknown option image_sze. Did you mean image_size"),
        ("image-size = 300", "line 1: unknown option image-size. Did you mean image_size"),
        ("# image_size = 1\nimage_size = '300'", "line 2: `image_size` '300': must be a whole number"),
        ("steps = 0\nseed = -1", "line 1: `steps` 0: must be from 1 to 1000000; .*line 2: `seed` -1"),
        ("init = 'contend'\noptimizer = 'adan'", "line 2: `optimizer` 'adan': .*Did you mean adam"),
        ("preset = 'clasic'", "line 1: unknown preset 'clasic'. Did you mean classic"),
        ("quality = 'god'", "line 1: `quality` 'god': must be one of draft, normal, best"),
        ("summary = 5", "line 1: summary 5: must be text"),
        ("[objective]\nsteps = 3", "line 1: unknown option objective"),
        ("steps = 3\nsteps = 4\n", "is no TOML: Cannot overwrite a value .at line 2"),
        ("steps 3", "is no TOML: .*line 1, column 7"),
        ("seed = " + "[" * 5000, "is no TOML"),
        ("seed = " + "9" * 5000, "is no TOML"),
    ],
)
def test_a_slip_in_a_file_is_named_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        values(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.toml").write_text("#" * (2**20 + 1))
    for name, words in {
        "none.toml": "No such file",
        "binary.toml": "not a text",
        "large.toml": "larger than 1 MiB",
    }.items():
        with pytest.raises(InputError, match=words):
            file_layer(tmp_path / name)


def test_the_line_is_that_of_the_name_at_the_top_level() -> None:
    text = "a = 'steps = 1'\n# steps = 2\n [ steps.x ]\n"
    assert line_of("steps", text) == 3


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NST_FAST_IMAGE_SZE": "300"}, "NST_FAST_IMAGE_SZE is of no option. Did you mean NST_FAST_IMAGE_SIZE"),
        ({"NST_FAST_IMAGE_SIZE": "x"}, "the variable NST_FAST_IMAGE_SIZE: `image_size` 'x': must be a whole number"),
        ({"NST_FAST_METADATA": "perhaps"}, "must be true, false, 1, 0"),
        ({"NST_FAST_PRESET": "clasic"}, "NST_FAST_PRESET: unknown preset"),
    ],
)
def test_a_slip_in_the_environment_is_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        environment_layer(variables)


def test_variables_of_other_uses_and_empty_ones_are_left_alone() -> None:
    others = dict.fromkeys(("NST_FAST_CACHE", "NST_FAST_CONFIG_DIR", "NST_FAST_DEBUG", "NST_FAST_OFFLINE"), "x")
    others |= {"NST_FAST_WEIGHTS_URL": "x", "NST_FAST_SEED": "", "HOME": "x"}
    assert environment_layer(others | {"NST_FAST_METADATA": "False"}) == {"metadata": False}


def test_every_option_survives_being_written_and_read(tmp_path: Path) -> None:
    config = StylizeConfig(
        style_taps="relu1_1:0.5,relu2_1", max_memory="4GiB", learning_rate=1e-8, weights='a "quoted"\\\x7f\n🎨.pth'
    )
    path = tmp_path / "run.toml"
    path.write_text(as_toml(config.as_dict(), "all of it"), encoding="utf-8")
    assert StylizeConfig().replace(**{k: v for k, v in file_layer(path).items() if k != "summary"}) == config
    path.write_text("style_taps = {relu1_1 = 0.5, relu2_1 = 1}\nstyle_weight_each = [0.5, 1]", encoding="utf-8")
    assert StylizeConfig(**file_layer(path)).style_taps == config.style_taps


def test_a_command_takes_a_file_and_info_writes_one_back(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    folder = pair[0].parent
    (folder / "run.toml").write_text(
        'image_size = 24\nsteps = 9\nweights = "random:0"\ncontent_taps = "relu2_1"\nstyle_taps = "relu1_1"\n'
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NST_FAST_MONITOR_EVERY", "0")
    run = ("stylize", *pair, "-o", "out.png", "--config", "run.toml", "--steps", "2")
    code, _, messages = command(*run)
    assert code == 0, messages
    assert "note: set by the environment: --monitor-every" in messages
    code, text, _ = command("info", "out.png", "--toml")
    assert code == 0
    written = tomllib.loads(text)
    assert (written["steps"], written["image_size"], written["monitor_every"]) == (2, 24, 0)
    (folder / "again.toml").write_text(text)
    again = stylize(*pair, {name: value for name, value in written.items() if name != "summary"})
    assert {name: again.record.options[name] for name in written.keys() & OWN} == {
        name: value for name, value in written.items() if name in OWN
    }
    code, _, messages = command("stylize", *pair, "-o", "again.png", "--config", "again.toml", "--from", "out.png")
    assert code == 0, messages
    (folder / "typo.toml").write_text("stepz = 3")
    code, _, messages = command("stylize", *pair, "-o", "no.png", "--config", "typo.toml")
    assert (code, messages.splitlines()[-1][:76]) == (
        2,
        "error: typo.toml, line 1: unknown option stepz. Did you mean steps, style_ta",
    )


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NST_FAST_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "poster.toml").write_text("summary = 'Mine'\npreset = 'print'\nquality = 'best'\nstyle_weight = 12")
    return folder


def test_a_users_file_is_a_preset_and_builds_on_one_of_ours(presets: Path, command: Run) -> None:
    preset = find_preset("poster")
    assert preset.values == {**find_preset("print").values, "steps": 400, "style_weight": 12}
    assert preset.settings["style_weight"].source == "yours: poster.toml"
    assert "\nposter           Mine\n" in command("presets")[1]
    assert "--style-weight 12.0  (yours: poster.toml)" in command("presets", "poster")[1]
    assert values(presets, "preset = 'poster'", {}, seed=3)["steps"] == 400


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("bold", "", "bold is a preset of the program. Give the file another name"),
        ("two", "preset = 'poster'", "two.toml, line 1: unknown preset 'poster'"),
        ("two", "stepz = 1", "two.toml, line 1: unknown option stepz"),
    ],
)
def test_a_preset_of_the_user_that_cannot_be_used_is_refused(presets: Path, name: str, text: str, words: str) -> None:
    (presets / f"{name}.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        find_preset(name)
    with pytest.raises(UsageError, match="Did you mean poster"):
        (presets / f"{name}.toml").unlink()
        find_preset("postr")
