"""The file of keys: how what is kept of them is written and read. Pure.

What a newer version has put into it is kept as it is, so that one may go back to an older version and forth again. A
scope that is not known gives nothing: whatever is to bind a key in every version is to be a scope.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from mlbuffet.errors import UnprocessableError
from mlbuffet.keys import MOST_KEYS, NOBODY, SCOPES, Key, Wish, digest

_HASHING_KEY = re.compile(r"[0-9a-fA-F]{64}")
_KNOWN = frozenset(known.name for known in fields(Key)) - {"unknown"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a file of keys holds: keys by their ids, and what a newer version keeps beside them."""

    keys: Mapping[str, Key] = field(default_factory=dict)
    unknown: Mapping[str, Any] = field(default_factory=dict)


def read_hashing_key(text: str) -> bytes:
    """A hashing key as it is written in a file or setting.

    Raises:
        ValueError: it is none; it is not repeated.
    """
    if _HASHING_KEY.fullmatch(text.strip()) is None:
        msg = "the key that API keys are hashed with has 64 hexadecimal digits"
        raise ValueError(msg)
    return bytes.fromhex(text.strip())


def write_keys(keys: Iterable[Key], hashing_key: bytes, unknown: Mapping[str, Any] = _NOTHING) -> bytes:
    """Keys as a file has them."""
    data = {**unknown, "hashed_with": _fingerprint(hashing_key), "keys": [_row(key) for key in keys]}
    return json.dumps(data, indent=1).encode() + b"\n"


def _row(key: Key) -> dict[str, Any]:
    own = asdict(key)
    return {**own.pop("unknown"), **own}


def read_keys(data: bytes, hashing_key: bytes) -> KeyFile:
    """The keys in a file.

    Raises:
        ValueError: it is damaged, or its keys were hashed with another hashing key.
    """
    try:
        held = json.loads(data)
        hashed_with, rows = held.pop("hashed_with"), held.pop("keys")
        keys = [_key(row) for row in rows]
        by_id = {key.id: key for key in keys}
        sound = all(len(bytes.fromhex(key.hash)) == len(bytes.fromhex(NOBODY)) for key in keys)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UnprocessableError) as error:
        msg = f"the file of keys is damaged: {type(error).__name__}"
        raise ValueError(msg) from error
    if not sound or len(by_id) != len(keys) or len(keys) > MOST_KEYS:
        msg = "the file of keys is damaged: an id stands there twice, a hash is none, or there are too many"
        raise ValueError(msg)
    if hashed_with != _fingerprint(hashing_key):
        msg = "the file of keys was made with another hashing key"
        raise ValueError(msg)
    return KeyFile(by_id, held)


def _key(row: Mapping[str, Any]) -> Key:
    """One key.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, UnprocessableError: it is none.
    """
    scopes = tuple(row["scopes"])
    unknown = {name: value for name, value in row.items() if name not in _KNOWN}
    key = Key(**{**{name: row[name] for name in _KNOWN}, "scopes": scopes}, unknown=unknown)
    newer = [scope for scope in scopes if isinstance(scope, str) and scope not in SCOPES]
    known = [scope for scope in scopes if scope not in newer]
    Wish(key.name, known or (newer and SCOPES[:1]), key.expires, key.rate)  # one that has to be, where all are newer
    return key


def _fingerprint(hashing_key: bytes) -> str:
    """Tells hashing keys apart and says nothing of them."""
    return digest(b"mlbuffet", hashing_key)[:16]
