"""Where a server is, what a model's path is there, and how a client signs what it asks."""

from collections.abc import Callable
from urllib.parse import quote, urlsplit

import requests

from mlbuffet.names import parse_ref


def check_url(url: str) -> str:
    """An address without what a path is put behind.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        msg = f"the address of a server reads like http://127.0.0.1:8002; received {url!r}"
        raise ValueError(msg)
    if parts.username is not None:
        msg = "the address of a server holds no user and password; a key is given by itself"
        raise ValueError(msg)
    return url.rstrip("/")


def bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Puts the key on each request, where ~/.netrc would put its own.

    Raises:
        ValueError: the key has characters that a header field cannot have.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        msg = "a key is made of visible ASCII characters"
        raise ValueError(msg)

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign


def run_path(run_id: str) -> str:
    """A training run's path."""
    return f"/api/v1/runs/{quote(run_id, safe='')}"


def model_path(name: str) -> str:
    """A model's path; a name that no model can have could lead elsewhere and is refused here.

    Raises:
        InvalidNameError, UnsupportedTypeError, VersionNotFoundError: as by the server.
    """
    parse_ref(name)
    return f"/api/v1/models/{name}"
