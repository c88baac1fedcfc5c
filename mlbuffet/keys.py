"""API keys: what one is, what it may do, and how it is kept. Pure but for the entropy of a new one.

A key is `<id>.<secret>`. The id names it in lists and logs; the secret is 32 random bytes that are stored nowhere. What
is kept is a keyed hash of both, HMAC-SHA256, whose hashing key lies elsewhere: whoever reads the file of keys can
neither use them nor try guesses. A slow password hash is for what people make up, and would be no safer here.
"""

import base64
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlbuffet.errors import UnprocessableError

PREDICT, READ, WRITE, TRAIN, ADMIN = SCOPES = ("predict", "models:read", "models:write", "train", "admin")
# Who may replace a model may look at it; who may make keys could give oneself any.
_IMPLIED: Mapping[str, frozenset[str]] = {WRITE: frozenset({READ}), ADMIN: frozenset(SCOPES)}

MOST_KEYS = 1024
_ID_BYTES, _SECRET_BYTES = 6, 32
_KEY = re.compile(rb"(?P<id>[0-9a-f]{12})\.[A-Za-z0-9_-]{43,128}")
_BEARER = re.compile(rb"bearer +(?P<key>[^ ]+)", re.IGNORECASE)
_HASHING_KEY = re.compile(r"[0-9a-fA-F]{64}")
_NAME_LENGTH = 100
_HIGHEST_RATE = 1e6
_NOBODY = bytes(32).hex()  # the hash of no key


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key: times as RFC 3339 has them in UTC, `rate` in requests a second, None without a bound."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    expires: str | None
    rate: float | None
    hash: str = field(repr=False)

    @property
    def allowed(self) -> frozenset[str]:
        """The scopes given, and those that they imply."""
        return frozenset(self.scopes).union(*(_IMPLIED.get(scope, frozenset()) for scope in self.scopes))

    @property
    def ends_at(self) -> float:
        """From which moment on it is refused, in seconds since 1970."""
        return float("inf") if self.expires is None else datetime.fromisoformat(self.expires).timestamp()

    def shown(self) -> dict[str, Any]:
        """What may be told of it."""
        return {name: value for name, value in asdict(self).items() if name != "hash"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants a new key to be.

    Raises:
        UnprocessableError: no key can be like this.
    """

    name: str
    scopes: Sequence[str]
    expires: str | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= _NAME_LENGTH or not self.name.isprintable():
            msg = f"'name' has 1 to {_NAME_LENGTH} printable characters"
            raise UnprocessableError(msg)
        known = isinstance(self.scopes, list | tuple) and all(scope in SCOPES for scope in self.scopes)
        if not known or not self.scopes or len(set(self.scopes)) != len(self.scopes):
            msg = f"'scopes' lists some of {', '.join(SCOPES)}, each once"
            raise UnprocessableError(msg)
        rate = self.rate
        if rate is not None and (type(rate) not in {int, float} or not 0 < rate <= _HIGHEST_RATE):
            msg = f"'rate' is a number of requests a second, above 0 and at most {_HIGHEST_RATE:g}"
            raise UnprocessableError(msg)
        if self.expires is not None:
            _moment(self.expires)


def new_key(
    wish: Wish, hashing_key: bytes, now: datetime, entropy: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[Key, str]:
    """What is kept of a new key, and the key itself, which is never to be had again; `now` knows its time zone.

    Raises:
        UnprocessableError: it would have expired.
    """
    expires = None if wish.expires is None else _moment(wish.expires)
    if expires is not None and expires <= now:
        msg = f"'expires' lies in the future; received {wish.expires}"
        raise UnprocessableError(msg)
    number = entropy(_ID_BYTES).hex()
    text = f"{number}.{base64.urlsafe_b64encode(entropy(_SECRET_BYTES)).rstrip(b'=').decode()}"
    record = Key(
        id=number,
        name=wish.name,
        scopes=tuple(scope for scope in SCOPES if scope in wish.scopes),
        created=_written(now),
        expires=None if expires is None else _written(expires),
        rate=wish.rate,
        hash=digest(text.encode(), hashing_key),
    )
    return record, text


def _moment(text: object) -> datetime:
    """A moment as RFC 3339 writes it."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    msg = "'expires' is a moment with its time zone, as 2027-01-31T12:00:00Z"
    raise UnprocessableError(msg)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def digest(text: bytes, hashing_key: bytes) -> str:
    """The keyed hash of a key."""
    return hmac.digest(hashing_key, text, "sha256").hex()


def sent_key(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """The key that a request carries, by the values of its two header fields; None for none, or two different ones."""
    bearer = None if authorization is None else _BEARER.fullmatch(authorization)
    if authorization is not None and bearer is None:
        return None
    if bearer is None or api_key is None:
        return api_key if bearer is None else bearer["key"]
    return api_key if hmac.compare_digest(bearer["key"], api_key) else None


def find_key(keys: Mapping[str, Key], text: bytes, hashing_key: bytes) -> Key | None:
    """The key that this is; None where it is none. It takes as long for one that does not exist as for a wrong one."""
    found = _KEY.fullmatch(text)
    key = None if found is None else keys.get(found["id"].decode())
    right = hmac.compare_digest(digest(text, hashing_key), _NOBODY if key is None else key.hash)
    return key if right else None


def is_locked_out(keys: Iterable[Key], now: float) -> bool:
    """Tell whether nobody could make keys with these any more."""
    return not any(ADMIN in key.scopes and key.ends_at > now for key in keys)


# The file -----------------------------------------------------------------------------------------------------------


def read_hashing_key(text: str) -> bytes:
    """A hashing key as it is written in a file or setting.

    Raises:
        ValueError: it is none; it is not repeated.
    """
    if _HASHING_KEY.fullmatch(text.strip()) is None:
        msg = "the key that API keys are hashed with has 64 hexadecimal digits"
        raise ValueError(msg)
    return bytes.fromhex(text.strip())


def write_keys(keys: Iterable[Key], hashing_key: bytes) -> bytes:
    """Keys as a file has them."""
    data = {"hashed_with": _fingerprint(hashing_key), "keys": [asdict(key) for key in keys]}
    return json.dumps(data, indent=1).encode() + b"\n"


def read_keys(data: bytes, hashing_key: bytes) -> dict[str, Key]:
    """The keys in a file, by their ids.

    Raises:
        ValueError: it is damaged, or its keys were hashed with another hashing key.
    """
    try:
        held = json.loads(data)
        hashed_with, rows = held["hashed_with"], held["keys"]
        keys = [Key(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]
        for key in keys:
            Wish(key.name, key.scopes, key.expires, key.rate)
        by_id = {key.id: key for key in keys}
        sound = all(len(bytes.fromhex(key.hash)) == len(bytes.fromhex(_NOBODY)) for key in keys)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UnprocessableError) as error:
        msg = f"the file of keys is damaged: {type(error).__name__}"
        raise ValueError(msg) from error
    if not sound or len(by_id) != len(keys) or len(keys) > MOST_KEYS:
        msg = "the file of keys is damaged: an id stands there twice, a hash is none, or there are too many"
        raise ValueError(msg)
    if hashed_with != _fingerprint(hashing_key):
        msg = "the file of keys was made with another hashing key"
        raise ValueError(msg)
    return by_id


def _fingerprint(hashing_key: bytes) -> str:
    """Tells hashing keys apart and says nothing of them."""
    return digest(b"mlbuffet", hashing_key)[:16]
