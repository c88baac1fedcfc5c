"""The trainer, as the inferrer asks it: HTTP over a unix socket or mutual TLS, a connection for each request.

What is asked and what is answered go through unread, piece by piece. A request is sent once: whoever submits a training
must not get two. Whether the trainer answers at all is asked first, on the same connection, so that one that hangs is
told from one that takes its time over a large body.
"""

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbuffet.certificates import TRAINER, read_context
from mlbuffet.channel import is_own_user
from mlbuffet.endpoints import Address
from mlbuffet.errors import BusyError, ClientGoneError, TrainerUnavailableError

log = logging.getLogger(__name__)

_CONNECT_S = 1.5
_MEET_S = 2.5  # to connect, and to be answered that somebody is there
_ANSWER_S = 60.0
_SILENCE_S = 30.0  # a log that is followed has a sign of life every 10 s
_LEAST_S = 0.1
_PIECE_BYTES = 1 << 16
_HOST = {"Host": "localhost"}
_FAILURES = (OSError, http.client.HTTPException)  # TimeoutError and ssl.SSLError are OSErrors
_NONE = (
    "training is not set up here: it takes a trainer, and one takes a Docker engine (mlbuffet up uses a local one) or, "
    "to run scripts without isolation on this machine, mlbuffet up --allow-unisolated-training"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request for the trainer; a `body` of unknown length has no Content-Length among the `headers`."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Iterable[bytes] | None = None


class Reply:
    """An answer of the trainer's; its body is to be read, or closed."""

    def __init__(self, response: http.client.HTTPResponse, connection: "_Connection") -> None:
        self._response = response
        self._connection = connection
        self.status = response.status

    def header(self, name: str) -> str | None:
        """A header field; None without it."""
        return self._response.headers.get(name)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; it ends where the trainer does, or whoever leaves."""
        try:
            self._connection.patience(_SILENCE_S)
            while piece := self._response.read1(_PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.info("trainer's answer cut short", extra={"why": type(error).__name__})
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the connection; more than once is fine."""
        self._response.close()
        self._connection.let_go()


class Trainer:
    """The trainer at an address; `tls` is the folder of the certificates that it is asked with over TCP.

    `loop` is where names are looked up, which may take longer than anybody waits. At most `followers` answers may be
    followed at once: each takes a thread.
    """

    def __init__(self, address: str, tls: Path | None, loop: asyncio.AbstractEventLoop, followers: int) -> None:
        self._address = Address.parse(address) if address else None
        self._tls = tls
        self._loop = loop
        self._room = threading.Semaphore(followers)
        self._lock = threading.Lock()
        self._followed: set[_Connection] = set()
        self._leaving = False

    def ask(self, question: Question) -> Reply:
        """Ask once.

        Raises:
            TrainerUnavailableError: there is no trainer, it cannot be reached, or it went away before it answered.
        """
        return _answered(self._meet(), question)

    def follow(self, question: Question, on_gone: Callable[[Callable[[], None]], object]) -> Reply:
        """Ask for an answer that may go on for as long as the client is there: `on_gone` takes what ends it.

        Raises:
            TrainerUnavailableError: as `ask`.
            BusyError: as many are followed as may be.
        """
        if not self._room.acquire(blocking=False):
            msg = "as many logs are followed here as may be; ask without follow"
            raise BusyError(msg)
        try:
            connection = self._meet()
        except BaseException:
            self._room.release()
            raise
        connection.after = lambda: self._left(connection)
        with self._lock:
            self._followed.add(connection)
            leaving = self._leaving
        if leaving:
            connection.hang_up()
        on_gone(connection.hang_up)
        return _answered(connection, question)

    def _left(self, connection: "_Connection") -> None:
        with self._lock:
            self._followed.discard(connection)
        self._room.release()

    def leave(self) -> None:
        """End what is followed: this process is about to end, and whoever follows can go on with another."""
        with self._lock:
            self._leaving = True
            followed = list(self._followed)
        for connection in followed:
            connection.hang_up()

    def _meet(self) -> "_Connection":
        """A connection at whose other end somebody answers."""
        if self._address is None:
            raise TrainerUnavailableError(_NONE)
        ends_at = time.monotonic() + _MEET_S
        connection = _Connection(self._address, self._tls, self._loop)
        try:
            connection.connect()
            connection.patience(max(ends_at - time.monotonic(), _LEAST_S))
            connection.request("GET", "/health/live", headers=_HOST)
            connection.getresponse().read()
        except _FAILURES as error:
            connection.let_go()
            log.warning("trainer not reached", extra={"why": f"{type(error).__name__}: {error}"})
            msg = "the trainer cannot be reached now"
            raise TrainerUnavailableError(msg) from error
        return connection


def _answered(connection: "_Connection", question: Question) -> Reply:
    """Send a request and wait for the head of its answer; a connection without one is let go of."""
    try:
        connection.patience(_ANSWER_S)
        return Reply(connection.sent(question), connection)
    except _FAILURES as error:
        connection.let_go()
        if connection.hung_up:
            msg = "nobody waits for the answer any more"
            raise ClientGoneError(msg) from error
        log.warning("trainer lost", extra={"why": f"{type(error).__name__}: {error}"})
        msg = "the trainer went away before it answered; the list of runs tells whether it took the request"
        raise TrainerUnavailableError(msg) from error
    except BaseException:
        connection.let_go()
        raise


class _Connection(http.client.HTTPConnection):
    """One connection, which another thread may end."""

    def __init__(self, address: Address, tls: Path | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("localhost")
        self._at = address
        self._folder = tls
        self._loop = loop
        self._socket: socket.socket | None = None  # which http.client forgets while an answer is still read from it
        self.after: Callable[[], None] | None = None  # done once, when it is let go of
        self.hung_up = False

    def connect(self) -> None:
        """Connect within a time.

        Raises:
            OSError: nobody is there, or not the trainer.
        """
        self.sock = self._socket = _unix(self._at.path) if self._at.path else self._tcp()

    def _tcp(self) -> socket.socket:
        if self._folder is None and not self._at.is_local:
            msg = "beyond loopback the trainer is asked with TLS only"
            raise PermissionError(msg)
        raw = self._reached()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._folder is None:
            return raw
        try:
            return read_context(self._folder, server=False).wrap_socket(raw, server_hostname=TRAINER)
        except OSError:
            raw.close()
            raise

    def _reached(self) -> socket.socket:
        """A connection to the first of the name's addresses where somebody is."""
        found = asyncio.run_coroutine_threadsafe(self._lookup(), self._loop).result(_CONNECT_S)
        failure = OSError(f"{self._at.host} has no address")
        for family, kind, protocol, _, place in found:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(_CONNECT_S / len(found))
            try:
                sock.connect(place)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    async def _lookup(self) -> list[Any]:
        return await self._loop.getaddrinfo(self._at.host, self._at.port, type=socket.SOCK_STREAM)

    def sent(self, question: Question) -> http.client.HTTPResponse:
        """Send a request; a refusal that comes before all of the body was sent is an answer as well."""
        chunked = question.body is not None and "Content-Length" not in question.headers
        headers = {**_HOST, **question.headers, **({"Transfer-Encoding": "chunked"} if chunked else {})}
        try:
            self.request(question.method, question.target, question.body, headers, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):
            self.patience(_MEET_S)
        return self.getresponse()

    def patience(self, seconds: float) -> None:
        """How long each wait for the other end may take."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def hang_up(self) -> None:
        """End the connection, so that whoever waits for it goes on; from any thread, and without waiting."""
        self.hung_up = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended already
                # Not the method of a TLS socket, which would take its state away from under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Close it; more than once is fine."""
        self.close()
        after, self.after = self.after, None
        if after is not None:
            after()


def _unix(path: str) -> socket.socket:
    """Connect to a socket of our own user's or root's.

    Raises:
        OSError: nobody is there, or somebody else.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_CONNECT_S)
    try:
        sock.connect(path)
        if not is_own_user(sock):
            msg = "the trainer's socket is somebody else's"
            raise PermissionError(msg)
    except OSError:
        sock.close()
        raise
    return sock
