"""Whom a mirror follows, what it makes of what it is told, and what its cache keeps."""

import asyncio
import fcntl
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import IO, Any

import orjson
import pytest

from mlbuffet.errors import ModelCorruptError, ModelFailedError, NotFoundError, NotLoadedError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest, Signature
from modelhost import cache as cache_module
from modelhost.cache import Cache, Part
from modelhost.fetching import PIECE_BYTES
from modelhost.mirror import Mirror
from modelhost.stores import UNKNOWN

DATA = b"".join(bytes([number]) * PIECE_BYTES for number in range(5)) + b"end"
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def made(model: str = "a", version: int = 1, data: bytes = DATA) -> Manifest:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Manifest(model, version, digest, len(data), "2026-01-01", "upload", Signature((), ()))


def told(*manifests: Manifest, gone: tuple[str, ...] = ()) -> bytes:
    """An index of models, each at its last version."""
    names = {manifest.model for manifest in manifests}
    entries = {name: {item.version: item for item in manifests if item.model == name} for name in names}
    models = {name: ModelEntry(name, max(found), found).to_json() for name, found in entries.items()}
    return orjson.dumps(models | dict.fromkeys(gone))


class Inferrer:
    """One that has a file; `fails` is what becomes of its next answers."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.heard_at = asyncio.get_running_loop().time()
        self.followed = 0
        self.asked: list[int] = []  # from where
        self.fails: dict[int, Exception] = {}  # by where

    def follow(self) -> None:
        """Count it."""
        self.followed += 1

    def ask(self, key: bytes, offset: int, count: int) -> asyncio.Future[bytes]:  # noqa: ARG002
        """Answer at once."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.asked.append(offset)
        if offset in self.fails:
            future.set_exception(self.fails.pop(offset))
        else:
            future.set_result(self.data[offset : offset + count])
        return future


Scenario = Callable[[Mirror], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario with a mirror."""

    async def run(scenario: Scenario) -> None:
        mirror = Mirror(tmp_path)
        tasks = [asyncio.create_task(work) for work in (mirror.listen(), mirror.watch())]
        try:
            async with asyncio.timeout(20):
                await scenario(mirror)
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()

    return lambda scenario: asyncio.run(run(scenario))


async def until(check: Callable[[], object]) -> None:
    """Poll."""
    while not check():
        await asyncio.sleep(0.005)


# What it is told -----------------------------------------------------------------------------------------------------


def test_it_follows_one_inferrer_and_the_next_when_that_is_gone(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        alone: list[int] = []
        mirror.on_alone = lambda: alone.append(1)
        first, second = Inferrer(), Inferrer()
        mirror.joined(first)
        mirror.joined(second)
        assert (first.followed, second.followed, mirror.current()) == (1, 0, UNKNOWN)
        mirror.told(second, told(made("x")), whole=True)  # was not asked
        mirror.told(first, told(made("a"), made("b")), whole=True)
        mirror.told(first, told(made("c"), made("a", 2), gone=("b", "never")), whole=False)
        await until(lambda: mirror.current() == 2)
        assert {name: entry.default for name, entry in mirror.models().items()} == {"a": 2, "c": 1}
        mirror.left(first)
        assert (second.followed, alone, mirror.current()) == (1, [], 2)
        mirror.told(second, told(made("c", 3)), whole=True)  # as after a restore from a backup
        await until(lambda: mirror.current() == 3)
        assert {name: entry.default for name, entry in mirror.models().items()} == {"c": 3}
        assert mirror.find(made("c", 3).key) == made("c", 3)
        assert (mirror.find(made("c", 2).key), mirror.find(b"c"), mirror.find(b"\xff:1@")) == (None, None, None)
        mirror.left(second)
        assert (alone, mirror.current()) == ([1], UNKNOWN)

    play(scenario)


def test_it_follows_another_when_the_one_followed_is_silent(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        first, second = Inferrer(), Inferrer()
        mirror.joined(first)
        mirror.joined(second)
        first.heard_at -= 10
        await until(lambda: second.followed)
        assert (first.followed, second.followed) == (1, 1)

    play(scenario)


def test_what_cannot_be_understood_changes_nothing(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        inferrer = Inferrer()
        mirror.joined(inferrer)
        for body in (b"", b"[]", b'{"a": {}}', b'{"a": {"default": 1, "versions": [{}]}}', b'{"a": 1}'):
            mirror.told(inferrer, body, whole=True)
        mirror.told(inferrer, told(made()), whole=True)
        await until(lambda: mirror.current() == 1)
        assert list(mirror.models()) == ["a"]

    play(scenario)


# What it fetches -----------------------------------------------------------------------------------------------------


def test_bytes_are_fetched_once_whoever_needs_them(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        inferrer = Inferrer()
        mirror.joined(inferrer)
        path = await mirror.staged("0" * 32, DIGEST, len(DATA))
        await asyncio.gather(*(mirror.ensure(made(name)) for name in "abc"))
        assert (path.read_bytes() == DATA, path) == (True, mirror.path(made()))
        assert inferrer.asked == [number * PIECE_BYTES for number in range(6)]

    play(scenario)


def test_a_transfer_goes_on_with_another_inferrer(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        inferrers = [Inferrer(), Inferrer()]
        for inferrer in inferrers:
            inferrer.fails = {3 * PIECE_BYTES: ConnectionError("cut")}
            mirror.joined(inferrer)
        await mirror.ensure(made())
        assert mirror.path(made()).read_bytes() == DATA
        assert all(inferrer.asked for inferrer in inferrers), "the other one is asked"
        assert sum(inferrer.asked.count(0) for inferrer in inferrers) == 1, "not from the beginning"

    play(scenario)


def test_what_is_no_more_is_not_asked_for_again(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        inferrer = Inferrer()
        inferrer.fails = {0: NotFoundError("there is no such version")}
        mirror.joined(inferrer)
        with pytest.raises(NotLoadedError, match="no such version"):
            await mirror.ensure(made())
        assert inferrer.asked == [0, PIECE_BYTES]

    play(scenario)


def test_a_fetch_that_is_given_up_can_be_taken_up(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        mirror.joined(Inferrer())
        for delay_s in (0, 0.001, 0.002, 0.005):
            task = asyncio.create_task(mirror.ensure(made()))
            await asyncio.sleep(delay_s)
            task.cancel()
            await asyncio.wait((task,))
        await mirror.ensure(made())
        assert mirror.path(made()).read_bytes() == DATA

    play(scenario)


def test_what_may_be_mended(play: Callable[[Scenario], None]) -> None:
    async def scenario(mirror: Mirror) -> None:
        mirror.joined(Inferrer())
        await mirror.ensure(made())
        assert not mirror.mend(made(), ModelFailedError("it is no model"))
        assert mirror.path(made()).exists()
        assert mirror.mend(made(), NotLoadedError("not here"))
        assert mirror.mend(made(), ModelCorruptError("rotten"))
        assert not mirror.path(made()).exists()

    play(scenario)


# What it keeps -------------------------------------------------------------------------------------------------------


def put(cache: Cache, data: bytes) -> str:
    """Put bytes into a cache."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    cache.path(digest).write_bytes(data)
    return digest


def test_files_go_with_their_last_version_and_uploads_when_they_are_settled(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    one, two, upload, other = (put(cache, data) for data in (b"one", b"two", b"upload", b"other"))
    cache.follow(frozenset({one, two}), settled=())
    cache.keep(upload, "model")
    cache.keep(other)
    cache.follow(frozenset({one}), settled={"another"})
    assert [cache.has(digest, size) for digest, size in ((one, 3), (two, 3), (upload, 6))] == [True, False, True]
    assert [cache.keeps(digest) for digest in (one, upload, other)] == [False, True, True]
    cache.follow(frozenset({one}), settled={"model"})
    cache.release(one)  # a refused upload of the same bytes
    cache.release(other)
    assert [path.name for path in tmp_path.iterdir()] == [one[7:]]


def test_what_no_index_lists_goes_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    listed, unlisted = put(cache, b"listed"), put(cache, b"unlisted")
    (tmp_path / f"{'1' * 64}.part").write_bytes(b"left")
    (tmp_path / "notes.txt").write_bytes(b"by hand")
    held = Part(tmp_path / ("2" * 64), f"sha256:{'2' * 64}")
    cache.follow(frozenset({listed}), settled=())
    cache.sweep()
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(cache_module, "UNLISTED_S", 0)
    cache.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {listed[7:], "notes.txt", f"{'2' * 64}.part"}
    assert not cache.has(unlisted, 8)
    held.close()


def test_one_process_writes_a_file_and_the_next_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / DIGEST[7:]
    first = Part(path, DIGEST)
    first.write(DATA[:1000])
    with pytest.raises(BlockingIOError):
        Part(path, DIGEST)
    first.close()
    second = Part(path, DIGEST)
    assert second.size_bytes == 1000
    second.write(DATA[1000:])
    assert second.finish()
    second.close()
    assert path.read_bytes() == DATA
    forged = Part(tmp_path / "other", DIGEST)
    forged.write(DATA[:-1])
    assert not forged.finish()
    forged.close()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_file_that_has_just_been_given_its_name_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / DIGEST[7:]
    part = path.with_name(f"{path.name}.part")

    def locked(file: IO[bytes], how: int) -> None:
        part.rename(path)  # its owner, between our opening and locking
        real(file, how)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", locked)
    with pytest.raises(BlockingIOError):
        Part(path, DIGEST)
