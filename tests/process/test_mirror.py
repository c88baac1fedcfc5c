"""Modelhosts that do not share the repository's volume: what they are told, what they fetch, what they survive."""

import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import requests
import trustme

from mlbuffet.channel import Kind
from tests.harness.acknowledged import make_default
from tests.harness.faults import flip_bit
from tests.harness.invariants import hosted, unharmed
from tests.harness.mirrors import add_mirror, cached, digest_of, wait_loaded
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, copy_samples, wait_until
from tests.harness.proxy import CutError, Faults, Frame, Proxy
from tests.harness.tls import INFERRER, MODELHOST, write_certificate

MIRROR, OTHER = "modelhost-mirror", "modelhost-1"
LARGE = 10_000_000  # ten pieces
KEPT_BYTES = 16 << 20  # by the C library for the threads that read them, six at most


Wired = tuple[RunningPlatform, Proxy]


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform with one modelhost at the repository, and a mirror over TCP with TLS."""
    tmp_path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    roles = {"inferrer": INFERRER, "modelhost": MODELHOST}
    tls = {name: write_certificate(tmp_path / "tls" / name, authority, role) for name, role in roles.items()}
    copy_samples(tmp_path / "repository")
    platform = RunningPlatform(tmp_path / "repository", modelhosts=1)
    add_mirror(platform, MIRROR, tmp_path / "cache", tls)
    with platform:
        yield platform


@pytest.fixture(scope="module")
def by_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """The same without TLS, with a proxy in front of the mirror."""
    tmp_path = tmp_path_factory.mktemp("wired")
    copy_samples(tmp_path / "repository")
    platform = RunningPlatform(tmp_path / "repository", modelhosts=1)
    places = platform.settings["inferrer"]["INFERRER_MODELHOSTS"]
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(add_mirror(platform, MIRROR, tmp_path / "cache")))
        platform.settings["inferrer"]["INFERRER_MODELHOSTS"] = f"{places},{proxy.place}"
        yield stack.enter_context(platform), proxy


@pytest.fixture
def mirrored(over_tls: RunningPlatform) -> Iterator[RunningPlatform]:
    """A platform with a mirror; afterwards it is as it was."""
    yield over_tls
    restore(over_tls)


@pytest.fixture
def wired(by_proxy: Wired) -> Iterator[Wired]:
    """The same with the proxy."""
    yield by_proxy
    by_proxy[1].faults = Faults()
    restore(by_proxy[0])


def restore(platform: RunningPlatform) -> None:
    """Start what was stopped, delete what was uploaded."""
    for name, process in platform.processes.items():
        if process.poll() is not None:
            platform.start(name)
    platform.wait_ready()
    for name in platform.names():
        if not name.endswith(".onnx"):
            delete(platform, name)


def folder_of(platform: RunningPlatform) -> Path:
    """Where the mirror keeps what it fetches."""
    return Path(platform.settings[MIRROR]["MODELHOST_REPOSITORY"])


def values(platform: RunningPlatform, name: str) -> object:
    """The answer of a constant model, or the error's code."""
    answer = platform.predict(name, [[1]]).json()
    return answer["values"][0][0] if "values" in answer else answer["error"]["code"]


def delete(platform: RunningPlatform, name: str) -> None:
    """Delete a model."""
    assert requests.delete(platform.path(name), timeout=10).status_code == 200


def fetches(platform: RunningPlatform) -> list[str]:
    """What the mirror has fetched, each time."""
    return [record["digest"] for record in platform.records(MIRROR) if record["event"] == "version fetched"]


def stored(platform: RunningPlatform) -> set[str]:
    """The names of the files that the mirror has."""
    return {path.name for path in cached(folder_of(platform))}


def versions(platform: RunningPlatform, name: str) -> list[int]:
    """The versions of a model that the mirror has loaded."""
    return [item["version"] for item in hosted(platform, MIRROR) if item["model"] == name]


def is_gone(platform: RunningPlatform, name: str) -> bool:
    """Tell whether the mirror has no version of a model loaded."""
    return not versions(platform, name)


# What it is told -----------------------------------------------------------------------------------------------------


def test_a_mirror_answers_what_was_uploaded_rolled_back_and_deleted(mirrored: RunningPlatform) -> None:
    first, second = constant(1, padding_bytes=LARGE), constant(2, padding_bytes=LARGE)
    with unharmed(mirrored, rss_bytes=KEPT_BYTES):
        for model in (first, second):
            assert mirrored.put("two", model).status_code == 201
        assert {digest_of(first), digest_of(second)} <= stored(mirrored)
        mirrored.stop(OTHER)
        assert values(mirrored, "two") == 2
        assert make_default(mirrored, "two", 1).status_code == 200
        assert (values(mirrored, "two"), values(mirrored, "two:2")) == (1, 2)
        assert requests.delete(mirrored.path("two:2"), timeout=10).status_code == 200
        assert values(mirrored, "two:2") == "VERSION_NOT_FOUND"
        wait_until(
            lambda: digest_of(second) not in stored(mirrored),
            what="the file being gone",
        )
        delete(mirrored, "two")
        wait_until(lambda: is_gone(mirrored, "two"), what="the model being unloaded")
        wait_until(
            lambda: digest_of(first) not in stored(mirrored),
            what="the file being gone",
        )
        assert [fetches(mirrored).count(f"sha256:{digest_of(data)}") for data in (first, second)] == [1, 1]
        mirrored.start(OTHER)
        mirrored.wait_ready()


def test_u02_u07_an_upload_is_checked_where_only_mirrors_are(mirrored: RunningPlatform) -> None:
    mirrored.stop(OTHER)
    model = constant(7, padding_bytes=LARGE)
    with unharmed(mirrored):
        assert mirrored.put("seven", model, **{"X-Content-SHA256": "0" * 64}).status_code == 400
        refused = mirrored.put("no", b"hello" * 100_000)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "INVALID_MODEL")
        assert digest_of(b"hello" * 100_000) not in stored(mirrored)
        assert mirrored.put("seven", model).status_code == 201
        assert values(mirrored, "seven") == 7
        delete(mirrored, "seven")
    assert not [name for name in stored(mirrored) if name.endswith(".part")]


def test_a_version_that_is_not_the_default_is_fetched_on_first_use(mirrored: RunningPlatform) -> None:
    mirrored.stop(MIRROR)
    model = constant(37, padding_bytes=LARGE)
    assert [mirrored.put("old", data).status_code for data in (model, constant(2))] == [201, 201]
    mirrored.start(MIRROR)
    mirrored.wait_ready()
    assert f"sha256:{digest_of(model)}" not in fetches(mirrored)
    mirrored.stop(OTHER)
    assert (values(mirrored, "old:1"), values(mirrored, "old")) == (37, 2)
    assert f"sha256:{digest_of(model)}" in fetches(mirrored)


def test_u12_no_answer_of_a_mirror_is_older_than_what_was_acknowledged(mirrored: RunningPlatform) -> None:
    assert mirrored.put("counter", constant(0)).status_code == 201
    mirrored.stop(OTHER)
    acknowledged, sent, wrong = [0], [0], []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            least = acknowledged[0]
            number = values(mirrored, "counter")
            if not isinstance(number, float) or not least <= number <= sent[0]:
                wrong.append((least, number, sent[0]))

    threads = [threading.Thread(target=watch) for _ in range(4)]
    with unharmed(mirrored):
        for thread in threads:
            thread.start()
        for number in range(1, 16):
            sent[0] = number
            assert mirrored.put("counter", constant(number, padding_bytes=300_000)).status_code == 201
            acknowledged[0] = number
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


# What it survives ----------------------------------------------------------------------------------------------------


def piece(frame: Frame) -> bool:
    """Tell whether a frame carries a piece of a file."""
    return frame.upward and frame.kind == Kind.REPLY


def after(pieces: int, then: Callable[[Frame], bytes]) -> Callable[[Frame], bytes]:
    """A rewriter of all pieces of files but the first."""
    numbers = itertools.count()

    def rewrite(frame: Frame) -> bytes:
        return then(frame) if piece(frame) and next(numbers) >= pieces else frame.encoded()

    return rewrite


def withheld(_: Frame) -> bytes:
    """It never arrives."""
    return b""


def part_of(platform: RunningPlatform, model: bytes) -> Path:
    """Where the mirror writes what it fetches."""
    return folder_of(platform) / ".mlbuffet" / "cache" / f"{digest_of(model)}.part"


def test_a_cut_transfer_goes_on_where_it_ended(wired: Wired) -> None:
    platform, proxy = wired
    model = constant(31, padding_bytes=LARGE)
    pieces = []

    def cut(frame: Frame) -> bytes:
        if piece(frame):
            pieces.append(len(frame.body))
            if len(pieces) == 8:
                raise CutError(frame.encoded()[:1000])
        return frame.encoded()

    with unharmed(platform):
        proxy.faults = Faults(rewrite=cut)
        assert platform.put("cut", model).status_code == 201
        wait_loaded(platform, MIRROR, "cut", 1)
        proxy.faults = Faults()
        platform.wait_ready()
        delete(platform, "cut")
    assert sum(pieces) < len(model) + 5 * max(pieces), "what had come was not fetched again"


def test_bytes_with_another_digest_are_thrown_away(wired: Wired) -> None:
    platform, proxy = wired
    model = constant(32, padding_bytes=LARGE)
    numbers = itertools.count()

    def forge(frame: Frame) -> bytes:
        return frame._replace(body=b"\0" * len(frame.body)).encoded() if next(numbers) == 0 else frame.encoded()

    proxy.faults = Faults(rewrite=after(3, forge))
    assert platform.put("forged", model).status_code == 201
    wait_loaded(platform, MIRROR, "forged", 1)
    records = [record for record in platform.records(MIRROR) if digest_of(model) in record.get("digest", "")]
    whys = [record["why"] for record in records if record["event"] == "fetch failed"]
    assert whys == ["the bytes received have another digest"]
    assert not part_of(platform, model).exists()
    platform.stop(OTHER)
    assert values(platform, "forged") == 32


def test_a_mirror_that_cannot_fetch_takes_no_traffic_for_the_model_until_it_has(
    wired: Wired,
) -> None:
    platform, proxy = wired
    with unharmed(platform):
        proxy.faults = Faults(rewrite=after(3, lambda frame: frame._replace(body=b"short").encoded()))
        assert platform.put("late", constant(33, padding_bytes=LARGE)).status_code == 201
        assert [values(platform, "late") for _ in range(20)] == [33] * 20
        assert [values(platform, "late:1") for _ in range(20)] == [33] * 20
        proxy.faults = Faults()
        wait_loaded(platform, MIRROR, "late", 1)
        platform.stop(OTHER)
        assert values(platform, "late") == 33
        platform.start(OTHER)
        platform.wait_ready()
        delete(platform, "late")


def test_a_mirror_killed_in_the_middle_of_a_fetch_goes_on_when_it_is_back(wired: Wired) -> None:
    platform, proxy = wired
    model = constant(34, padding_bytes=LARGE)
    proxy.faults = Faults(rewrite=after(6, withheld))
    upload = threading.Thread(target=platform.put, args=("killed", model))
    upload.start()
    wait_until(lambda: part_of(platform, model).exists() and part_of(platform, model).stat().st_size > 1_000_000)
    platform.kill(MIRROR)
    upload.join()
    came = part_of(platform, model).stat().st_size
    pieces: list[int] = []

    def count(frame: Frame) -> bytes:
        pieces.append(len(frame.body) if piece(frame) else 0)
        return frame.encoded()

    proxy.faults = Faults(rewrite=count)
    platform.start(MIRROR)
    platform.wait_ready()
    wait_loaded(platform, MIRROR, "killed", 1)
    assert values(platform, "killed") == 34
    assert sum(pieces) == len(model) - came  # all else is in the cache


def test_a_mirror_that_was_away_catches_up_before_it_is_ready(wired: Wired) -> None:
    platform, proxy = wired
    models = {f"model-{number}": constant(number) for number in range(4)}
    for name, model in models.items():
        assert platform.put(name, model).status_code == 201
    proxy.faults = Faults(swallow=True)
    proxy.reset()
    delete(platform, "model-0")
    assert platform.put("model-1", constant(11)).status_code == 201
    states: list[tuple[bool, bool]] = []

    def note(frame: Frame) -> bytes:
        if frame.kind == Kind.STATE:
            states.append((b'"ready":true' in frame.body, b"model-1:2@" in frame.body))
        return frame.encoded()

    proxy.faults = Faults(rewrite=note)
    proxy.reset()
    platform.wait_ready()
    assert states[0] == (False, False)
    assert all(has_it for is_ready, has_it in states if is_ready)
    platform.stop(OTHER)
    assert (values(platform, "model-1"), values(platform, "model-2")) == (11, 2)
    assert values(platform, "model-0") == "MODEL_NOT_FOUND"
    wait_until(partial(is_gone, platform, "model-0"), what="the deleted model being unloaded")


def test_an_inferrer_that_starts_anew_and_a_repository_set_back_are_followed(
    mirrored: RunningPlatform, tmp_path: Path
) -> None:
    assert mirrored.put("kept", constant(1)).status_code == 201
    shutil.copytree(mirrored.repository, tmp_path / "backup")
    assert mirrored.put("lost", constant(3)).status_code == 201
    assert mirrored.put("kept", constant(2)).status_code == 201
    wait_until(lambda: 1 not in versions(mirrored, "kept"), what="the mirror having been told of all that")
    mirrored.stop("inferrer")
    mirrored.stop(OTHER)
    shutil.rmtree(mirrored.repository)
    (tmp_path / "backup").rename(mirrored.repository)
    mirrored.start("inferrer")
    mirrored.wait_ready()
    assert (values(mirrored, "kept"), values(mirrored, "lost")) == (1, "MODEL_NOT_FOUND")
    wait_until(partial(is_gone, mirrored, "lost"), what="the lost model being unloaded")
    assert mirrored.put("kept", constant(4)).status_code == 201
    assert values(mirrored, "kept") == 4


def test_u17_a_file_that_rots_in_the_cache_is_fetched_again(mirrored: RunningPlatform) -> None:
    model = constant(35, padding_bytes=LARGE)
    assert mirrored.put("rotten", model).status_code == 201
    mirrored.stop(MIRROR)
    flip_bit(part_of(mirrored, model).with_suffix(""), random.Random(1))  # noqa: S311
    mirrored.start(MIRROR)
    mirrored.wait_ready()
    wait_loaded(mirrored, MIRROR, "rotten", 1)
    mirrored.stop(OTHER)
    assert values(mirrored, "rotten") == 35


def test_mirrors_of_one_machine_may_share_a_folder(tmp_path: Path) -> None:
    copy_samples(tmp_path / "repository")
    platform = RunningPlatform(tmp_path / "repository", modelhosts=1)
    names = ("modelhost-mirror-1", "modelhost-mirror-2")
    for name in names:
        add_mirror(platform, name, tmp_path / "cache")
    with platform:
        model = constant(36, padding_bytes=LARGE)
        assert platform.put("shared", model).status_code == 201
        for name in names:
            wait_loaded(platform, name, "shared", 1)
        events = [record for name in names for record in platform.records(name) if record.get("digest")]
        assert [record["event"] for record in events if digest_of(model) in record["digest"]].count(
            "version fetched"
        ) <= 2
        assert not [path for path in cached(tmp_path / "cache") if path.suffix]
