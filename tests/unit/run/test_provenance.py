from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nst_fast.errors import InputError
from nst_fast.options.config import StylizeConfig
from nst_fast.run.provenance import FILE, Provenance, recorded_options
from nst_fast.run.record import RunRecord


@pytest.fixture
def made(tmp_path: Path) -> Provenance:
    for name in ("content", "style", "start"):
        (tmp_path / f"{name}.png").write_text(name)
    config = StylizeConfig(init=str(tmp_path / "start.png"), learning_rate=0.1 + 0.2)
    return Provenance.of_run(config, tmp_path / "content.png", [tmp_path / "style.png"], "w", (640, 480))


def record_of(made: Provenance) -> RunRecord:
    inputs = {
        "content": {"sha256": made.content},
        "styles": [{"sha256": made.styles[0]}],
        "init": {"sha256": made.init},
    }
    options = StylizeConfig(init="moved.png", learning_rate=0.3, log_every=7).as_dict()
    machine = {"weights": {"sha256": "w"}, "device": "", "engine": "", "precision": "", "machine": {}}
    return RunRecord(options=options, inputs=inputs, size=[640, 480], **machine)  # type: ignore[arg-type]


def test_cosmetic_options_rounding_and_the_place_of_a_file_make_no_difference(made: Provenance) -> None:
    assert made.options["init"] == FILE
    assert made.differences(Provenance.of_record(record_of(made).as_dict())) == []


def test_each_difference_is_a_phrase(made: Provenance) -> None:
    other = {
        "weights": "v",
        "content": None,
        "styles": [*made.styles, "00"],
        "init": "",
        "size": [1, 1],
        "options": {**made.options, "steps": 3, "learning_rate": None},
    }
    assert replace(made, options=other["options"]).differences(made)[0].endswith(", not 3")
    assert made.differences(replace(made, **other)) == [
        f"`steps` 3, not {made.options['steps']}",
        "`learning_rate` its default, not 0.3",
        "other weights",
        "another content picture",
        "other style pictures",
        "another picture to start from",
        "another size",
    ]


def test_a_picture_that_cannot_be_read_agrees_with_none(made: Provenance, tmp_path: Path) -> None:
    gone = Provenance.of_run(StylizeConfig(), tmp_path / "nowhere.png", [], None)
    assert "another content picture" in gone.differences(made)
    assert "other weights" not in gone.differences(made)


def test_a_record_with_an_option_of_a_later_version_is_not_replayed(made: Provenance, tmp_path: Path) -> None:
    record = record_of(made)
    for picture in (record.inputs["content"], *record.inputs["styles"], record.inputs["init"]):
        picture |= {"name": "a.png", "size": [2, 3]}
    record.save(tmp_path / "out.json")
    assert recorded_options(tmp_path / "out.json", ["weights"])["log_every"] == 7
    with pytest.raises(InputError, match=r"moved\.png, which is not to be found.*`init`"):
        recorded_options(tmp_path / "out.json")
    later = record.as_dict() | {"options": {**record.options, "sparkle": 1}}
    (tmp_path / "out.json").write_text(json.dumps(later))
    with pytest.raises(InputError, match=r"does not know \(sparkle\).*nst-fast info"):
        recorded_options(tmp_path / "out.json")
