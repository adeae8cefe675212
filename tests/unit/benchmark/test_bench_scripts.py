"""What the scripts in bench/ share."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from nst_fast.benchmark.scripts import by_turns, conditions, keep, paired_ratio, read_json, script
from nst_fast.errors import InputError


def test_cases_take_turns_forwards_and_backwards_after_one_that_is_not_timed() -> None:
    done: list[str] = []
    ticks = count()
    seconds = by_turns({name: partial(done.append, name) for name in "ab"}, 2, lambda: next(ticks))
    assert "".join(done) == "abbaab"
    assert seconds == {"a": [1, 1], "b": [1, 1]}
    assert paired_ratio([1, 4, 9], [1, 2, 3]) == 2


def test_a_script_ends_with_the_code_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise InputError("no picture")

    assert (script(fails)(), capsys.readouterr().err) == (InputError.exit_code, "error: no picture\n")
    assert script(lambda: None)() == 0


def test_a_result_is_kept_under_its_conditions(tmp_path: Path) -> None:
    data = conditions("nst-fast/some/1") | {"rows": [1.5]}
    paths = keep(tmp_path / "new", "some", data, md="| a |\n")
    assert [path.suffix for path in paths] == [".json", ".md"]
    assert paths[0].name.startswith("some-")
    assert read_json(paths[0]) == json.loads(json.dumps(data))
    assert read_json(tmp_path / "none.json") == {}
