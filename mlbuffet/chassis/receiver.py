"""Stand in for a connection while a large body comes: the kernel writes it straight to where it will be read.

The body has a length, so nothing has to be parsed until it is whole, and nothing behind it can be received by mistake:
there is room for it and for no byte more. What comes together with its head is copied; a client that has sent one such
body is likely to send another, so the next head is received with little behind it.
"""

import asyncio
from typing import TYPE_CHECKING

from mlbuffet.chassis.request import Request, Room

if TYPE_CHECKING:
    from mlbuffet.chassis.connection import HttpConnection


_HEAD_BYTES = 1 << 12


class _Receiver(asyncio.BufferedProtocol):
    """What is not about bytes is the connection's."""

    def __init__(self, connection: "HttpConnection") -> None:
        self._connection = connection

    def eof_received(self) -> bool:
        """Tell the connection that nothing more comes."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection that its client is gone."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection that its client does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection that its client reads again."""
        self._connection.resume_writing()


class BodyReceiver(_Receiver):
    """Receives the rest of one body."""

    def __init__(self, connection: "HttpConnection", request: Request, room: Room) -> None:
        super().__init__(connection)
        self._request: Request | None = request  # whose room is nobody else's while it may still be written to
        self._view = room.view[request.received :]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """The room that is left."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Tell the connection of what came; uvloop holds on to this object when it has ended, so let go of the room."""
        if self._request is not None and self._connection.room_filled(self._request, nbytes):
            self._view = self._view[nbytes:]
        else:
            self._view, self._request = memoryview(b""), None

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the room, too."""
        self._view, self._request = memoryview(b""), None
        super().connection_lost(exc)


class HeadReceiver(_Receiver):
    """Receives once, no more than a head and a little; what follows is the connection's again."""

    def __init__(self, connection: "HttpConnection", transport: asyncio.Transport) -> None:
        super().__init__(connection)
        self._transport = transport
        self._buffer = bytearray(_HEAD_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Room for a head."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand it on as if the connection had received it."""
        self._transport.set_protocol(self._connection)
        self._connection.data_received(bytes(self._buffer[:nbytes]))
