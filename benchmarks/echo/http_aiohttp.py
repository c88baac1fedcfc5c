"""Pooled HTTP: aiohttp on uvloop over a unix socket, one kept-alive connection per request in flight."""

import asyncio

import aiohttp
import uvloop

from benchmarks.echo.exchange import Task, Window, run
from benchmarks.echo.http_server import REQUEST_HEADERS, serve


def _drive(task: Task, window: Window) -> None:
    async def ask(session: aiohttp.ClientSession, body: bytes) -> None:
        going = True
        while going:
            async with session.post("http://localhost/", data=body, headers=REQUEST_HEADERS) as response:
                going = window.answered(len(await response.read()))

    async def drive() -> None:
        connector = aiohttp.UnixConnector(task.address, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            body = bytes(task.body_bytes)
            await asyncio.gather(*(ask(session, body) for _ in range(task.in_flight)))

    uvloop.run(drive())


if __name__ == "__main__":
    run(serve, _drive)
