"""Which names this server answers to, and to which web pages, while it asks for no keys. Pure but for a small cache.

A browser sends to loopback whatever a web page asks for. A page whose own name was made to resolve to loopback (DNS
rebinding) gives itself away by that name in Host; a page of another origin by Origin, or where that is not sent by
Sec-Fetch-Site. docs/adr/0014-host-and-origin.md says why it is done like this.
"""

import re
from collections.abc import Collection

from mlbuffet.chassis.request import Request
from mlbuffet.endpoints import is_loopback
from mlbuffet.errors import BadRequestError, MisdirectedError, MLBuffetError, OriginRefusedError

_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_HOST = re.compile(rf"(?P<name>{_NAME}|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{0,5}}))?")
_ORIGIN = re.compile(rf"https?://(?P<host>{_HOST.pattern})")
_MAX_PORT = 65535
_KNOWN = 256
_SAME = frozenset({b"same-origin", b"none"})  # `none`: the user's own doing, an address typed or a bookmark
_READING = frozenset({b"GET", b"HEAD"})


class HostPolicy:
    """The names and origins of one server; loopback's names and addresses always belong to it.

    Raises:
        ValueError: what is listed is no host name, or no origin.
    """

    def __init__(self, names: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._origins = frozenset(origin.lower() for origin in origins)
        self._known: set[bytes] = set()
        for name in self._names:
            found = _HOST.fullmatch(name)
            if found is None or found["port"] is not None:
                msg = f"a host is a name without scheme and port; received {name!r}"
                raise ValueError(msg)
        for origin in self._origins:
            if _ORIGIN.fullmatch(origin) is None:
                msg = f"an origin is a scheme and a host, as in https://models.example; received {origin!r}"
                raise ValueError(msg)

    def fault(self, request: Request) -> MLBuffetError | None:
        """Why a request may not pass; None when it may."""
        fields = request.fields
        host = fields.get(b"host", b"")
        if host not in self._known:
            fault = self._host_fault(host, request.http_version)
            if fault is not None:
                return fault
        if b"origin" in fields:
            return self._origin_fault(fields[b"origin"], host)
        return _site_fault(request) if b"sec-fetch-site" in fields else None

    def again(self, request: Request) -> bool:  # noqa: ARG002 - the gate's signature
        """Let it pass: nothing but the head counts here."""
        return True

    def refused(self, request: Request, status: int) -> None:
        """Nobody is asked for a key here, and nothing recorded."""

    def name_fault(self, request: Request) -> MLBuffetError | None:
        """Why a request may not pass that carries a key: its Host is none, or not among those that are listed."""
        host = request.fields.get(b"host", b"")
        if host in self._known:
            return None
        fault = self._host_fault(host, request.http_version)
        if not isinstance(fault, MisdirectedError) or self._names:
            return fault
        self._know(host)
        return None

    def _host_fault(self, host: bytes, http_version: str) -> MLBuffetError | None:
        if not host and http_version == "1.0":
            return None  # HTTP/1.0 does not ask for it, and no browser speaks it
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        if found is None or (found["port"] and not 0 < int(found["port"]) <= _MAX_PORT):
            return BadRequestError("a request has one Host field, a name or an address and perhaps a port")
        if found["name"] not in self._names and not is_loopback(found["name"].strip("[]")):
            return MisdirectedError("Host names another server; INFERRER_HOSTS lists this one's beyond loopback")
        self._know(host)
        return None

    def _know(self, host: bytes) -> None:
        if len(self._known) < _KNOWN:
            self._known.add(host)

    def _origin_fault(self, sent: bytes, host: bytes) -> MLBuffetError | None:
        """A page of this server may ask, whichever scheme a proxy in front has given it."""
        origin = sent.decode("latin-1").lower()
        found = _ORIGIN.fullmatch(origin)
        if origin in self._origins or (found is not None and found["host"] == host.decode("latin-1").lower()):
            return None
        return OriginRefusedError("a web page of another origin asks; INFERRER_ORIGINS lists those that may")


def _site_fault(request: Request) -> MLBuffetError | None:
    """Without an Origin a page of another site may only be where a link to this server was followed."""
    fields = request.fields
    followed = fields.get(b"sec-fetch-mode") == b"navigate" and fields.get(b"sec-fetch-dest") == b"document"
    if fields[b"sec-fetch-site"] in _SAME or (followed and request.method in _READING):
        return None
    return OriginRefusedError("a web page of another site asks for this; only links to it may be followed")
