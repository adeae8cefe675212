"""The presets say what the documents say. The table below was written from docs/seed-systems.md, not from the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from nst_fast.api import stylize
from nst_fast.cli import app
from nst_fast.cli.display import log_line
from nst_fast.cli.options import takes
from nst_fast.errors import InputError, UsageError
from nst_fast.images import save_image
from nst_fast.objective import losses
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.layers import find_preset
from nst_fast.options.presets import OURS, PRESETS, STATED, SYSTEMS, USUAL
from nst_fast.run.observer import StepEvent


def facts(**values: object) -> dict[str, object]:
    return values


# What each document states or, where it is silent, what its brackets name.
BEFORE_RELU = {
    **facts(network="vgg19"),
    **facts(weights="imagenet"),  # torchvision's
    **facts(content_taps="conv3_4", style_taps="conv1_2,conv2_2,conv3_4,conv4_4,conv5_4"),
    **facts(content_normalization="half_sum", gram_normalization="none", style_normalization="gatys"),
    **facts(optimizer="lbfgs"),
}
DOCUMENTED: dict[str, dict[str, object]] = {
    "adam-smoothing": {
        **facts(network="vgg19"),
        **facts(weights="original"),  # Keras's VGG-19
        **facts(content_taps="relu5_2", style_taps="relu1_1,relu2_1,relu3_1,relu4_1,relu5_1", optimizer="adam"),
        **facts(schedule="exponential", init="content", smooth_every=251, save_every=100, save_format="png"),
        **facts(image_size=224),
    },
    "weighted-layers": {
        **facts(image_size=400, content_fit="square", style_fit="match", network="vgg19"),
        **facts(weights="original"),  # Keras's VGG-19
        **facts(content_taps="relu5_4:1.0"),
        **facts(style_taps="relu1_1:1.0,relu2_1:0.8,relu3_1:0.7,relu4_1:0.2,relu5_1:0.1"),
        **facts(content_normalization="size", gram_normalization="none", style_normalization="gatys"),
        **facts(content_weight=100.0, style_weight=10.0, optimizer="adam", learning_rate=0.03, adam_beta1=0.9),
        **facts(adam_beta2=0.999, adam_epsilon=1e-08, input_normalization="none", init="content+noise", noise=0.8),
        **facts(steps=1001, save_every=250, save_format="jpg", log_every=250, log_format="epoch", seed=272),
    },
    "lbfgs-noise": {
        **BEFORE_RELU,
        **facts(init="noise", content_weight=100.0, style_weight=1000000.0),
    },
    "lbfgs-content": {
        **BEFORE_RELU,
        **facts(init="content", content_weight=10.0, style_weight=10000000.0),
    },
    "classic": {
        **facts(gram_normalization="none", style_normalization="gatys", init="content", color="keep"),
    },
    "tutorial": {
        **facts(network="vgg19", weights="imagenet", style_fit="match", content_normalization="mean"),
        **facts(style_normalization="mean", gram_normalization="chw", content_taps="conv2_2"),
        **facts(style_taps="conv1_1,conv1_2,conv2_1,conv2_2,conv3_1", content_weight=1.0, style_weight=1000000.0),
        **facts(optimizer="lbfgs", steps=300, log_every=25, log_format="run"),
    },
}

# Options that do not decide the picture of a whole, unguarded run, or that say what to do with a user's own pictures.
FREE = {
    *(
        "background",
        "bit_depth",
        "file_quality",
        "style_weight_each",
        "device",
        "engine",
        "precision",
        "convolution",
        "engine_provider",
    ),
    *("scale_factor", "min_size", "scale_steps_ratio"),  # one scale
    *("divergence_factor", "until_converged", "patience", "min_improvement", "time_budget"),
}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name, stated in DOCUMENTED.items() for option, value in stated.items()],
)
def test_a_preset_sets_what_its_document_states(name: str, option: str, value: object) -> None:
    assert StylizeConfig(**find_preset(name).values).as_dict()[option] == value  # type: ignore[arg-type]


def test_the_presets_are_the_five_systems_and_our_own() -> None:
    assert {preset.system for preset in PRESETS.values()} == {"", "S0", "S1", "S2", "S3", "S4"}
    assert find_preset("painterly").values == {}


@pytest.mark.parametrize("name", [preset.name for preset in SYSTEMS])
def test_a_recipe_leaves_nothing_to_the_programs_defaults(name: str) -> None:
    deciding = {name for name, item in declared(StylizeConfig).items() if not item.option.cosmetic} - FREE
    assert deciding <= set(find_preset(name).settings)


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_has_a_source_of_a_known_kind(name: str) -> None:
    assert all(setting.source.split(":")[0] in (STATED, USUAL, OURS) for setting in PRESETS[name].settings.values())


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean classic"):
        find_preset("clasic")


def test_weighted_layers_and_lbfgs_normalisations_are_the_stated_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    content = ((one - other) ** 2).sum() / (4 * 4 * 5 * 3)
    torch.testing.assert_close(losses.content_loss(one, other, "size")[0], content)
    squared = (losses.gram_sum(one) - losses.gram_sum(other)).square().sum()
    gatys = losses.style_loss(losses.gram_matrix(one), losses.gram_matrix(other), "gatys", 20.0, 20)[0]
    torch.testing.assert_close(gatys, squared / (4 * (4 * 5 * 3) ** 2))  # S1: H W C; S2: N = C, M = H W


def configured(*arguments: str, config_class: type = StylizeConfig) -> StylizeConfig:
    """The config that a command with these arguments would run with."""
    app = typer.Typer()
    seen: list[StylizeConfig] = []

    @app.command()
    @takes(config_class, recipes=True)
    def command(config: StylizeConfig) -> None:
        seen.append(config)

    result = CliRunner().invoke(app, list(arguments), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return seen[0]


def test_a_flag_overrides_the_preset_even_with_the_programs_default_value() -> None:
    default = StylizeConfig().image_size
    config = configured("--preset", "tutorial", "--image-size", str(default), "--content-weight", "10")
    assert (config.image_size, config.content_weight, config.style_weight) == (default, 10.0, 1e6)


def test_no_preset_and_the_preset_painterly_are_the_same() -> None:
    assert configured() == configured("--preset", "painterly") == StylizeConfig()


def test_a_command_with_fewer_options_takes_the_part_of_a_preset_that_it_has() -> None:
    config = configured("--preset", "tutorial", config_class=ExportConfig)
    assert isinstance(config, ExportConfig)
    assert list(config.content_taps) == ["conv2_2"]


def test_a_run_is_replayed_from_its_picture_or_its_record(tmp_path: Path) -> None:
    for name in ("content", "style"):
        save_image(torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1)), tmp_path / f"{name}.png")
    options = {"content_taps": "relu1_2", "style_taps": "relu1_1", "image_size": 32, "steps": 2, "monitor_every": 0}
    config = StylizeConfig(weights="random:0", device="cpu", learning_rate=0.015, noise=0.1, seed=7).replace(**options)
    stylize(tmp_path / "content.png", tmp_path / "style.png", config, output=tmp_path / "out.png")
    assert configured("--from", str(tmp_path / "out.png")) == config
    assert configured("--from", str(tmp_path / "out.json"), "--steps", "9") == config.replace(steps=9)
    with pytest.raises(UsageError, match="Name one"):
        configured("--from", str(tmp_path / "out.png"), "--preset", "classic")
    record = json.loads((tmp_path / "out.json").read_text())
    record["options"]["glitter"] = 1
    (tmp_path / "newer.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="glitter"):
        configured("--from", str(tmp_path / "newer.json"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tutorial", "run [25]: Style Loss: 0.460000, Content Loss: 3.500000"),
        ("weighted-layers", "Epoch 25, Loss: 3.96"),
        ("painterly", "step 25/300  total 3.96  style 0.46  content 3.5"),
    ],
)
def test_the_log_line_is_the_systems_own(name: str, line: str) -> None:
    terms = {"style/relu1_1": 0.4, "style/relu2_1": 0.06, "content/relu4_2": 3.5, "total": 3.96}
    event = StepEvent(0, 25, 300, terms, 1.0, 25.0, 100.0, torch.zeros(1))
    config = StylizeConfig(**find_preset(name).values)  # type: ignore[arg-type]
    assert log_line(event, config.log_format) == line


def test_the_command_lists_the_presets_and_shows_one_with_sources() -> None:
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["presets", "--json"]).output)
    assert [preset["name"] for preset in listed["presets"]] == list(PRESETS)
    lines = runner.invoke(app, ["presets", "weighted-layers"]).output.splitlines()
    assert "  --learning-rate 0.03  (stated by the document)" in lines
    assert "  --device auto  (ours: the program's default)" in lines
    shown = json.loads(runner.invoke(app, ["presets", "adam-smoothing", "--json"]).output)
    assert shown["options"]["smooth_every"] == {"value": 251, "source": "stated by the document: 501 was tried too"}
    assert set(shown["options"]) == set(declared(StylizeConfig))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_at_full_depth_on_the_original_network(name: str, pair: tuple[Path, Path]) -> None:
    """Its own taps and losses, small and short; its loss falls."""
    small = {"image_size": 64, "weights": "original", "steps": 8, "monitor_every": 0, "save_every": 0}
    config = StylizeConfig(**find_preset(name).values).replace(**small, device="cpu", precision="fp32")  # type: ignore[arg-type]
    record = stylize(*pair, config).record
    assert record.status == "complete"
    totals = record.history["total"]
    assert totals[-1] < totals[0]
    assert set(config.taps) == {name.partition("/")[2] for name in record.losses if "/" in name}


# Every preset as a user runs it, but small, short and with the taps that a shallow network has.
QUICK = {
    "image_size": 32,
    "weights": "random:0",
    "content_taps": "conv1_2",
    "style_taps": "conv1_1,relu1_2",
    "monitor_every": 0,
    "device": "cpu",
    "engine": "eager",
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_and_its_record_shows_its_values(name: str, tmp_path: Path) -> None:
    for index, picture in enumerate(("content", "style")):
        image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(index))
        save_image(image, tmp_path / f"{picture}.png")
    config = StylizeConfig(**find_preset(name).values).replace(**QUICK, steps=4, save_every=2)  # type: ignore[arg-type]
    result = stylize(tmp_path / "content.png", tmp_path / "style.png", config, output=tmp_path / "out.png")
    assert result.record.status == "complete"
    assert result.record.size == ([32, 32] if name == "weighted-layers" else [32, 24])
    assert torch.isfinite(result.image).all()
    changed = {*QUICK, "steps", "save_every"}
    expected = {option: value for option, value in find_preset(name).values.items() if option not in changed}
    assert {option: result.record.options[option] for option in expected} == expected
    suffix = "jpg" if name == "weighted-layers" else "png"
    assert (tmp_path / f"out-000002.{suffix}").exists()
