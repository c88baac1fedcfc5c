"""Starts, watches and kills the processes that run models, by way of the fork server."""

import asyncio
import contextlib
import itertools
import json
import logging
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.errors import InvalidModelError, UnavailableError, from_code
from modelhost.tasks import PROGRESS, PROGRESS_BYTES, STOP, CheckTask, RunnerTask

log = logging.getLogger(__name__)

# One thread per process until a session asks for more: the fork server must have exactly one.
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

_LAST_WORD_S = 0.05  # what a child wrote before it ended may still be on its way


class Child:
    """A forked process, by the token under which the fork server knows it."""

    def __init__(self, token: int, kill: Callable[[int], None]) -> None:
        self.token = token
        self.pid = 0
        self.killed = False
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._kill = kill

    def kill(self) -> None:
        """End it at once; a fork server that is gone has taken it along."""
        if not self.killed and not self.ended.done():
            self.killed = True
            with contextlib.suppress(UnavailableError):
                self._kill(self.token)


class ProcessLink(FrameProtocol):
    """Our end of a child's socket pair."""

    def __init__(self, on_frame: Callable[[int, int, bytes], None]) -> None:
        super().__init__()
        self._on_frame = on_frame

    def frame_received(self, kind: int, codec: int, key: bytes, frame_id: int, time_ns: int, body: bytes) -> None:  # noqa: ARG002
        """Hand on what the child says."""
        self._on_frame(kind, frame_id, body)


class FirstWord:
    """What a child says first: its result, or the error that it met."""

    def __init__(self) -> None:
        self._said: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    def take(self, kind: int, body: bytes) -> None:
        """Take a frame of the child; only the first counts."""
        if self._said.done():
            return
        data = json.loads(body)
        if kind == Kind.ERROR:
            self._said.set_exception(from_code(data["code"], data["message"]))
        else:
            self._said.set_result(data)

    async def wait(self, child: Child, timeout_s: float) -> dict[str, object]:
        """Wait for it.

        Raises:
            MLBuffetError: the error that the child met.
            ChildProcessError: it ended before it said anything, or took too long.
        """
        await asyncio.wait((self._said, child.ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._said.done() and child.ended.done():
            await asyncio.wait((self._said,), timeout=_LAST_WORD_S)
        if self._said.done():
            return self._said.result()
        if child.ended.done():
            msg = f"ended with status {child.ended.result()}"
            raise ChildProcessError(msg)
        msg = f"was not done in {timeout_s:g} s"
        raise ChildProcessError(msg)


class Supervisor:
    """The fork server and its children."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._children: dict[int, Child] = {}
        self._tokens = itertools.count(1)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "modelhost.forkserver", str(theirs.fileno()), str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, pass_fds=[theirs.fileno()], env=os.environ | _ENVIRONMENT, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._control, self._told)

    def _told(self) -> None:
        """Read what happened to the children."""
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._control)
            if not self.lost.done():
                self.lost.set_result(None)
            return
        event = json.loads(data)
        if "started" in event:
            self._children[event["started"]].pid = event["pid"]
        else:
            child = self._children.pop(event["ended"])
            if not child.ended.done():
                child.ended.set_result(event["status"])

    def fork(self, role: str, task: RunnerTask | CheckTask, fds: list[int]) -> Child:
        """Have a child forked; it gets copies of the descriptors."""
        child = Child(next(self._tokens), lambda token: self._order({"kill": token}, []))
        self._children[child.token] = child
        self._order({"role": role, "token": child.token, "task": asdict(task)}, fds)
        return child

    def _order(self, order: dict[str, object], fds: list[int]) -> None:
        """Send an order.

        Raises:
            UnavailableError: the fork server is gone, and this modelhost about to end for it.
        """
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], fds)
        except OSError as error:
            msg = "this modelhost has lost its fork server and starts anew"
            raise UnavailableError(msg) from error

    async def check(self, task: CheckTask, timeout_s: float) -> dict[str, object]:
        """Have a file checked; returns signature and notes.

        Raises:
            InvalidModelError: it is no model, or crashed or outlasted the check.
        """
        word = FirstWord()
        ours, theirs = socket.socketpair()
        with theirs:
            child = self.fork("check", task, [theirs.fileno()])
        _, link = await self._loop.create_unix_connection(
            lambda: ProcessLink(lambda kind, _, body: word.take(kind, body)), sock=ours
        )
        try:
            return await word.wait(child, timeout_s)
        except ChildProcessError as error:
            msg = f"the file is not a model that can be loaded: the process that tried {error}"
            raise InvalidModelError(msg) from None
        finally:
            child.kill()
            link.close()

    def close(self) -> None:
        """Let go of the fork server: it ends, and every child with it."""
        self._loop.remove_reader(self._control)
        self._control.close()
        self._process.wait(timeout=5)


class Runner:
    """A running child that holds one model version."""

    def __init__(self, child: Child, link: ProcessLink, stops: socket.socket, page: mmap.mmap) -> None:
        self.child = child
        self.link = link
        self._stops = stops
        self._page = page
        self.memory_bytes = 0

    @property
    def running(self) -> int:
        """The number of the request that it runs, or ran when it died."""
        return int(PROGRESS.unpack_from(self._page)[0])

    def stop(self, number: int) -> None:
        """Ask it to stop running a request."""
        try:
            self._stops.send(STOP.pack(number))
        except OSError as error:
            log.info("runner not reached", extra={"why": str(error)})

    def close(self) -> None:
        """Hang up: it ends by itself."""
        self.link.close()
        self._stops.close()
        self._page.close()


async def start_runner(
    supervisor: Supervisor, task: RunnerTask, on_frame: Callable[[int, int, bytes], None], timeout_s: float
) -> Runner:
    """Fork a runner and wait until it has loaded its model.

    Raises:
        MLBuffetError: what the runner says is wrong with the model.
        ChildProcessError: it died or hung while loading.
    """
    word = FirstWord()

    def take(kind: int, number: int, body: bytes) -> None:
        if number:
            on_frame(kind, number, body)
        else:
            word.take(kind, body)

    frames, their_frames = socket.socketpair()
    stops, their_stops = socket.socketpair()
    page_fd = os.memfd_create("progress", os.MFD_CLOEXEC)
    os.ftruncate(page_fd, PROGRESS_BYTES)
    with their_frames, their_stops:
        child = supervisor.fork("runner", task, [their_frames.fileno(), their_stops.fileno(), page_fd])
    page = mmap.mmap(page_fd, PROGRESS_BYTES)
    os.close(page_fd)
    _, link = await asyncio.get_running_loop().create_unix_connection(lambda: ProcessLink(take), sock=frames)
    runner = Runner(child, link, stops, page)
    try:
        runner.memory_bytes = int(str((await word.wait(child, timeout_s))["memory_bytes"]))
    except BaseException:  # also when nobody waits for it any more
        child.kill()
        runner.close()
        raise
    return runner
