"""The repository's writing side: whole versions or none, numbers given once, one change at a time."""

import errno
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from inferrer.repository import Repository
from inferrer.storage import storage_errors
from mlbuffet.errors import ModelBusyError, StorageFullError, StorageUnavailableError
from mlbuffet.index import Index, read_model
from mlbuffet.manifest import Manifest, Signature


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def _publish(repository: Repository, name: str, data: bytes, *, default: bool = True) -> Manifest:
    with repository.lock(name), repository.stage() as staged:
        staged.write(data)
        staged.finish()
        version = repository.next_version(name)
        manifest = Manifest(name, version, staged.digest, staged.size_bytes, "", "test", Signature((), ()))
        repository.publish(staged, manifest)
        if default:
            repository.set_default(name, version)
    return manifest


def _staged(repository: Repository) -> list[str]:
    return os.listdir(repository.root / ".mlbuffet" / "staging")  # noqa: PTH208 - names


def test_a_published_version_is_whole(repository: Repository) -> None:
    index = Index(repository.root)
    first = _publish(repository, "m", b"one")
    second = _publish(repository, "m", b"two")
    entry = index.model("m")
    assert (entry.default, entry.versions) == (2, {1: first, 2: second})
    assert (repository.root / "m" / "2" / "model.onnx").read_bytes() == b"two"
    assert not _staged(repository)


def test_an_upload_that_fails_leaves_nothing_open_or_on_disk(repository: Repository) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    for _ in range(5):
        with repository.stage() as staged:
            staged.write(b"part")  # and no more comes
    assert not _staged(repository)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_version_numbers_are_given_once(repository: Repository) -> None:
    first, second = _publish(repository, "m", b"1"), _publish(repository, "m", b"2", default=False)
    repository.delete_version(second)
    third = _publish(repository, "m", b"3", default=False)
    assert third.version == 3
    repository.delete_version(third)
    assert repository.next_version("m") == 4
    assert repository.next_version("other") == 1
    assert read_model(repository.root, "m") is not None
    repository.delete_model("m")
    assert repository.next_version("m") == 1
    assert first.version == 1


def test_withdrawing(repository: Repository) -> None:
    only = _publish(repository, "m", b"1", default=False)
    repository.withdraw(only)
    assert not (repository.root / "m").exists()
    repository.withdraw(only)  # again: nothing to do
    kept = _publish(repository, "m", b"1")
    repository.withdraw(_publish(repository, "m", b"2", default=False))
    repository.withdraw(kept)  # the default stays
    entry = read_model(repository.root, "m")
    assert entry is not None
    assert set(entry.versions) == {1}


def test_deleting_what_is_gone(repository: Repository) -> None:
    manifest = _publish(repository, "m", b"1")
    repository.delete_model("m")
    repository.delete_model("m")
    with pytest.raises(StorageUnavailableError):
        repository.save_manifest(manifest)
    assert not _staged(repository)


def _hold(root: Path, name: str, ready: str) -> None:
    with Repository(root).lock(name):
        Path(ready).touch()
        time.sleep(60)


def test_one_change_at_a_time_over_processes_and_case(repository: Repository, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(repository.root, "Model", str(ready)))
    holder.start()
    ends_at = time.monotonic() + 30
    while not ready.exists():
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    with pytest.raises(ModelBusyError), repository.lock("mODEL", timeout_s=0.05):
        pass
    with repository.lock("other", timeout_s=0.05):
        pass
    holder.kill()  # the kernel lets the lock go
    holder.join()
    with repository.lock("model", timeout_s=10):
        pass
    assert not list((repository.root / ".mlbuffet" / "locks").iterdir())


def test_threads_take_turns(repository: Repository) -> None:
    inside, most = 0, 0

    def change() -> None:
        nonlocal inside, most
        for _ in range(20):
            with repository.lock("m", timeout_s=30):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_the_sweep_takes_what_the_dead_left_and_nothing_else(repository: Repository) -> None:
    staging = repository.root / ".mlbuffet" / "staging"
    (staging / "dead").mkdir()
    (staging / "dead" / "model.onnx").write_bytes(b"part")
    (staging / "pointer").write_bytes(b"1")
    (repository.root / ".mlbuffet" / "locks" / "dead").touch()
    with repository.lock("alive"), repository.stage() as staged:
        assert repository.sweep(age_s=3600) == 1  # the lock: it has no age
        assert repository.sweep(age_s=-1) == 2
        assert _staged(repository) == [staged.folder.name]
        assert [item.name for item in (repository.root / ".mlbuffet" / "locks").iterdir()] == ["alive"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EROFS, StorageUnavailableError),
        (errno.EIO, StorageUnavailableError),
        (errno.ENOENT, StorageUnavailableError),
    ],
)
def test_what_the_file_system_refuses(number: int, error: type[Exception]) -> None:
    with pytest.raises(error), storage_errors():
        raise OSError(number, "/a/path")


def test_other_failures_are_not_hidden() -> None:
    with pytest.raises(OSError, match="Bad file"), storage_errors():
        raise OSError(errno.EBADF, "Bad file descriptor")
