"""What an HTTP request is here, what a client may send, and what a lane is."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from mlbuffet.errors import MLBuffetError

if TYPE_CHECKING:
    from mlbuffet.chassis.connection import HttpConnection
    from mlbuffet.chassis.wsgi import BodyStream


PREDICT_BYTES = 1 << 26  # a prediction is held in memory whole; an upload never is
LARGE_BYTES = 1 << 16  # a body above is received straight into memory that its reader shares, where there is such
_PIECE_BYTES = 1 << 12


# RFC 9110's names; the standard library took them over only with Python 3.13.
_RENAMED = {413: "Content Too Large", 422: "Unprocessable Content"}


def phrase_of(status: int) -> str:
    """The name of a status, the same under every Python."""
    return _RENAMED.get(status) or HTTPStatus(status).phrase


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may send, and how long it may take."""

    body_bytes: int = 1 << 30
    lane_body_bytes: int = PREDICT_BYTES
    line_bytes: int = 8190
    header_bytes: int = 8190
    header_count: int = 100
    head_bytes: int = 1 << 16
    head_timeout_s: float = 15
    body_idle_s: float = 20
    body_rate: int = 500  # bytes a second that a body must come in, and an answer be taken, on the whole
    write_idle_s: float = 20
    keep_alive_s: float = 70
    linger_s: float = 1
    threads: int = 32
    waiting: int = 256


class Room(Protocol):
    """Memory that a body is received into; it is given back when nobody holds this object any more."""

    @property
    def view(self) -> memoryview:
        """As many bytes as were announced."""


class Request:
    """One request as parsed; a lane gets it with the body whole, in `room` if there is one, else in `body`.

    `body` is unused when Flask reads a stream.
    """

    # Defaults of the class: on the hot path most of them are never set.
    method = b""
    path = b""
    query = b""
    target = b""
    http_version = "1.1"
    content_type = b""
    content_length = -1
    expects = False
    keep_alive = True
    in_lane = False
    complete = False
    received = 0
    body_limit = 0
    request_id = ""
    began_at = 0.0  # when its lane took it
    asked: Any = None  # whose it is, where more is known than its id
    peer = ""  # the address at the other end of the connection
    grant: Any = None  # what the gate made of the head
    stream: "BodyStream | None" = None
    room: Any = None  # memory that a large body is received into: a Room
    on_gone: Callable[[], None] | None = None  # called on the event loop when the client left before its answer
    ticket: Any = None  # what the lane made of the head
    call: Any = None  # what the lane waits for

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.body: list[bytes | bytearray] = []

    def keep(self, chunk: bytes) -> None:
        """Keep a piece of the body; small ones together, because an object for each byte takes fifty times its room."""
        if not self.body or len(chunk) >= _PIECE_BYTES:
            self.body.append(chunk)
            return
        last = self.body[-1]
        if isinstance(last, bytes):
            self.body[-1] = last = bytearray(last)
        last += chunk

    def header(self, name: bytes) -> bytes:
        """A header's value, `name` in lower case; empty without it."""
        return self.fields.get(name, b"")


class Gate(Protocol):
    """Decides by the head alone which requests may pass, before lane and Flask and before any of the body is read."""

    def fault(self, request: Request) -> MLBuffetError | None:
        """Why a request may not pass; None when it may."""

    def again(self, request: Request) -> bool:
        """Tell whether a request for the lane may pass whose head is byte for byte one that passed before."""

    def refused(self, request: Request, status: int) -> None:
        """Take note of what a request was answered that reached no route."""


class Lane(Protocol):
    """Takes requests before Flask does."""

    def wants(self, request: Request) -> bool:
        """Tell from method, path and headers whether the lane answers this request."""

    def room(self, request: Request) -> Room | None:
        """Memory for a large body that is to come; None: it is kept in pieces."""

    def handle(self, request: Request, connection: "HttpConnection") -> None:
        """Answer a request whose body is whole, now or later, with `connection.respond`."""

    def gone(self, request: Request) -> None:
        """Take note that the client left before its answer."""

    def render_error(self, request: Request, error: MLBuffetError) -> tuple[bytes, bytes]:
        """Header lines and body for a request that never reached a route."""
