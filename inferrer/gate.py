"""The one gate in front of the lane, Flask and gRPC: who may ask for what, decided by the head of a request alone.

What a path means is asked of the map that Flask routes by, so that no spelling of it can be decided on as one route and
answered by another. What that scope is stands in `access`. Without keys, Host and Origin stand in for them.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote, unquote_to_bytes

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect

from inferrer.access import ANY, METHODS, OPEN, RPC, changes, scope_of
from inferrer.audit import Act, record
from inferrer.clients import Proxies
from inferrer.keyring import ANONYMOUS, Grant, KeyRing
from inferrer.rates import WrongKeys
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.request import Request
from mlbuffet.errors import ForbiddenError, MLBuffetError, TooManyRequestsError, UnauthenticatedError

Metadata = Iterable[tuple[str, str | bytes]]

_MOST_PLACES = 1024
_AUTHORIZATION, _API_KEY, _FORWARDED = "authorization", "x-api-key", "x-forwarded-for"
_AUDITED = frozenset({UnauthenticatedError.status, ForbiddenError.status})
_UNAUTHENTICATED = "this takes an API key that counts: Authorization: Bearer <id>.<secret>, or X-Api-Key"


@dataclass(frozen=True, slots=True)
class Place:
    """What a method and a path lead to; no scope at all where nobody may go."""

    method: str
    route: str
    model: str
    scope: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it is known without the key."""

    peer: str
    forwarded: str
    request_id: str


@dataclass(frozen=True, slots=True)
class RpcHead:
    """What is known of a call of gRPC before its message; `peer` as gRPC writes it, ipv4:127.0.0.1:4711."""

    method: str
    metadata: Metadata
    peer: str
    request_id: str

    @property
    def sent(self) -> tuple[bytes | None, bytes | None]:
        """The two fields that may hold a key."""
        return _field(self.metadata, _AUTHORIZATION), _field(self.metadata, _API_KEY)

    @property
    def caller(self) -> Caller:
        """Who calls."""
        address = unquote(self.peer).partition(":")[2].rpartition(":")[0].strip("[]")
        forwarded = (_field(self.metadata, _FORWARDED) or b"").decode("latin-1")
        return Caller(address, forwarded, self.request_id)


class Gate:
    """The gate of one process."""

    def __init__(self, ring: KeyRing, routes: Map, hosts: HostPolicy, proxies: Proxies) -> None:
        self._ring = ring
        self._routes = routes.bind("")
        self._hosts = hosts
        self._proxies = proxies
        self._wrong = WrongKeys()
        self._places: dict[tuple[bytes, bytes], Place] = {}

    def fault(self, request: Request) -> MLBuffetError | None:
        """Why a request may not pass; None when it may."""
        if not self._ring.closed:
            request.grant = self._ring.unasked(request.fields.get(b"authorization"), request.fields.get(b"x-api-key"))
            return self._hosts.fault(request)
        fault = self._hosts.name_fault(request)
        if fault is not None:
            return fault
        place = self._place_of(request)
        fields = request.fields
        authorization, api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        request.grant = grant = self._ring.find(authorization, api_key)
        fault = _judged(grant, place.scope)
        if fault is None:
            return None
        return self._told(fault, grant, place, _caller_of(request), sent=bool(authorization or api_key))

    def again(self, request: Request) -> bool:
        """Tell whether a request for the lane may pass whose head has passed; one that may not is looked at whole."""
        grant: Grant | None = request.grant
        return grant is not None and self._ring.is_current() and grant.again()

    def refused(self, request: Request, status: int) -> None:
        """Record a request that would have changed something, passed, and was refused before it reached a route."""
        grant: Grant | None = request.grant
        if grant is None or status in _AUDITED:
            return  # it did not pass, which is on record where it is to be
        place = self._place_of(request)
        if changes(place.scope, place.method):
            self._record(grant, place, _caller_of(request), status)

    def rpc_fault(self, head: RpcHead) -> MLBuffetError | None:
        """Why a call of gRPC may not pass; None when it may."""
        return _judged(self._ring.find(*head.sent), METHODS.get(head.method)) if self._ring.closed else None

    def rpc_told(self, fault: MLBuffetError, head: RpcHead) -> MLBuffetError:
        """What a call of gRPC is told that may not pass."""
        place = Place(RPC, head.method, "", METHODS.get(head.method))
        sent = any(value is not None for value in head.sent)
        return self._told(fault, self._ring.find(*head.sent), place, head.caller, sent=sent)

    def rpc_done(self, head: RpcHead, model: str, status: int) -> None:
        """Record a call of gRPC that changes something, and the model that it is for."""
        grant = self._ring.find(*head.sent) if self._ring.closed else self._ring.anybody
        self._record(grant, Place(RPC, head.method, model, METHODS.get(head.method)), head.caller, status)

    def done(
        self, grant: Grant | None, place: Place, caller: Caller, status: int, subject: Mapping[str, object]
    ) -> None:
        """Record a request of Flask that changes something: what it changed, and its status."""
        if changes(scope_of(place.route, place.method), place.method):
            self._record(grant, place, caller, status, subject)

    def _told(
        self, fault: MLBuffetError, grant: Grant | None, place: Place, caller: Caller, *, sent: bool
    ) -> MLBuffetError:
        """What is said of a fault; a client that sends many wrong keys is told to wait."""
        if sent and fault.status == UnauthenticatedError.status:
            wait_s = self._wrong.wait_s(self._client(caller), time.monotonic())
            if wait_s:
                return _too_many("too many wrong API keys came from this address", wait_s)
        if fault.status in _AUDITED and changes(place.scope, place.method):
            self._record(grant, place, caller, fault.status)
        return fault

    def _record(
        self,
        grant: Grant | None,
        place: Place,
        caller: Caller,
        status: int,
        subject: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        who = ANONYMOUS if grant is None else grant.who
        act = Act(who, self._client(caller), place.method, place.route, place.model, caller.request_id)
        record(act, status, subject)

    def _client(self, caller: Caller) -> str:
        return self._proxies.client(caller.peer, caller.forwarded)

    def _place_of(self, request: Request) -> Place:
        return self._places.get((request.method, request.path)) or self._place(request.method, request.path)

    def _place(self, method: bytes, path: bytes) -> Place:
        """What Flask would make of this address."""
        verb, text = method.decode("ascii"), unquote_to_bytes(path).decode("utf-8", "replace")
        try:
            rule, arguments = self._routes.match(text, verb, return_rule=True)
        except (HTTPException, RequestRedirect):
            place = Place(verb, "unknown", "", ANY)  # whoever has a key is told that there is nothing
        else:
            place = Place(verb, rule.rule, str(arguments.get("name", "")), scope_of(rule.rule, verb))
        if len(self._places) >= _MOST_PLACES:
            del self._places[next(iter(self._places))]
        self._places[method, path] = place
        return place


def _caller_of(request: Request) -> Caller:
    return Caller(request.peer, request.header(b"x-forwarded-for").decode("latin-1"), request.request_id)


def _judged(grant: Grant | None, scope: str | None) -> MLBuffetError | None:
    """Why somebody may not go somewhere; counts those who may."""
    if scope == OPEN:
        return None
    if grant is None:
        return UnauthenticatedError(_UNAUTHENTICATED)
    wait_s = grant.wait_s()
    if wait_s:
        return _too_many("this API key is over its rate", wait_s)
    if scope is None:
        return ForbiddenError("no API key may ask for this")
    if scope == ANY or scope in grant.scopes:
        return None
    return ForbiddenError(f"this takes an API key with the scope {scope!r}")


def _too_many(why: str, wait_s: float) -> TooManyRequestsError:
    seconds = math.ceil(wait_s)
    return TooManyRequestsError(f"{why}; try again in {seconds} s", seconds)


def _field(metadata: Metadata, name: str) -> bytes | None:
    """A value of a call's metadata; where it comes several times, as HTTP has it."""
    values = [value.encode() if isinstance(value, str) else value for key, value in metadata if key == name]
    return b",".join(values) if values else None
