"""The listening sockets that processes share: each wake-up takes one connection, unless another process has fewer."""

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from typing import Any

from mlbuffet.chassis.http import HttpServer

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_YIELD_S = 0.02  # for which others may take connections first; a loop comes round many times in it
_LOOK_S = 0.001
_ALONE_S = 1.0  # for which a process whose offer nobody took makes none
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listeners:
    """Hands new connections to the HTTP server."""

    def __init__(self, sockets: Sequence[socket.socket], server: HttpServer) -> None:
        self._sockets = sockets
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._alone_until = 0.0

    def open(self) -> None:
        """Take connections from now on."""
        self._server.share.tell(len(self._server.connections))
        for listener in self._sockets:
            self._watch(listener)

    async def close(self) -> None:
        """Take what is connected already, which would be reset otherwise, and listen no more."""
        self._closed = True
        self._server.share.leave()
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            while self._accept(listener):
                pass
            listener.close()  # so that another arbiter can bind the port when ours was killed
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _watch(self, listener: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listener, self._arrive, listener)

    def _arrive(self, listener: socket.socket) -> None:
        """Take a connection, or leave it to a process that has fewer for a moment."""
        now = self._loop.time()
        if now > self._alone_until and self._is_ahead():
            self._loop.remove_reader(listener)
            self._loop.call_later(_LOOK_S, self._go_on, listener, now + _YIELD_S)
        else:
            self._accept(listener)

    def _go_on(self, listener: socket.socket, ends_at: float) -> None:
        """Listen again when others have caught up; take what they leave, who are busy, or stuck."""
        now = self._loop.time()
        if self._is_ahead() and now < ends_at and not self._closed:
            self._loop.call_later(_LOOK_S, self._go_on, listener, ends_at)
            return
        self._watch(listener)
        if now >= ends_at and not self._closed and self._accept(listener):
            self._alone_until = now + _ALONE_S

    def _is_ahead(self) -> bool:
        self._server.share.tell(len(self._server.connections) + len(self._arriving))
        return self._server.share.is_ahead()

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection; tells whether there was one: another process may have been faster."""
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            # Out of descriptors: the listener stays readable, so look again later instead of spinning.
            self._server.close_idle()
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE_S, self._watch, listener)
            return False
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arrival: asyncio.Task[Any] = self._loop.create_task(
            self._loop.connect_accepted_socket(self._server.connection, sock)
        )
        self._arriving.add(arrival)
        arrival.add_done_callback(self._arrived)
        return True

    def _arrived(self, arrival: "asyncio.Task[Any]") -> None:
        self._arriving.discard(arrival)
        if not arrival.cancelled() and arrival.exception() is not None:
            log.info("connection not accepted", extra={"why": str(arrival.exception())})
