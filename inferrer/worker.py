"""A gunicorn worker class: uvloop, llhttp and the lane in front, Flask behind it in threads.

gunicorn brings what an arbiter is good for: sockets shared by several processes, restarts of dead ones, signals. A
worker that is told to end by SIGTERM is replaced, or has lost its arbiter: it leaves the sockets to others at once. By
SIGQUIT it learns that the whole service ends, and gives notice first (docs/adr/0029-draining.md).
"""

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import uvloop
from gunicorn.workers.base import Worker

from inferrer.app import Inferrer
from inferrer.listeners import Listeners
from inferrer.settings import InferrerSettings
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.process import END_SIGNALS, die_with_parent, settle_memory
from mlbuffet.chassis.request import Limits
from mlbuffet.chassis.shares import Share

if TYPE_CHECKING:
    from inferrer.rpc.server import RpcServer

_TICK_S = 1.0
_CONNECT_S = 3.0


class LaneWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """One inferrer process under gunicorn's arbiter."""

    share: Share  # its place among the others

    def init_signals(self) -> None:
        """Only end or ignore here: the loop takes the signals over."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))  # by default it leaves a core file
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the arbiter too, which sends QUIT
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # now they are not lost

    def run(self) -> None:
        """Serve until the arbiter says otherwise."""
        die_with_parent(self.ppid, signal.SIGTERM)
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stop, at_once = asyncio.Event(), asyncio.Event()

        def end_worker() -> None:
            at_once.set()
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, end_worker)
        loop.add_signal_handler(signal.SIGQUIT, stop.set)
        inferrer = Inferrer(self.wsgi)
        beating = loop.create_task(self._beat())
        server = _make_server(inferrer, self.share)
        await _connected(inferrer)
        listeners = Listeners([listener.sock for listener in self.sockets], server)
        listeners.open()
        rpc = await _start_rpc(inferrer) if inferrer.settings.grpc_port else None
        settle_memory()
        while not stop.is_set() and not (inferrer.services.dataplane.failed() or (rpc and rpc.failed())):
            inferrer.measure(server)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _TICK_S)
        inferrer.services.leaving.set()
        server.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), inferrer.settings.drain_notice_s if stop.is_set() else 0)
        inferrer.services.trainer.leave()
        await listeners.close()
        await asyncio.gather(server.drain(inferrer.settings.drain_s), *([rpc.drain()] if rpc else []))
        inferrer.close()
        beating.cancel()

    async def _beat(self) -> None:
        """Tell the arbiter again and again that this process is alive."""
        while True:
            self.notify()
            await asyncio.sleep(_TICK_S)


def _make_server(inferrer: Inferrer, share: Share) -> HttpServer:
    settings: InferrerSettings = inferrer.settings
    limits = Limits(
        body_bytes=settings.upload_bytes,
        head_timeout_s=settings.head_s,
        body_idle_s=settings.body_idle_s,
        write_idle_s=settings.body_idle_s,
        keep_alive_s=settings.keep_alive_s,
        threads=settings.threads,
    )
    return HttpServer(inferrer.app, inferrer.lane, limits, gate=inferrer.gate, lane_on=settings.lane, share=share)


async def _connected(inferrer: Inferrer) -> None:
    """Give the channels a moment: a worker that replaces another must not answer 503 meanwhile."""
    ends_at = time.monotonic() + _CONNECT_S
    while not inferrer.services.ready and time.monotonic() < ends_at:
        await asyncio.sleep(0.01)


async def _start_rpc(inferrer: Inferrer) -> "RpcServer":
    """Serve gRPC as well; only then is it imported, by the arbiter already, whose memory is shared."""
    from inferrer.rpc.server import RpcServer  # noqa: PLC0415

    rpc = RpcServer(inferrer.services, inferrer.outcomes, inferrer.gate)
    await rpc.start()
    return rpc
