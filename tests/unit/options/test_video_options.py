"""Options of films: times, and values that run from key to key."""

from __future__ import annotations

import pytest

from nst_fast.errors import UsageError
from nst_fast.options.video import Keys, Moment, VideoConfig


@pytest.mark.parametrize(
    ("given", "seconds"), [("0", 0), ("2.5s", 2.5), ("1m", 60), (3, 3), (0.25, 0.25), ("1h", 3600)]
)
def test_a_time(given: object, seconds: float) -> None:
    assert Moment.of(given) == seconds
    assert str(Moment.of(given)) == str(given)


@pytest.mark.parametrize("given", ["", "soon", "-1", "1:30", True, "1d"])
def test_what_is_no_time(given: object) -> None:
    with pytest.raises(UsageError, match="is no time in a film"):
        Moment.of(given)


def test_values_run_straight_from_key_to_key_and_stay_beyond() -> None:
    keys = Keys.of("5s:strength=1;1s:strength=0.2;0:style-weight-each=1,0;2:style-weight-each=0,1")
    assert [keys.at(at)["strength"] for at in (0, 1, 3, 5, 9)] == pytest.approx([0.2, 0.2, 0.6, 1, 1])
    assert [keys.at(at)["style_weight_each"] for at in (0, 0.5, 2)] == [[1, 0], [0.75, 0.25], [0, 1]]
    assert Keys.of("").at(3) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("strength=1", "no time with an option"),
        ("1s:strength", "no time with an option"),
        ("1s:steps=3", "steps does not change over a film"),
        ("soon:strength=1", "is no time"),
        ("1s:strength=2", "must be from 0.0 to 1|must be from 0 to 1"),
        ("1s:strength=1;1s:strength=0", "two values at one time"),
        ("1s:style-weight-each=1;2s:style-weight-each=1,1", "other numbers of shares"),
    ],
)
def test_keys_that_make_no_sense(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        VideoConfig(key=text)


def test_a_frame_that_follows_others_has_a_third_of_the_steps_at_the_final_size() -> None:
    config = VideoConfig(steps=90, key="0:strength=0.5;2:strength=1")
    assert (config.following(1).steps, config.following(1).scales) == (30, 1)
    assert config.still(1).strength == config.following(1).strength == 0.75
    assert config.replace(frame_steps=7).following(0).steps == 7
    assert config.replace(patience=9).following(0).patience == 9


def test_contradictions_of_films() -> None:
    with pytest.raises(UsageError, match="no temporal loss"):
        VideoConfig(engine="ort")
    with pytest.raises(UsageError, match="nothing is between them"):
        VideoConfig(start="3s", end="2s")
