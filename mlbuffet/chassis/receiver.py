"""Stands in for a connection while a large body comes: the kernel writes it straight to where it will be read.

The body has a length, so nothing has to be parsed until it is whole, and nothing behind it can be received by mistake:
there is room for it and for no byte more.
"""

import asyncio
from typing import TYPE_CHECKING

from mlbuffet.chassis.request import Request, Room

if TYPE_CHECKING:
    from mlbuffet.chassis.connection import HttpConnection


class BodyReceiver(asyncio.BufferedProtocol):
    """Receives the rest of one body."""

    def __init__(self, connection: "HttpConnection", request: Request, room: Room) -> None:
        self._connection = connection
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

    def eof_received(self) -> bool:
        """Tell the connection that nothing more comes."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection that its client is gone."""
        self._view, self._request = memoryview(b""), None
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection that its client does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection that its client reads again."""
        self._connection.resume_writing()
