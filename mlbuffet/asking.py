"""How the client asks a server: over kept connections, within a time, and again where that does no harm."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import requests
from urllib3.exceptions import HTTPError

from mlbuffet.address import bearer, check_url
from mlbuffet.answers import refusal, stranger, why
from mlbuffet.errors import ConnectionFailedError, ModelBusyError

T = TypeVar("T")

_PAGE = 1000
_PAUSES_S = (0.1, 0.5, 2.0)
_LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class Asking:
    """A server and the connections to it; `key` and `timeout_s` as the client has them.

    Raises:
        ValueError: `url` or `key` cannot be one.
    """

    def __init__(self, url: str = "http://127.0.0.1:8002", key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url = check_url(url)
        self.timeout_s = timeout_s
        self._key = key
        self._session = requests.Session()
        if key is not None:
            self._session.auth = bearer(key)

    def another(self) -> Self:
        """One more client of the same server, for another thread."""
        return type(self)(self.url, self._key, self.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _pages(
        self, path: str, limit: int | None, after: str, entries: str = "model_list", **asked: str
    ) -> Iterator[Any]:
        left = math.inf if limit is None else limit
        while left > 0:
            page = self._json("GET", path, params={**asked, "limit": min(left, _PAGE), "after": after})
            yield from page[entries]
            left -= len(page[entries])
            if "next" not in page:
                return
            after = page["next"]

    def _json(self, method: str, path: str, *, once: bool = False, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Ask for JSON; returns it without the part that repeats the status."""
        response = self._tried(lambda: self._send(method, path, **options), once=once)
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            data: dict[str, Any] = response.json()
            data.pop("http_status")
            return data
        raise stranger(response)

    def _send(self, method: str, path: str, *, wait_s: float = 0.0, **options: Any) -> requests.Response:  # noqa: ANN401
        """Ask once; the server's refusal is raised."""
        timeout_s = wait_s or self.timeout_s
        response = self._session.request(method, self.url + path, timeout=timeout_s, allow_redirects=False, **options)
        if response.status_code not in {200, 201, 202}:
            raise refusal(response)
        return response

    def _tried(self, act: Callable[[], T], *, once: bool = False) -> T:
        """Do it, and again after a pause while the connection fails; what takes too long is not tried again.

        Raises:
            ConnectionFailedError: it went on failing.
        """
        pauses = iter(() if once else _PAUSES_S)
        lost = False
        while True:
            try:
                return act()
            except (requests.RequestException, HTTPError) as error:
                lost = isinstance(error, _LOST) and not isinstance(error, requests.Timeout)
                pause_s = next(pauses, None) if lost else None
                if pause_s is None:
                    msg = f"no answer from {self.url}: {why(error)}"
                    raise ConnectionFailedError(msg) from error
            except ModelBusyError:
                # After a lost answer that may be our own first try, still under way.
                pause_s = next(pauses, None) if lost else None
                if pause_s is None:
                    raise
            time.sleep(pause_s)
