"""Atomic writes, preflight checks, locks, hashes and the cache folder."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from nst_fast.errors import BusyError, InputError, OutputError
from nst_fast.system import files

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
needs_posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "not yet there"
    monkeypatch.setenv("NST_FAST_CACHE", str(folder))
    return folder


def fail_on(monkeypatch: pytest.MonkeyPatch, call: str, code: int, *, at: int = 1) -> None:
    """Make the at-th call of ``os.<call>`` fail with this errno."""
    original, calls = getattr(os, call), []

    def failing(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == at:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    monkeypatch.setattr(os, call, failing)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_bytes(b"abc") == files.sha256_of(tmp_path / "a") == SHA256_OF_ABC
    with pytest.raises(InputError, match="cannot be read: no such file"):
        files.sha256_of(tmp_path / "b")


def test_a_write_leaves_the_content_and_nothing_else(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"one")
    files.write_atomic(tmp_path / "a", lambda stream: [stream.write(part) for part in (b"t", b"wo")] and None)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    fail_on(monkeypatch, call, code)
    remedy = r"no space left on device\. Free some space" if code == errno.ENOSPC else ""
    with pytest.raises(OutputError, match=rf"/a: cannot be written: {remedy}"):
        files.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_failing_content_function_keeps_the_old_file(tmp_path: Path) -> None:
    def content(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise RuntimeError("broken on the way")

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="on the way"):
        files.write_atomic(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@needs_posix
def test_a_folder_that_cannot_be_synced_is_no_failure_but_a_failing_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_on(patch, "fsync", errno.EINVAL, at=2)
        files.write_atomic(tmp_path / "a", b"new")
    fail_on(monkeypatch, "fsync", errno.EIO, at=2)
    with pytest.raises(OutputError):
        files.write_atomic(tmp_path / "b", b"new")


@needs_posix
def test_every_step_happens_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        fsync(handle)

    def recorded_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        assert source.read_bytes() == b"new"
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    files.write_atomic(tmp_path / "a", b"new")
    assert steps == ["sync file", "replace", "sync folder"]


@needs_posix
def test_a_real_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    """A child may write no file above 8 KiB: the kernel's own error, without root and without injection."""
    (tmp_path / "a").write_bytes(b"old")
    script = (
        "import resource, signal, sys; from nst_fast.system import files; from nst_fast.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try: files.write_atomic(sys.argv[1], bytes(100_000))\n"
        "except OutputError as error: sys.exit(str(error))\n"
    )
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True)
    assert "file too large" in child.stderr
    assert child.returncode == 1
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@needs_posix
def test_new_files_follow_the_umask_and_replaced_ones_keep_their_mode(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "new", b"")
    finally:
        os.umask(previous)
    (tmp_path / "old").touch(mode=0o600)
    files.write_atomic(tmp_path / "old", b"")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o600


@needs_posix
def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "real")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "real").read_bytes() == b"new"


def test_impossible_paths_are_output_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a", tmp_path / ("n" * 300), tmp_path / "a\0b"):
        with pytest.raises(OutputError):
            files.write_atomic(path, b"")
        with pytest.raises(OutputError):
            files.check_writable(path, overwrite=True)
    assert names(tmp_path) == ["file"]
    with pytest.raises(OutputError, match="Create the folder first"):
        files.write_atomic(tmp_path / "no" / "a", b"")


@needs_posix
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OutputError, match="not a regular file"):
            files.check_writable(path, overwrite=True)
        with pytest.raises(OutputError, match="not a regular file"):
            files.write_atomic(path, b"")


def test_preflight_creates_the_folder_and_refuses_an_existing_output_unless_it_may_be_replaced(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "deep" / "a.png", overwrite=False)
    assert names(tmp_path / "new" / "deep") == []
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists\. Use `overwrite`"):
        files.check_writable(tmp_path / "a.png", overwrite=False)
    files.check_writable(tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize("relation", ["same path", "other spelling", "symlink", "hard link"])
def test_preflight_refuses_an_output_that_is_an_input(tmp_path: Path, relation: str) -> None:
    given, output = tmp_path / "in.png", tmp_path / "out.png"
    given.write_bytes(b"picture")
    match relation:
        case "same path":
            output = given
        case "other spelling":
            output = tmp_path / "." / "folder" / ".." / "in.png"
            (tmp_path / "folder").mkdir()
        case "symlink":
            output.symlink_to(given)
        case _:
            output.hardlink_to(given)
    with pytest.raises(OutputError, match="is the input"):
        files.check_writable(output, overwrite=True, inputs=[tmp_path / "missing.png", given])


def test_preflight_really_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission bits do not stop root, so only a write that fails can tell."""
    fail_on(monkeypatch, "fsync", errno.EROFS)
    with pytest.raises(OutputError, match="read-only"):
        files.check_writable(tmp_path / "a.png", overwrite=False)
    assert names(tmp_path) == []


def test_the_cache_folder_is_the_platforms_or_the_variables_and_made_when_something_is_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("NST_FAST_CACHE", "")
        folder = files.cache_dir("weights")
    assert folder.is_absolute()
    assert {"nst-fast", "weights"} <= set(folder.parts)
    assert files.cache_dir() == cache
    assert files.cache_dir("weights") == cache / "weights"
    assert not cache.exists()
    files.write_atomic(files.cache_dir("weights") / "a", b"kept")
    assert (cache / "weights" / "a").read_bytes() == b"kept"


def test_a_second_run_on_the_same_output_is_busy_and_names_the_first(cache: Path, tmp_path: Path) -> None:
    with files.lock(tmp_path / "a.png"):
        with (
            pytest.raises(BusyError, match=f"written by process {os.getpid()} on "),
            files.lock(tmp_path / "folder" / ".." / "a.png"),
        ):
            pass
        with files.lock(tmp_path / "b.png"):
            pass
    with files.lock(tmp_path / "a.png"):
        pass
    assert names(tmp_path) == []
    assert not list(cache.rglob("*.owner"))


@needs_posix
def test_a_lock_is_freed_when_its_owner_is_killed(cache: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from nst_fast.system import files\n"
        "with files.lock(sys.argv[1]):\n    sys.stdout.write('locked\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(BusyError, match=f"process {owner.pid}"), files.lock(tmp_path / "a.png"):
            pass
        owner.kill()
    with files.lock(tmp_path / "a.png"):
        pass


def test_a_lock_in_a_cache_that_cannot_be_made_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="Set NST_FAST_CACHE"), files.lock(tmp_path / "a.png"):
        pass


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a b [red] é.png", "a b [red] é.png"),
        ("a\nb\x1b[31m.png", r"a\nb\x1b[31m.png"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
    ],
)
def test_paths_are_shown_on_one_line(path: str, expected: str) -> None:
    assert files.shown(path) == expected


def test_a_file_that_takes_several_runs_appears_when_it_is_full(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError), files.continued(tmp_path / "a") as stream:
        stream.write(b"first ")
        raise InputError("cut")
    assert names(tmp_path) == ["a.part"]
    with files.continued(tmp_path / "a") as stream:
        stream.seek(0)
        assert stream.read() == b"first "
        stream.write(b"second")
        assert names(tmp_path) == ["a.part"]
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first second"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_ends_a_continued_file_without_litter(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    fail_on(monkeypatch, call, errno.ENOSPC)
    with pytest.raises(OutputError, match="no space"), files.continued(tmp_path / "a") as stream:
        stream.write(b"content")
    assert names(tmp_path) == []


def test_what_killed_runs_left_is_swept_after_a_day(cache: Path, tmp_path: Path) -> None:
    (cache / "weights").mkdir(parents=True)
    for folder in (tmp_path, cache / "weights"):
        old, new, other = (folder / name for name in (".nst-fast-1.tmp", ".nst-fast-2.tmp", "old.tmp"))
        for path in (old, new, other):
            path.touch()
        for path in (old, other):
            os.utime(path, (0, 0))
    files.check_writable(tmp_path / "a.png", overwrite=False)
    assert names(tmp_path) == [new.name, other.name]
    files.write_atomic(cache / "weights" / "a", b"kept")
    assert names(cache / "weights") == [new.name, "a", other.name]


def test_a_lock_can_be_waited_for(cache: Path, tmp_path: Path) -> None:
    held = ExitStack()
    released = threading.Timer(0.1, held.close)
    held.enter_context(files.lock(tmp_path / "a"))
    released.start()
    with files.lock(tmp_path / "a", wait=10):
        released.join()
