"""torchvision's file from a local server that serves it well, badly, or not at all; and the cache that keeps it."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_hub import Hub, block_one, in_place_of_torchvision

from nst_fast.errors import WeightsError
from nst_fast.network.weights import Weights, load_weights
from nst_fast.network.weights import hub as hub_module
from nst_fast.network.weights.hub import HubFile, hub_file

COPY = "vgg19-imagenet-features.safetensors"
NOTE = COPY + ".json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, an empty cache and an empty torch hub folder."""
    with in_place_of_torchvision(tmp_path, monkeypatch) as server:
        monkeypatch.setattr(hub_module, "hub_file", lambda network, mirrors=(): replace(server.file, mirrors=mirrors))
        yield server


@pytest.fixture
def shared(hub: Hub, tmp_path: Path) -> Path:
    """Where torch.hub keeps the file."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / hub.file.name
    path.parent.mkdir(parents=True)
    return path


def load() -> Weights:
    return load_weights("imagenet", "vgg19", ["relu1_2"])


def cached(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache" / "weights").rglob("*") if entry.is_file())


def refused(hub: Hub, tmp_path: Path, *, leaves: list[str] | None = None) -> str:
    """The message of a load that must fail, leave nothing, and name all that the user needs to supply the file."""
    with pytest.raises(WeightsError) as raised:
        load()
    text = str(raised.value)
    for fact in (hub.file.addresses[0], hub.file.hash_prefix, str(tmp_path / "cache" / "weights" / hub.file.name)):
        assert fact in text
    assert "a file for `weights`, or for vgg19 `weights` original" in text
    assert "\n" not in text
    assert raised.value.exit_code == 5
    assert cached(tmp_path) == (leaves or [])
    return raised.value.message


def test_the_hub_file_is_torchvisions_unless_a_mirror_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    assert hub_file("vgg19") == HubFile("vgg19-dcbb9e9d.pth", "dcbb9e9d")
    assert hub_file("vgg16") == HubFile("vgg16-397923af.pth", "397923af")
    monkeypatch.delenv("NST_FAST_WEIGHTS_URL", raising=False)
    assert hub_file("vgg19").addresses == [VGG19_Weights.IMAGENET1K_V1.url]
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", "https://mirror.example/torch file:///mnt/")
    addresses = ["https://mirror.example/torch/vgg19-dcbb9e9d.pth", "file:///mnt/vgg19-dcbb9e9d.pth"]
    assert hub_file("vgg19").addresses == addresses
    assert hub_file("vgg19", ("http://other",)).addresses == ["http://other/vgg19-dcbb9e9d.pth"]


# --- the cache


def test_a_download_is_kept_as_features_only_and_never_repeated(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    monkeypatch.setenv("NST_FAST_OFFLINE", "1")
    second = load()
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
    with pytest.raises(WeightsError, match=r"lacks conv2_1 of vgg19.*relu1_2, pool1"):
        load_weights("imagenet", "vgg19", ["relu2_1"])


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


def test_a_mirror_can_be_a_folder_and_is_asked_when_the_one_before_fails(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / hub.file.name).write_bytes(hub.body)
    monkeypatch.setenv("NST_FAST_WEIGHTS_URL", f"{(tmp_path / 'none').as_uri()} {tmp_path.as_uri()}")
    load()
    assert hub.asked == []
    assert (tmp_path / hub.file.name).exists()


@pytest.mark.parametrize("sound", [True, False])
def test_torch_hubs_own_file_saves_the_download_if_it_is_sound_and_is_left_alone(
    sound: bool, hub: Hub, shared: Path, tmp_path: Path
) -> None:
    content = hub.body if sound else hub.body[:-1]
    shared.write_bytes(content)
    load()
    assert len(hub.asked) == (0 if sound else 1)
    assert shared.read_bytes() == content
    assert cached(tmp_path) == [COPY, NOTE]


@pytest.mark.parametrize("sound", [True, False])
def test_a_file_put_into_the_cache_by_hand_is_taken_or_moved_aside(sound: bool, hub: Hub, tmp_path: Path) -> None:
    hub.file.target.parent.mkdir(parents=True)
    hub.file.target.write_bytes(hub.body if sound else b"wrong")
    load()
    assert len(hub.asked) == (0 if sound else 1)
    assert cached(tmp_path) == sorted([COPY, NOTE] + ([] if sound else [f"{hub.file.name}.bad"]))


@pytest.mark.parametrize("damage", ["flipped byte", "cut", "no note", '{"sha256": "', "[1]"])
def test_a_damaged_copy_is_moved_aside_and_fetched_once_more(damage: str, hub: Hub, tmp_path: Path) -> None:
    before = load()
    copy = tmp_path / "cache" / "weights" / COPY
    content = copy.read_bytes()
    match damage:
        case "flipped byte":
            copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            copy.write_bytes(content[:-1])
        case "no note":
            copy.with_name(NOTE).unlink()
        case _:
            copy.with_name(NOTE).write_text(damage, "utf-8")
    after = load()
    assert copy.with_name(COPY + ".bad").exists()
    assert after.sha256 == before.sha256
    load()
    assert len(hub.asked) == 2


def test_a_cache_that_cannot_be_written_stops_a_download_but_not_torch_hubs_file(
    hub: Hub, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load().sha256
    (tmp_path / "file").touch()
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written.*NST_FAST_CACHE"):
        load()
    shared.write_bytes(hub.body)
    assert load().sha256 == expected
    assert "cannot keep a copy" in caplog.text


def test_two_that_want_the_same_file_fetch_it_once(hub: Hub) -> None:
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.asked) == 1


# --- continued


def test_a_cut_body_is_continued_twice_and_kept_for_the_next_load(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1000, 500, 250]
    message = refused(hub, tmp_path, leaves=[f"{hub.file.name}.part"])
    assert f"cut after 1750 of {len(hub.body)} bytes" in message
    load()
    assert hub.ranges == ["", "bytes=1000-", "bytes=1500-", "bytes=1750-"]
    assert cached(tmp_path) == [COPY, NOTE]


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ({"cuts": [1000], "knows_ranges": False}, 2),
        ({"cuts": [1000], "misplaced": True}, 3),  # a range from another place is found by the hash
        ({"stated_length": 10**6}, 1),  # a whole body counts, whatever length was stated
        ({"busy": [503, 429]}, 3),
    ],
)
def test_a_server_with_a_fault_is_asked_until_the_file_is_whole(
    faults: dict[str, object], requests: int, hub: Hub, tmp_path: Path
) -> None:
    for name, value in faults.items():
        setattr(hub, name, value)
    load()
    assert len(hub.asked) == requests
    assert cached(tmp_path) == [COPY, NOTE]


@pytest.mark.parametrize("left", [b"of another file", b"longer" * 10**5])
def test_what_an_earlier_try_left_wrong_is_dropped(left: bytes, hub: Hub, tmp_path: Path) -> None:
    part = hub.file.target.with_name(hub.file.target.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    load()
    assert len(hub.asked) == 2
    assert cached(tmp_path) == [COPY, NOTE]


def test_a_whole_part_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    part = hub.file.target.with_name(hub.file.target.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.body)
    load()
    assert hub.asked == []
    assert cached(tmp_path) == [COPY, NOTE]


# --- refused


def changed(hub: Hub) -> None:
    hub.body = hub.body[:-1] + bytes([hub.body[-1] ^ 1])


def setting(**values: object) -> Callable[[Hub], None]:
    return lambda hub: [setattr(hub, name, value) for name, value in values.items()] and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed, "whose sha256 is"),
        (lambda hub: setattr(hub, "stated_length", len(hub.body) - 100), "whose sha256 is"),
        (setting(body=b""), "gave 0 bytes"),
        (setting(body=b"<!DOCTYPE html><html>Sign in to this wireless network</html>"), "an HTML page instead of"),
        (setting(body=b"\n <HTML></HTML>", drips=True), "an HTML page instead of the file"),
        (setting(status=404), "the server answered 404 Not Found"),
        (setting(endless=True), "gives more than 1 MiB"),
        (setting(stalls_before="answer"), "nothing came for 0.2 seconds"),
        (setting(stalls_before="body"), "nothing came for 0.2 seconds"),
    ],
)
def test_a_wrong_answer_is_named_and_never_parsed(
    spoil: Callable[[Hub], None], message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("parsed"))
    monkeypatch.setattr(hub_module, "LARGEST_BYTES", 2**20)
    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.2)
    spoil(hub)
    leaves = [f"{hub.file.name}.part"] if hub.stalls_before == "body" else []
    assert message in refused(hub, tmp_path, leaves=leaves)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/", "models", "http://[1/", "http://127.0.0.1:{unused}/"])
def test_an_address_that_leads_nowhere_is_refused(
    address: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("NST_FAST_WEIGHTS_URL", address.format(unused=unused.getsockname()[1]))
        assert ("refused" in refused(hub, tmp_path)) == ("unused" in address)


def test_a_name_look_up_that_hangs_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hanging(*args: object, **options: object) -> object:
        released.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    assert "nothing came" in refused(hub, tmp_path)
    released.set()


def test_offline_opens_no_connection(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NST_FAST_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", lambda *args, **options: pytest.fail("opened a socket"))
    assert "NST_FAST_OFFLINE forbids the network" in refused(hub, tmp_path)


def test_an_interrupted_download_leaves_no_file_that_counts(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(chunk: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_module, "what_text_is_it", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert cached(tmp_path) == []
