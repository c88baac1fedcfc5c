"""pyzmq as its documentation uses it with asyncio: `zmq.asyncio` sockets on uvloop."""

import uvloop
import zmq.asyncio

from benchmarks.echo.exchange import Task, Window, run
from benchmarks.echo.zmq_messages import body_bytes, driving, reply, request, serving


def _serve(task: Task) -> None:
    async def serve() -> None:
        sock = serving(zmq.asyncio.Context(), task)
        copy = not task.is_large
        while True:
            await sock.send_multipart(reply(await sock.recv_multipart(copy=copy)), copy=copy)

    uvloop.run(serve())


def _drive(task: Task, window: Window) -> None:
    async def drive() -> None:
        sock = driving(zmq.asyncio.Context(), task)
        body, copy = bytes(task.body_bytes), not task.is_large
        number = 0
        while number < task.in_flight:
            number += 1
            await sock.send_multipart(request(task, number, body), copy=copy)
        while window.answered(body_bytes(await sock.recv_multipart(copy=copy))):
            number += 1
            await sock.send_multipart(request(task, number, body), copy=copy)
        sock.close()

    uvloop.run(drive())


if __name__ == "__main__":
    run(_serve, _drive)
