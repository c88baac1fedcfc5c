"""The key that a request carries, and which of those that are kept it is. Pure."""

import hmac
import re
from collections.abc import Mapping

from mlbuffet.keys import NOBODY, Key, digest

_KEY = re.compile(rb"(?P<id>[0-9a-f]{12})\.[A-Za-z0-9_-]{43,128}")
_BEARER = re.compile(rb"bearer +(?P<key>[^ ]+)", re.IGNORECASE)


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
    right = hmac.compare_digest(digest(text, hashing_key), NOBODY if key is None else key.hash)
    return key if right else None
