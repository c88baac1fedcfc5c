"""An HTTP server that drains: what has come is answered, each answer ends its connection, idle ones are closed last."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.request import Limits
from mlbuffet.chassis.web import NoLane
from tests.harness.raw_http import Answer, answers, message

ASK = message("GET", "/")


def application(_: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer."""
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[HttpServer, socket.socket]]:
    """A server, and a client's connection to it that has been used."""
    loop = asyncio.get_running_loop()
    server = HttpServer(application, NoLane(), Limits(), lane_on=False)
    listener = await loop.create_server(server.connection, "127.0.0.1", 0)
    client = socket.create_connection(listener.sockets[0].getsockname())
    client.setblocking(False)  # noqa: FBT003 - the standard library's signature
    async with asyncio.timeout(10):
        await loop.sock_sendall(client, ASK)
        assert b"Connection: close" not in await loop.sock_recv(client, 1 << 16)
        try:
            yield server, client
        finally:
            client.close()
            listener.close()
            await server.drain(5)


async def rest(client: socket.socket) -> list[Answer]:
    """What comes until the server closes."""
    received = b""
    while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
        received += piece
    return answers(received, "GET")


def closes(answer: Answer) -> bool:
    return answer.header("Connection") == "close"


def test_an_answer_ends_its_connection() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            server.draining = True
            client.send(ASK)
            assert [closes(answer) for answer in await rest(client)] == [True]

    asyncio.run(run())


def test_of_requests_that_came_together_all_are_answered() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            server.draining = True
            client.send(ASK * 3)
            assert [closes(answer) for answer in await rest(client)] == [False, False, True]

    asyncio.run(run())


def test_what_has_come_unread_is_not_closed_upon() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            (connection,) = server.connections
            connection.idle_since = 0
            client.send(ASK)  # the loop has had no turn to read it
            draining = asyncio.ensure_future(server.drain(5))
            assert [closes(answer) for answer in await rest(client)] == [True]
            client.close()
            await draining

    asyncio.run(run())


def test_an_idle_connection_is_closed_once_it_is_quiet() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            (connection,) = server.connections
            draining = asyncio.ensure_future(server.drain(60))
            await asyncio.sleep(0)
            assert server.connections, "a request may be on its way"
            connection.idle_since = 0
            assert await rest(client) == []
            await draining

    asyncio.run(run())
