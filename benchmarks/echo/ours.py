"""The data channel: frames over a unix socket, both ends on uvloop."""

import asyncio

import uvloop

from benchmarks.echo.exchange import KEY, TIME_NS, Task, Window, run
from mlbuffet.channel import Codec, FrameProtocol, Head, Kind
from mlbuffet.endpoints import Address, connect, listen


class _Echo(FrameProtocol):
    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:  # noqa: ARG002
        self.send(Kind.REPLY, 0, 0, b"", head[5], 0, body)


class _Driver(FrameProtocol):
    """Sends the next request when an answer comes."""

    def __init__(self, task: Task, window: Window) -> None:
        super().__init__()
        self._body = bytes(task.body_bytes)
        self._window = window
        self._next_id = 0
        self.over = self._loop.create_future()

    def request(self) -> None:
        """Send one."""
        self._next_id += 1
        self.send(Kind.PREDICT, Codec.BUFFET, 0, KEY, self._next_id, TIME_NS, self._body)

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:  # noqa: ARG002
        """Count an answer."""
        if self._window.answered(len(body)):
            self.request()
        elif not self.over.done():
            self.over.set_result(None)


def _serve(task: Task) -> None:
    async def serve() -> None:
        server = await listen(_Echo, Address(path=task.address), None)
        await server.serve_forever()

    uvloop.run(serve())


def _drive(task: Task, window: Window) -> None:
    async def drive() -> None:
        driver = await connect(lambda: _Driver(task, window), Address(path=task.address), None)
        for _ in range(task.in_flight):
            driver.request()
        await asyncio.wait_for(driver.over, 60)
        driver.close()

    uvloop.run(drive())


if __name__ == "__main__":
    run(_serve, _drive)
