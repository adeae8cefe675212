"""torchvision's file from a local server that serves it well, badly, or not at all; and the cache that keeps it."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_hub import Hub, block_one, in_place_of_torchvision
from nst_fast.weights import Weights, load_weights

from nst_fast.errors import WeightsError
from nst_fast.network.weights import download
from nst_fast.network.weights import hub as hub_module
from nst_fast.network.weights.hub import HubFile, hub_file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, an empty cache and an empty torch hub folder."""
    with in_place_of_torchvision(tmp_path, monkeypatch) as server:
        monkeypatch.setattr(hub_module, "hub_file", lambda network, mirrors=(): replace(server.file, mirrors=mirrors))
        yield server


def load() -> Weights:
    return load_weights("imagenet", "vgg19", ["relu1_2"])


def cached(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache" / "weights").rglob("*") if entry.is_file())


COPY = "vgg19-imagenet-features.safetensors"
NOTE = COPY + ".json"


def refused(hub: Hub, tmp_path: Path, *, leaves: list[str] | None = None) -> WeightsError:
    """The error of a load that must fail, leave nothing, and tell the user all that is needed to help himself."""
    with pytest.raises(WeightsError) as raised:
        load()
    text = str(raised.value)
    for fact in (hub.file.addresses[0], hub.file.hash_prefix, str(tmp_path / "cache" / "weights" / hub.file.name)):
        assert fact in text
    assert "--weights FILE, or for vgg19 --weights original" in text
    assert "\n" not in text
    assert cached(tmp_path) == (leaves or [])
    return raised.value


def test_the_hub_file_is_torchvisions_and_carries_its_hash() -> None:
    assert hub_file("vgg19") == HubFile("vgg19-dcbb9e9d.pth", "dcbb9e9d")
    assert hub_file("vgg16") == HubFile("vgg16-397923af.pth", "397923af")


def test_the_address_is_torchvisions_unless_a_mirror_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    monkeypatch.delenv("NST_FAST_WEIGHTS_URL", raising=False)
    assert hub_file("vgg19").addresses == [VGG19_Weights.IMAGENET1K_V1.url]
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", "https://mirror.example/torch file:///mnt/")
    addresses = ["https://mirror.example/torch/vgg19-dcbb9e9d.pth", "file:///mnt/vgg19-dcbb9e9d.pth"]
    assert hub_file("vgg19").addresses == addresses
    assert hub_file("vgg19", ("http://other",)).addresses == ["http://other/vgg19-dcbb9e9d.pth"]


def test_a_download_is_kept_as_features_only_and_never_repeated(hub: Hub, tmp_path: Path) -> None:
    first, second = load(), load()
    assert hub.asked == [f"/models/{hub.file.name}"]
    assert cached(tmp_path) == [COPY, NOTE]
    assert all(torch.equal(first.state[name], tensor) for name, tensor in block_one().items())
    assert all(torch.equal(second.state[name], tensor) for name, tensor in first.state.items())
    copy = tmp_path / "cache" / "weights" / COPY
    assert first.sha256 == second.sha256 == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert first.source == second.source
    note = json.loads(copy.with_name(NOTE).read_text("utf-8"))
    assert note["source_sha256"] == hashlib.sha256(hub.body).hexdigest()
    assert b"classifier" not in copy.read_bytes()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take anything for a terminal
    load()
    out, err = capsys.readouterr()
    assert out == ""
    assert hub.file.name in err


def test_the_copy_loads_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.setenv("NST_FAST_OFFLINE", "1")
    load()


def test_a_folder_can_be_the_mirror(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / hub.file.name).write_bytes(hub.body)
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", tmp_path.as_uri())
    load()
    assert hub.asked == []
    assert (tmp_path / hub.file.name).exists()


def test_torch_hubs_own_file_saves_the_download_and_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    shared = tmp_path / "torch" / "hub" / "checkpoints" / hub.file.name
    shared.parent.mkdir(parents=True)
    shared.write_bytes(hub.body)
    load()
    assert hub.asked == []
    assert shared.read_bytes() == hub.body
    assert cached(tmp_path) == [COPY, NOTE]


def test_a_damaged_file_of_torch_hub_is_passed_over_and_left_alone(hub: Hub, tmp_path: Path) -> None:
    shared = tmp_path / "torch" / "hub" / "checkpoints" / hub.file.name
    shared.parent.mkdir(parents=True)
    shared.write_bytes(hub.body[:-1])
    load()
    assert len(hub.asked) == 1
    assert shared.read_bytes() == hub.body[:-1]


def test_a_file_put_into_the_cache_by_hand_is_taken(hub: Hub, tmp_path: Path) -> None:
    hub.file.target.parent.mkdir(parents=True)
    hub.file.target.write_bytes(hub.body)
    load()
    assert hub.asked == []
    assert cached(tmp_path) == [COPY, NOTE]


def test_a_wrong_file_put_into_the_cache_by_hand_is_moved_aside(hub: Hub, tmp_path: Path) -> None:
    hub.file.target.parent.mkdir(parents=True)
    hub.file.target.write_bytes(b"wrong")
    load()
    assert len(hub.asked) == 1
    assert cached(tmp_path) == sorted([COPY, NOTE, f"{hub.file.name}.bad"])


@pytest.mark.parametrize("damage", ["flipped byte", "cut", "no note", "torn note", "odd note"])
def test_a_damaged_copy_is_moved_aside_and_fetched_once_more(damage: str, hub: Hub, tmp_path: Path) -> None:
    before = load()
    copy = tmp_path / "cache" / "weights" / COPY
    content = bytearray(copy.read_bytes())
    if damage == "flipped byte":
        content[-1] ^= 1
        copy.write_bytes(content)
    elif damage == "cut":
        copy.write_bytes(content[:-1])
    elif damage == "no note":
        copy.with_name(NOTE).unlink()
    else:
        copy.with_name(NOTE).write_text('{"sha256": "' if damage == "torn note" else "[1]", "utf-8")
    after = load()
    assert len(hub.asked) == 2
    assert copy.with_name(COPY + ".bad").exists()
    assert after.sha256 == before.sha256
    load()
    assert len(hub.asked) == 2


def test_a_cache_that_cannot_be_written_does_not_stop_torch_hubs_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load().sha256
    shared = tmp_path / "torch" / "hub" / "checkpoints" / hub.file.name
    shared.parent.mkdir(parents=True)
    shared.write_bytes(hub.body)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "file"))
    assert load().sha256 == expected
    assert "cannot keep a copy" in caplog.text


def test_a_cache_that_cannot_be_written_stops_a_download_and_names_the_variable(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written.*NST_FAST_CACHE"):
        load()


def test_the_copy_holds_what_the_file_holds_and_the_rest_is_named(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"lacks conv2_1 of vgg19.*relu1_2, pool1"):
        load_weights("imagenet", "vgg19", ["relu2_1"])


def test_wrong_bytes_are_refused_before_they_are_parsed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("parsed"))
    hub.body = hub.body[:-1] + bytes([hub.body[-1] ^ 1])
    assert hashlib.sha256(hub.body).hexdigest() in refused(hub, tmp_path).message


def test_a_cut_body_is_told_by_its_length_after_three_tries_and_kept(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1000, 500, 250]
    error = refused(hub, tmp_path, leaves=[f"{hub.file.name}.part"])
    assert f"cut after 1750 of {len(hub.body)} bytes" in error.message
    assert hub.ranges == ["", "bytes=1000-", "bytes=1500-"]


def test_a_download_goes_on_where_an_earlier_one_was_cut(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1000, 0, 0]
    refused(hub, tmp_path, leaves=[f"{hub.file.name}.part"])
    hub.ranges.clear()
    load()
    assert hub.ranges == ["bytes=1000-"]
    assert cached(tmp_path) == [COPY, NOTE]


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(hub: Hub, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.cuts = [1000]
    load()
    assert len(hub.asked) == 2
    assert cached(tmp_path) == [COPY, NOTE]


@pytest.mark.parametrize("left", [b"of another file", b"longer" * 10**5])
def test_what_an_earlier_try_left_wrong_is_dropped(left: bytes, hub: Hub, tmp_path: Path) -> None:
    part = hub.file.target.with_name(hub.file.target.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    load()
    assert len(hub.asked) == 2
    assert cached(tmp_path) == [COPY, NOTE]


def test_a_range_from_another_place_is_found_by_its_hash(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1000]
    hub.misplaced = True
    load()
    assert hub.ranges == ["", "bytes=1000-", ""]


def test_a_whole_body_counts_even_if_the_server_promised_more(hub: Hub) -> None:
    hub.stated_length = len(hub.body) + 100
    load()
    assert len(hub.asked) == 1


def test_a_busy_server_is_asked_again(hub: Hub) -> None:
    hub.busy = [503, 429]
    load()
    assert len(hub.asked) == 3


def test_a_body_without_end_is_cut_off(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST_BYTES", 2**20)
    hub.endless = True
    assert "gives more than 1 MiB" in refused(hub, tmp_path).message


def test_the_next_mirror_is_asked_when_one_fails(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", f"{(tmp_path / 'none').as_uri()} {hub.address}")
    load()
    assert len(hub.asked) == 1


def test_two_that_want_the_same_file_fetch_it_once(hub: Hub) -> None:
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.asked) == 1


def test_a_body_longer_than_it_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated_length = len(hub.body) - 100
    assert "sha256 is" in refused(hub, tmp_path).message


def test_an_empty_body_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.body = b""
    assert "gave 0 bytes" in refused(hub, tmp_path).message


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>Sign in to this wireless network</html>", b"\n <HTML></HTML>"])
def test_a_page_in_place_of_the_file_is_called_one(body: bytes, hub: Hub, tmp_path: Path) -> None:
    hub.body = body
    assert "an HTML page instead of the file" in refused(hub, tmp_path).message


def test_an_http_error_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.status = 404
    assert "the server answered 404 Not Found" in refused(hub, tmp_path).message


def test_a_refused_connection_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("NST_FAST_WEIGHTS_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/")
        assert "refused" in refused(hub, tmp_path).message


@pytest.mark.parametrize("before", ["answer", "body"])
def test_a_server_that_stalls_is_given_up(
    before: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    hub.stalls_before = before
    leaves = [f"{hub.file.name}.part"] if before == "body" else []
    assert "nothing came for 0.2 seconds" in refused(hub, tmp_path, leaves=leaves).message


def test_a_name_look_up_that_hangs_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hanging(*args: object, **options: object) -> object:
        released.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    assert "nothing came" in refused(hub, tmp_path).message
    released.set()


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/", "models", "http://[1/"])
def test_an_address_that_is_none_is_refused(
    address: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", address)
    refused(hub, tmp_path)


def test_offline_opens_no_connection(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NST_FAST_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", lambda *args, **options: pytest.fail("opened a socket"))
    error = refused(hub, tmp_path)
    assert "NST_FAST_OFFLINE forbids the network" in error.message
    assert error.exit_code == 5


def test_an_interrupted_download_leaves_no_file_that_counts(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(chunk: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "what_text_is_it", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert cached(tmp_path) == []
