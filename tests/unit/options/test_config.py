from __future__ import annotations

import dataclasses

import pytest

from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.errors import UsageError
from nst_fast.options.config import DemoConfig, ExportConfig, ObjectiveOptions, StylizeConfig, parse_taps
from nst_fast.options.declaration import Option, declared

CONFIGS = [StylizeConfig, ExportConfig, BenchConfig, DemoConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_defaults_are_valid_and_every_option_has_a_help_text(config_class: type) -> None:
    config_class()
    for item in declared(config_class):
        assert isinstance(item.option, Option)
        assert item.option.help.endswith((".", ").", "'."))
        assert item.group


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"style_weight": float("nan")}, "--style-weight nan: must be a finite number"),
        ({"style_weight": float("inf")}, "--style-weight inf: must be a finite number"),
        ({"content_weight": -1.0}, "--content-weight -1.0: must be at least 0"),
        ({"steps": 0}, "--steps 0: must be from 1"),
        ({"steps": 1.5}, "--steps 1.5: must be a whole number"),
        ({"steps": True}, "--steps True: must be a whole number"),
        ({"optimizer": "adan"}, "Did you mean adam"),
        ({"content_taps": "relu4_9"}, "unknown tap 'relu4_9' for vgg19. Did you mean relu4_4"),
        ({"network": "vgg16", "content_taps": "relu3_4"}, "unknown tap 'relu3_4' for vgg16"),
        ({"style_taps": "relu1_1:many"}, "'many' is not a weight"),
        ({"style_taps": "relu1_1:nan"}, "finite"),
        ({"style_taps": "relu1_1:-1"}, "at least 0"),
        ({"content_weight": 0, "style_weight": 0}, "nothing to optimise"),
    ],
)
def test_a_bad_value_is_refused_with_flag_value_and_allowed_range(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        StylizeConfig(**values)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_several_problems_are_reported_together() -> None:
    with pytest.raises(UsageError) as caught:
        StylizeConfig(steps=0, image_size=1, style_weight=float("nan"))
    assert all(flag in str(caught.value) for flag in ("--steps", "--image-size", "--style-weight"))


def test_replace_refuses_an_unknown_option_and_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="style_weight"):
        StylizeConfig().replace(stile_weight=1.0)


def test_whole_numbers_are_accepted_where_numbers_are_wanted() -> None:
    assert StylizeConfig(style_weight=3) == StylizeConfig(style_weight=3.0)


def test_a_config_survives_the_way_through_a_record() -> None:
    config = StylizeConfig(steps=7, style_taps="relu1_1:0.5,relu2_1", learning_rate=0.1)
    assert StylizeConfig(**config.as_dict()) == config


def test_tap_weights_default_to_one_and_keep_their_order() -> None:
    assert list(parse_taps("relu3_1:0.5, relu1_1").items()) == [("relu3_1", 0.5), ("relu1_1", 1.0)]


def test_a_term_without_weight_needs_no_taps() -> None:
    assert StylizeConfig(content_weight=0).taps == list(StylizeConfig().style_tap_weights)


def test_export_config_serving_a_run_takes_over_the_whole_objective() -> None:
    run = StylizeConfig(network="vgg16", content_taps="relu3_3", pooling="average", padding="replicate")
    served = ExportConfig.serving(run)
    shared = [field.name for field in dataclasses.fields(ObjectiveOptions)]
    assert {name: getattr(served, name) for name in shared} == {name: getattr(run, name) for name in shared}
