"""A gunicorn worker class: uvloop, llhttp and the lane in front, Flask behind it in threads.

gunicorn brings what an arbiter is good for: sockets shared by several processes, restarts of dead ones, signals. Each
wake-up accepts one connection, so that the processes share them evenly.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import uvloop
from gunicorn.workers.base import Worker

from inferrer.app import Inferrer
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.process import die_with_parent, settle_memory
from mlbuffet.chassis.request import Limits

if TYPE_CHECKING:
    from inferrer.rpc.server import RpcServer

log = logging.getLogger(__name__)

_TICK_S = 1.0
_CONNECT_S = 3.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class LaneWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """One inferrer process under gunicorn's arbiter."""

    def init_signals(self) -> None:
        """Only ignore here: the loop takes the signals over."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the arbiter too, which sends TERM

    def run(self) -> None:
        """Serve until the arbiter says otherwise."""
        die_with_parent(self.ppid, signal.SIGTERM)
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGQUIT):
            loop.add_signal_handler(number, stop.set)
        inferrer = Inferrer(self.wsgi)
        settings = inferrer.settings
        limits = Limits(
            body_bytes=settings.upload_bytes,
            head_timeout_s=settings.head_s,
            body_idle_s=settings.body_idle_s,
            write_idle_s=settings.body_idle_s,
            keep_alive_s=settings.keep_alive_s,
            threads=settings.threads,
        )
        server = HttpServer(inferrer.app, inferrer.lane, limits, gate=inferrer.gate, lane_on=settings.lane)
        await self._connected(inferrer)
        listeners = [listener.sock for listener in self.sockets]
        for listener in listeners:
            loop.add_reader(listener, _accept, loop, listener, server)
        rpc = await _start_rpc(inferrer) if settings.grpc_port else None
        settle_memory()
        while not stop.is_set() and not (inferrer.services.dataplane.failed() or (rpc and rpc.failed())):
            self.notify()
            inferrer.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _TICK_S)
        for listener in listeners:
            loop.remove_reader(listener)
            listener.close()  # so that another arbiter can bind the port when ours was killed
        await asyncio.gather(server.drain(settings.drain_s), *([rpc.drain()] if rpc else []))
        inferrer.close()

    async def _connected(self, inferrer: Inferrer) -> None:
        """Give the channels a moment: a worker that replaces another must not answer 503 meanwhile."""
        ends_at = time.monotonic() + _CONNECT_S
        while not inferrer.services.dataplane.replicas.ready() and time.monotonic() < ends_at:
            self.notify()
            await asyncio.sleep(0.01)


async def _start_rpc(inferrer: Inferrer) -> "RpcServer":
    """Serve gRPC as well; only then is it imported, by the arbiter already, whose memory is shared."""
    from inferrer.rpc.server import RpcServer  # noqa: PLC0415

    rpc = RpcServer(inferrer.services, inferrer.counts, inferrer.gate)
    await rpc.start()
    return rpc


def _accept(loop: asyncio.AbstractEventLoop, listener: socket.socket, server: HttpServer) -> None:
    """Take one connection; another process may have been faster."""
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError, InterruptedError):
        return
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        # Out of descriptors: the listener stays readable, so look again later instead of spinning.
        server.close_idle()
        loop.remove_reader(listener)
        loop.call_later(_TICK_S, loop.add_reader, listener, _accept, loop, listener, server)
        return
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    task: Any = loop.create_task(loop.connect_accepted_socket(server.connection, sock))
    task.add_done_callback(_log_failed_accept)


def _log_failed_accept(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.info("connection not accepted", extra={"why": str(task.exception())})
