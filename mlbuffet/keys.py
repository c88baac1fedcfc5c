"""API keys: what one is, what it may do, and what is kept of it. Pure but for the entropy of a new one.

A key is `<id>.<secret>`. The id names it in lists and logs; the secret is 32 random bytes that are stored nowhere. What
is kept is a keyed hash of both, HMAC-SHA256, whose hashing key lies elsewhere: whoever reads the file of keys can
neither use them nor try guesses. A slow password hash is for what people make up, and would be no safer here.
"""

import base64
import hmac
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
_NAME_LENGTH = 100
_HIGHEST_RATE = 1e6
NOBODY = bytes(32).hex()  # the hash of no key


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key: times as RFC 3339 has them in UTC, `rate` in requests a second, None without a bound.

    `unknown` is what a newer version keeps of it: it is written again as it was.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    expires: str | None
    rate: float | None
    hash: str = field(repr=False)
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

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
        return {name: value for name, value in asdict(self).items() if name not in {"hash", "unknown"}}


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


def is_locked_out(keys: Iterable[Key], now: float) -> bool:
    """Tell whether nobody could make keys with these any more."""
    return not any(ADMIN in key.scopes and key.ends_at > now for key in keys)
