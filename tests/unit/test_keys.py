"""API keys by themselves: what one is, how it is kept, found, followed and limited."""

import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.clients import Proxies
from inferrer.keyring import KeyRing
from inferrer.rates import Rate, WrongKeys
from inferrer.sentkeys import find_key, sent_key
from mlbuffet.errors import ConflictError, NotFoundError, StorageUnavailableError, UnprocessableError
from mlbuffet.keyfile import read_hashing_key, read_keys, write_keys
from mlbuffet.keys import SCOPES, Key, Wish, digest, is_locked_out, new_key
from mlbuffet.keystore import KeyStore, KeyStoreError

HASHING = bytes(range(32))
NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)
KEY, TEXT = new_key(Wish("me", ["admin"]), HASHING, NOW)
RAW = TEXT.encode()


def bearer(text: str) -> tuple[bytes, None]:
    return f"Bearer {text}".encode(), None


# What a key is ------------------------------------------------------------------------------------------------------


def test_a_key_is_an_id_and_256_random_bits() -> None:
    number, _, secret = TEXT.partition(".")
    assert number == KEY.id
    assert len(secret) == 43
    assert len({new_key(Wish("me", ["admin"]), HASHING, NOW)[1] for _ in range(50)}) == 50


def test_s08_what_is_kept_and_shown_holds_no_secret() -> None:
    secret = TEXT.partition(".")[2]
    assert secret not in write_keys([KEY], HASHING).decode() + repr(KEY) + json.dumps(KEY.shown())
    assert KEY.hash not in repr(KEY) + json.dumps(KEY.shown())


def test_scopes_imply_what_people_expect() -> None:
    def allowed(*scopes: str) -> set[str]:
        return set(new_key(Wish("me", scopes), HASHING, NOW)[0].allowed)

    assert allowed("admin") == set(SCOPES)
    assert allowed("models:write") == {"models:write", "models:read"}
    for scope in ("predict", "models:read", "train"):
        assert allowed(scope) == {scope}


@pytest.mark.parametrize(
    "wish",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": "\x00"},
        {"name": 1},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": "admin"},
        {"scopes": ["admin", "admin"]},
        {"scopes": [["admin"]]},
        {"scopes": None},
        {"rate": 0},
        {"rate": -1},
        {"rate": True},
        {"rate": "1"},
        {"rate": float("nan")},
        {"rate": 1e7},
        {"expires": "tomorrow"},
        {"expires": "2027-02-01T00:00:00"},
        {"expires": 1},
        {"expires": "9999-12-31T23:59:59-23:00"},
    ],
)
def test_what_no_key_can_be(wish: dict[str, Any]) -> None:
    with pytest.raises(UnprocessableError):
        Wish(**{"name": "me", "scopes": ["predict"]} | wish)


def test_s12_a_name_like_an_address_is_text() -> None:
    assert new_key(Wish("http://169.254.169.254/", ["predict"]), HASHING, NOW)[0].name == "http://169.254.169.254/"


@pytest.mark.parametrize("expires", ["2027-01-31T12:00:00Z", "2027-01-31T13:00:00+01:00", "1970-01-01T00:00:00Z"])
def test_a_key_that_has_expired_is_not_made(expires: str) -> None:
    with pytest.raises(UnprocessableError, match="future"):
        new_key(Wish("me", ["predict"], expires), HASHING, NOW)


def test_s02_a_key_ends_at_the_very_moment() -> None:
    key, _ = new_key(Wish("me", ["predict"], "2027-01-31T14:00:00+01:00"), HASHING, NOW)
    assert key.expires == "2027-01-31T13:00:00Z"
    assert key.ends_at == NOW.timestamp() + 3600


# Found or not -------------------------------------------------------------------------------------------------------


def test_s02_only_the_very_bytes_are_the_key() -> None:
    keys = {KEY.id: KEY}
    assert find_key(keys, RAW, HASHING) is KEY
    flipped = [bytes((*RAW[:at], RAW[at] ^ 1 << bit, *RAW[at + 1 :])) for at in range(len(RAW)) for bit in range(8)]
    others = [
        b"",
        RAW[:-1],
        RAW + b"A",
        RAW + b"\n",
        RAW.upper(),
        b" " + RAW,
        RAW * 200,
        b"\xff" * 56,
        KEY.hash.encode(),
    ]
    for wrong in flipped + others:
        assert find_key(keys, wrong, HASHING) is None
    assert find_key({}, RAW, HASHING) is None
    assert find_key(keys, RAW, bytes(32)) is None


@given(st.binary(max_size=200))
def test_s02_whatever_is_sent_is_no_key(sent: bytes) -> None:
    assert find_key({KEY.id: KEY}, sent, HASHING) is None


@pytest.mark.parametrize(
    ("authorization", "api_key", "found"),
    [
        (b"Bearer KEY", None, True),
        (b"bearer   KEY", None, True),
        (b"BEARER KEY", b"KEY", True),
        (None, b"KEY", True),
        (b"Bearer KEY", b"other", False),
        (b"Bearer other", b"KEY", False),
        (b"", b"KEY", False),
        (b"Basic KEY", b"KEY", False),
        (b"Basic KEY", None, False),
        (b"KEY", None, False),
        (b"Bearer", None, False),
        (b"Bearer\tKEY", None, False),
        (b"Bearer KEY,Bearer KEY", None, False),
        (b"Bearer KEY KEY", None, False),
        (None, b"KEY,KEY", False),
        (None, None, False),
    ],
)
def test_where_a_key_is_looked_for(authorization: bytes | None, api_key: bytes | None, *, found: bool) -> None:
    """The key is put in only here: it is another one in each process, and tests have the same names in all."""
    filled = [value and value.replace(b"KEY", RAW) for value in (authorization, api_key)]
    text = sent_key(*filled)
    assert (text is not None and find_key({KEY.id: KEY}, text, HASHING) is KEY) is found


ROUNDS, ROUND = (1000, 100) if os.environ.get("MLBUFFET_SOAK") == "1" else (60, 100)
TIMED_AGAIN = 4
P_LEAST = 0.01


def differences(compared: Callable[[bytes], object], one: bytes, other: bytes) -> list[float]:
    """By how many nanoseconds the median of one text's times exceeds the other's, for each of many short rounds.

    Within a round the two are timed in turns of random order; whatever else the machine does meets both.
    """
    found = []
    for _ in range(ROUNDS):
        taken: dict[bytes, list[int]] = {one: [], other: []}
        for _ in range(ROUND):
            for text in random.sample((one, other), 2):
                sent = bytes(bytearray(text))  # a new one each time: where it lies in memory is no part of the question
                began = time.perf_counter_ns()
                compared(sent)
                taken[text].append(time.perf_counter_ns() - began)
        found.append(statistics.median(taken[one]) - statistics.median(taken[other]))
    return found


def p_value(sample: list[float]) -> float:
    """Student's t-test of a mean of 0, two-sided; with so many, t is as good as normal."""
    deviation = statistics.stdev(sample) or 1e-9
    return math.erfc(abs(statistics.fmean(sample)) / deviation * math.sqrt(len(sample) / 2))


def differ(compared: Callable[[bytes], object], one: bytes, other: bytes) -> bool:
    """Tell whether two texts take differently long, each time that it is measured: once may be chance."""
    return all(p_value(differences(compared, one, other)) <= P_LEAST for _ in range(TIMED_AGAIN))


NEAR, FAR = RAW[:-1] + b"_", RAW[:13] + b"_" * 43  # both of the right id


def test_s06_a_nearly_right_key_takes_as_long_as_a_wrong_one() -> None:
    keys = {KEY.id: KEY}
    assert not differ(lambda text: find_key(keys, text, HASHING), NEAR, FAR)


def test_s06_the_measurement_would_find_a_comparison_that_ends_early() -> None:
    def compare(text: bytes) -> bool:
        digest(text, HASHING)
        return all(mine == theirs for mine, theirs in zip(RAW, text, strict=True))

    assert differ(compare, NEAR, FAR)


# The file -----------------------------------------------------------------------------------------------------------


def damaged() -> list[bytes]:
    whole = json.loads(write_keys([KEY], HASHING))
    row = whole["keys"][0]
    rows: list[Any] = [
        [row, row],
        [{name: value for name, value in row.items() if name != "hash"}],
        [row | {"hash": "zz"}],
        [row | {"hash": "ab"}],
        [row | {"scopes": ["predict", "predict"]}],
        [row | {"scopes": []}],
        [row | {"scopes": ["later", 1]}],
        [row | {"expires": "never"}],
        [row | {"rate": "fast"}],
        [1],
        {},
        None,
    ]
    data = [json.dumps(whole | {"keys": item}).encode() for item in rows if item != {}]
    return [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, *data, json.dumps(whole | {"hashed_with": ""}).encode()]


@pytest.mark.parametrize("data", damaged())
def test_a_damaged_file_is_refused_whole(data: bytes) -> None:
    with pytest.raises(ValueError, match="file of keys"):
        read_keys(data, HASHING)


def test_a_file_is_read_as_it_was_written() -> None:
    other, _ = new_key(Wish("é ☃", ["predict", "train"], "2030-01-01T00:00:00Z", 2.5), HASHING, NOW)
    assert list(read_keys(write_keys([KEY, other], HASHING), HASHING).keys.values()) == [KEY, other]
    with pytest.raises(ValueError, match="another hashing key"):
        read_keys(write_keys([KEY], HASHING), bytes(32))


def test_d03_what_a_newer_version_keeps_stays_and_gives_nothing(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, HASHING.hex())
    store.make(Wish("me", ["admin"]))
    held = json.loads(store.path.read_bytes())
    held["format"] = 2
    held["keys"][0]["team"] = {"name": "blue"}
    later, _ = new_key(Wish("later", ["train"]), HASHING, NOW)
    held["keys"].append(asdict(later) | {"scopes": ["watch", "tune"]})
    del held["keys"][1]["unknown"]
    store.path.write_text(json.dumps(held))
    made, _ = store.make(Wish("you", ["predict"]))
    after = json.loads(store.path.read_bytes())
    assert after["format"] == 2
    assert after["keys"][:2] == held["keys"]
    keys = store.read() or {}
    assert list(keys) == [held["keys"][0]["id"], later.id, made.id]
    assert not keys[later.id].allowed & set(SCOPES)
    assert "team" not in keys[held["keys"][0]["id"]].shown()


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "a" * 65])
def test_a_hashing_key_that_is_none_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"64 hexadecimal digits$"):
        read_hashing_key(text)


def test_the_store_makes_and_revokes_keys_that_only_the_owner_reads(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    assert store.read() is None
    with pytest.raises(ConflictError, match="admin"):
        store.make(Wish("first", ["predict"]))
    assert store.read() is None
    first, text = store.make(Wish("first", ["admin"]))
    second, _ = store.make(Wish("second", ["predict"]))
    assert list(KeyStore(tmp_path).read() or ()) == [first.id, second.id]
    assert find_key(store.read() or {}, text.encode(), store.hashing_key()) == first
    private = [path for path in (tmp_path / ".mlbuffet").iterdir() if path.stat().st_mode & 0o077]
    assert private == []
    with pytest.raises(NotFoundError):
        store.revoke("nobody")
    with pytest.raises(ConflictError, match="admin"):
        store.revoke(first.id)
    store.revoke(second.id)
    assert list(store.read() or ()) == [first.id]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_belongs_to_whom_the_folder_belongs(tmp_path: Path) -> None:
    folder = tmp_path / ".mlbuffet"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    KeyStore(tmp_path).make(Wish("me", ["admin"]))
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in folder.iterdir()} == {(10001, 0o600)}


def test_an_admin_key_that_has_ended_does_not_save_from_being_locked_out() -> None:
    ends, _ = new_key(Wish("ends", ["admin"], "2027-02-01T00:00:00Z"), HASHING, NOW)
    other, _ = new_key(Wish("other", ["models:write", "train"]), HASHING, NOW)
    assert not is_locked_out([other, ends], ends.ends_at - 1)
    assert is_locked_out([other, ends], ends.ends_at)
    assert not is_locked_out([other, ends, KEY], ends.ends_at)


def test_keys_given_from_outside_begin_a_repository_once(tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    first.write_bytes(write_keys([KEY], HASHING))
    store = KeyStore(tmp_path / "repository", HASHING.hex())
    store.begin_with(first)
    assert store.read() == {KEY.id: KEY}
    made, _ = store.make(Wish("second", ["predict"]))
    store.begin_with(first)
    assert list(store.read() or ()) == [KEY.id, made.id]
    assert not (tmp_path / "repository/.mlbuffet/key_hash").exists()
    with pytest.raises(KeyStoreError, match="another hashing key"):
        KeyStore(tmp_path / "other", "0" * 64).begin_with(first)
    with pytest.raises(KeyStoreError, match="64 hexadecimal digits"):
        KeyStore(tmp_path, "secret")


# The ring -----------------------------------------------------------------------------------------------------------


def test_a_ring_is_open_until_there_is_a_key_and_never_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(tmp_path)
    ring = KeyRing(store)
    states = [(ring.closed, ring.anybody.again())]
    _, text = ring.make(Wish("me", ["admin"]))
    states.append((ring.closed, ring.anybody.again()))
    store.path.unlink()
    ring.refresh()
    ring.refresh()
    states.append((ring.closed, ring.anybody.again()))
    assert states == [(False, True), (True, False), (True, False)]
    assert ring.find(*bearer(text)) is not None
    assert [record.__dict__["why"] for record in caplog.records if record.message == "keys not read"] == [
        "the file of keys is gone"
    ]


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"{"), lambda path: path.unlink()])
def test_the_last_good_keys_hold(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    _, text = ring.make(Wish("me", ["admin"]))
    good = ring._store.path.read_bytes()
    spoil(ring._store.path)
    ring.refresh()
    assert ring.find(*bearer(text)) is not None
    assert ring.find(*bearer(text[:-1])) is None
    if ring._store.path.exists():
        with pytest.raises(StorageUnavailableError):
            ring.make(Wish("other", ["admin"]))
        with pytest.raises(KeyStoreError):
            KeyRing(KeyStore(tmp_path))
    ring._store.path.write_bytes(good)
    ring.refresh()
    assert ring.find(*bearer(text)) is not None


def test_s09_another_process_goes_by_a_change_as_soon_as_it_was_made(tmp_path: Path) -> None:
    """Nobody has looked at the file in between: the counter tells."""
    ours, theirs = KeyRing(KeyStore(tmp_path)), KeyRing(KeyStore(tmp_path))
    states = [theirs.closed]
    ours.make(Wish("me", ["admin"]))
    states.append(theirs.closed)
    assert states == [False, True]
    key, text = ours.make(Wish("you", ["predict"]))
    grant = theirs.find(*bearer(text))
    assert grant is not None
    states = [theirs.is_current()]
    ours.revoke(key.id)
    states.append(theirs.is_current())
    assert states == [True, False]
    assert theirs.find(*bearer(text)) is None
    assert not grant.again()


def test_a_ring_that_follows_keys_has_written_nothing(tmp_path: Path) -> None:
    """So that it begins on a volume that is read-only for a while, too."""
    KeyRing(KeyStore(tmp_path)).make(Wish("me", ["admin"]))
    folder = tmp_path / ".mlbuffet"
    (folder / "keys.lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert KeyRing(KeyStore(tmp_path)).closed
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_somebody_did_to_the_file_by_hand_is_seen_by_a_look(tmp_path: Path) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    ring.make(Wish("me", ["admin"]))
    _, text = ring.make(Wish("you", ["predict"]))
    path = ring._store.path
    path.write_bytes(write_keys([key for key in ring.all() if key.name == "me"], ring._store.hashing_key()))
    assert ring.find(*bearer(text)) is not None
    ring.refresh()
    assert ring.find(*bearer(text)) is None


def test_s02_an_expired_key_counts_no_longer_wherever_it_is_known(tmp_path: Path) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    _, text = ring.make(Wish("me", ["admin"], (datetime.now(UTC) + timedelta(days=1)).isoformat()))
    grant = ring.find(*bearer(text))
    assert grant is not None
    grant.ends_at = time.time()
    assert not grant.again()
    assert ring.find(*bearer(text)) is None


def test_what_is_remembered_of_sent_keys_is_bounded_and_right(tmp_path: Path) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    _, text = ring.make(Wish("me", ["admin"]))
    for spaces in range(1, 3000):
        assert ring.find(b"Bearer " + b" " * spaces + text.encode(), None) is not None
        assert ring.find(b"Bearer " + b"x" * spaces, None) is None
    assert len(ring._sent) <= 1024


def test_a_file_that_is_unreadable_for_a_while_is_read_when_it_can_be(tmp_path: Path) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    ring.make(Wish("me", ["admin"]))
    path = ring._store.path
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    ring.refresh()
    path.rmdir()
    path.write_bytes(data.replace(b'"me"', b'"us"'))
    assert [key.name for key in ring.all()] == ["us"]


class Faltering(KeyStore):
    """A store that cannot be read for want of descriptors, say: the file itself is as it was."""

    falters = False

    def read(self) -> Mapping[str, Key] | None:
        """Read, or fail."""
        if self.falters:
            msg = "too many open files"
            raise KeyStoreError(msg)
        return super().read()


def test_a_change_that_could_not_be_read_is_read_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Faltering(tmp_path)
    ring = KeyRing(store)
    ring.make(Wish("me", ["admin"]))
    key, text = ring.make(Wish("you", ["predict"]))
    store.falters = True
    KeyStore(tmp_path).revoke(key.id)
    for _ in range(3):
        ring.refresh()
    assert ring.find(*bearer(text)) is not None
    assert [record.message for record in caplog.records].count("keys not read") == 1
    store.falters = False
    ring.refresh()
    assert ring.find(*bearer(text)) is None


# Limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_second", [0.5, 1, 2.5, 10, 1000])
def test_a_rate_lets_one_second_pass_at_once_and_then_that_many(per_second: float) -> None:
    rate = Rate(per_second, [0.0], 0)
    now = 1000.0
    at_once = sum(not rate.wait_s(now) for _ in range(5000))
    assert at_once == max(int(per_second), 1)
    wait_s = rate.wait_s(now)
    assert 0 < wait_s <= 1 / per_second + 1e-6
    assert rate.wait_s(now + wait_s + 1e-6) == 0
    steps = [now + 10 + step / 10_000 for step in range(100_000)]
    passed = sum(not rate.wait_s(step) for step in steps)
    assert passed == pytest.approx(11 * per_second, rel=0.1, abs=1.5)


def test_what_another_key_left_in_a_slot_does_no_harm() -> None:
    assert Rate(10, [1e9], 0).wait_s(1000.0) == 0


def test_s07_only_the_client_that_is_wrong_has_to_wait() -> None:
    wrong = WrongKeys(most=20, window_s=60)
    told = [wrong.wait_s("10.0.0.1", 100.0 + number / 100) for number in range(1000)]
    assert told[:20] == [0.0] * 20
    assert all(told[20:])
    assert wrong.wait_s("10.0.0.2", 105.0) == 0
    assert wrong.wait_s("10.0.0.1", 161.0) == 0
    assert wrong.wait_s("2001:db8::1%eth0", 1.0) == wrong.wait_s("2001:db8::2", 1.0) == 0
    assert len(wrong._counts) == 3


def test_s07_what_is_known_of_clients_is_bounded() -> None:
    wrong = WrongKeys(clients=100)
    for number in range(10_000):
        wrong.wait_s(f"10.0.{number // 256}.{number % 256}", float(number))
    assert len(wrong._counts) == 100


TRUSTED = Proxies(["10.0.13.0/24", "::1"])


def test_a_proxy_of_a_name_is_believed_at_the_address_that_it_has_now() -> None:
    proxies = Proxies(["tasks.edge", "192.0.2.1"])
    assert proxies.names == ("tasks.edge",)

    def client(peer: str) -> str:
        return proxies.client(peer, "198.51.100.7")

    assert client("10.0.13.5") == "10.0.13.5"
    assert client("192.0.2.1") == "198.51.100.7"
    proxies.found("tasks.edge", ["10.0.13.5", "10.0.13.6"])
    assert client("10.0.13.5") == client("::ffff:10.0.13.6") == "198.51.100.7"
    proxies.found("tasks.edge", [])  # no answer is no news
    assert client("10.0.13.5") == "198.51.100.7"
    proxies.found("tasks.edge", ["10.0.13.9"])
    assert client("10.0.13.5") == "10.0.13.5"
    assert client("10.0.13.9") == "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.13.5", "198.51.100.7", "198.51.100.7"),
        ("10.0.13.5", "evil, 198.51.100.7", "198.51.100.7"),
        ("10.0.13.5", "203.0.113.9, 198.51.100.7, 10.0.13.6", "198.51.100.7"),
        ("10.0.13.5", "10.0.13.7,10.0.13.6", "10.0.13.7"),
        ("10.0.13.5", "", "10.0.13.5"),
        ("10.0.13.5", "nonsense", "10.0.13.5"),
        ("10.0.13.5", "[2001:db8::1]", "2001:db8::1"),
        ("::ffff:10.0.13.5", "198.51.100.7", "198.51.100.7"),
        ("::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("::1", "198.51.100.7", "198.51.100.7"),
        ("", "198.51.100.7", ""),
    ],
)
def test_whose_word_is_taken_for_the_client(peer: str, forwarded: str, client: str) -> None:
    assert TRUSTED.client(peer, forwarded) == client
    assert Proxies().client(peer, forwarded) == peer.removeprefix("::ffff:")


def test_what_is_no_network_cannot_be_trusted() -> None:
    for text in ("http://proxy.example", "proxy.example/24", "10.0.13", "", "10.0.13.1/24", "10.0.13.0/33"):
        with pytest.raises(ValueError, match=r"does not appear|has host bits"):
            Proxies([text])


def test_keys_compare_by_what_is_kept() -> None:
    assert Key(**{**KEY.shown(), "hash": KEY.hash}) == KEY
