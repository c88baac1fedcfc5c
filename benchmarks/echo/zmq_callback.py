"""pyzmq tuned for an event loop: its file descriptor in uvloop, everything that is there drained at each wake-up.

The descriptor is edge-triggered, so each wake-up ends with a receive that finds nothing.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop
import zmq

from benchmarks.echo.exchange import Task, Window, run
from benchmarks.echo.zmq_messages import (
    Parts,
    body_bytes,
    driving,
    receive,
    receive_routed,
    reply,
    request,
    send,
    serving,
)


def _drain(sock: Any, receive_one: Callable[[int], Parts], take: Callable[[Parts], None]) -> None:  # noqa: ANN401
    """Take every message that is there."""
    while not sock.closed:
        try:
            parts = receive_one(zmq.NOBLOCK)
        except zmq.Again:
            return
        take(parts)


def _serve(task: Task) -> None:
    async def serve() -> None:
        sock = serving(zmq.Context(), task)

        def echo(parts: Parts) -> None:
            send(sock, reply(parts))

        asyncio.get_running_loop().add_reader(sock.fd, lambda: _drain(sock, partial(receive_routed, sock, task), echo))
        await asyncio.Event().wait()

    uvloop.run(serve())


def _drive(task: Task, window: Window) -> None:
    async def drive() -> None:
        loop = asyncio.get_running_loop()
        sock = driving(zmq.Context(), task)
        body = bytes(task.body_bytes)
        number = 0
        over = loop.create_future()

        def ask() -> None:
            nonlocal number
            number += 1
            send(sock, request(task, number, body))

        def take(parts: Parts) -> None:
            if window.answered(body_bytes(parts)):
                ask()
            elif not over.done():
                over.set_result(None)

        loop.add_reader(sock.fd, lambda: _drain(sock, partial(receive, sock, task), take))
        for _ in range(task.in_flight):
            ask()
        _drain(sock, partial(receive, sock, task), take)
        await asyncio.wait_for(over, 60)
        loop.remove_reader(sock.fd)
        sock.close()

    uvloop.run(drive())


if __name__ == "__main__":
    run(_serve, _drive)
