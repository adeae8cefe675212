from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.errors import UsageError
from nst_fast.options.config import DemoConfig, ExportConfig, ObjectiveOptions, StylizeConfig
from nst_fast.options.declaration import Option, declared
from nst_fast.options.values import Interval

CONFIGS = [StylizeConfig, ExportConfig, BenchConfig, DemoConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_defaults_are_valid_and_every_option_has_a_help_text(config_class: type) -> None:
    config_class()
    for item in declared(config_class).values():
        assert isinstance(item.option, Option)
        assert item.option.help.endswith((".", ").", "'."))
        assert item.group


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"style_weight": float("nan")}, "`style_weight` nan: must be a finite number"),
        ({"style_weight": float("inf")}, "`style_weight` inf: must be a finite number"),
        ({"content_weight": -1.0}, "`content_weight` -1.0: must be at least 0"),
        ({"steps": 0}, "`steps` 0: must be from 1"),
        ({"steps": 1.5}, "`steps` 1.5: must be a whole number"),
        ({"steps": True}, "`steps` True: must be a whole number"),
        ({"optimizer": "adan"}, "Did you mean adam"),
        ({"content_taps": "relu4_9"}, "unknown tap 'relu4_9' for vgg19. Did you mean relu4_4"),
        ({"network": "vgg16", "content_taps": "relu3_4"}, "unknown tap 'relu3_4' for vgg16"),
        ({"style_taps": "relu1_1:many"}, "'many' is not a weight"),
        ({"style_taps": "relu1_1:nan"}, "finite"),
        ({"style_taps": "relu1_1:-1"}, "at least 0"),
        ({"content_weight": 0, "style_weight": 0}, "nothing to optimise"),
        ({"content_taps": 5}, "`content_taps` 5: must be text, taps, or taps with their weights"),
        ({"content_taps": [1]}, "a tap is named by text"),
        ({"style_taps": {"relu1_1": None}}, "None is not a weight"),
        ({"style_weight_each": 5}, "`style_weight_each` 5: not numbers"),
        ({"style_weight_each": [0, 0]}, "must be at least 0 and not all 0"),
        ({"max_memory": 1.5}, "`max_memory` 1.5: not an amount of memory"),
        ({"max_memory": 0}, "nothing fits into that"),
        ({"time_budget": -1}, "`time_budget` -1: is no duration"),
        ({"time_budget": True}, "is no duration"),
        ({"checkpoint_every": 1.5}, "`checkpoint_every` 1.5: is no duration"),
        ({"checkpoint_every": -1}, "is no duration"),
        ({"style_crop": (1, 2, 3)}, "not auto, none or four numbers"),
        ({"style_crop": (50, 0, 50, 0)}, "at most 90 together"),
        ({"init": 5}, "`init` 5: must be text"),
        ({"style_loss": "sliced", "sliced_directions": "new"}, "`sliced_directions` new: `optimizer` lbfgs needs one"),
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
    assert all(name in str(caught.value) for name in ("`steps`", "`image_size`", "`style_weight`"))


def test_replace_refuses_an_unknown_option_and_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="style_weight"):
        StylizeConfig().replace(stile_weight=1.0)


def test_whole_numbers_are_accepted_where_numbers_are_wanted() -> None:
    assert StylizeConfig(style_weight=3) == StylizeConfig(style_weight=3.0)


# Option, the Python value, what it is in the config, and what a record says of it.
TYPED: list[tuple[str, object, object, object]] = [
    ("content_taps", ["relu3_1", "relu1_1"], {"relu3_1": 1.0, "relu1_1": 1.0}, "relu3_1,relu1_1"),
    ("style_taps", {"relu3_1": 0.5, "relu1_1": 1}, {"relu3_1": 0.5, "relu1_1": 1.0}, "relu3_1:0.5,relu1_1"),
    ("style_weight_each", [0.7, 0.3], (0.7, 0.3), "0.7,0.3"),
    ("max_memory", 2**32, 2**32, "4294967296"),
    ("time_budget", 90.5, 90.5, "90.5"),
    ("time_budget", 0, 0.0, ""),
    ("checkpoint_every", 200, Interval(steps=200), "200"),
    ("checkpoint_every", Interval(seconds=90), Interval(seconds=90), "90s"),
    ("init", Path("noise"), "./noise", "./noise"),
    ("weights", Path("/a/b.pth"), "/a/b.pth", "/a/b.pth"),
    # The text of a record is what was written.
    ("style_taps", " relu3_1:0.50, relu1_1", {"relu3_1": 0.5, "relu1_1": 1.0}, " relu3_1:0.50, relu1_1"),
    ("style_weight_each", "7, 3", (7.0, 3.0), "7, 3"),
    ("max_memory", "4GiB", 2**32, "4GiB"),
    ("time_budget", "1.5m", 90.0, "1.5m"),
    ("checkpoint_every", "30s", Interval(seconds=30), "30s"),
]


@pytest.mark.parametrize(("name", "given", "value", "text"), TYPED)
def test_options_have_types_and_records_have_texts_that_give_them_back(
    name: str, given: object, value: object, text: str
) -> None:
    config = StylizeConfig().replace(**{name: given})
    found = getattr(config, name)
    assert (dict(found) if isinstance(value, dict) else found) == value
    assert list(found) == list(value) if isinstance(value, dict) else True
    assert config.as_dict()[name] == text
    assert json.loads(json.dumps(config.as_dict())) == config.as_dict()
    assert hash(StylizeConfig(**config.as_dict())) == hash(config)
    for copy in (StylizeConfig(**config.as_dict()), pickle.loads(pickle.dumps(config)), config.replace(steps=150)):
        assert copy == config
        assert copy.as_dict() == config.as_dict()


def test_a_crop_in_numbers_is_that_of_the_text() -> None:
    numbers, text = StylizeConfig(style_crop=(0, 3, 0, 0.5)), StylizeConfig(style_crop="0,3,0,0.5")  # type: ignore[arg-type]
    assert numbers.style_crop.borders == text.style_crop.borders == (0, 0.03, 0, 0.005)
    assert numbers == text
    assert numbers.as_dict() == text.as_dict()


def test_the_order_of_taps_counts_and_how_their_weights_were_written_does_not() -> None:
    assert StylizeConfig(style_taps="relu1_1:1.0,relu2_1") == StylizeConfig(style_taps="relu1_1, relu2_1")
    assert StylizeConfig(style_taps="relu2_1,relu1_1") != StylizeConfig(style_taps="relu1_1,relu2_1")


def test_a_term_without_weight_needs_no_taps() -> None:
    assert StylizeConfig(content_weight=0).taps == list(StylizeConfig().style_tap_weights)


def test_export_config_serving_a_run_takes_over_the_whole_objective() -> None:
    run = StylizeConfig(network="vgg16", content_taps="relu3_3", pooling="average", padding="replicate")
    served = ExportConfig.serving(run)
    shared = [field.name for field in dataclasses.fields(ObjectiveOptions)]
    assert {name: getattr(served, name) for name in shared} == {name: getattr(run, name) for name in shared}
