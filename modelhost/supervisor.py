"""Starts, watches and kills the processes that run models, by way of the fork server."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlbuffet.channel import FrameProtocol, Head, Kind
from mlbuffet.errors import InvalidModelError, UnavailableError, from_code
from modelhost.launch import ForkServer
from modelhost.tasks import CHECK_CPU_S, CHECK_S, CheckTask, RunnerTask

log = logging.getLogger(__name__)

OnFrame = Callable[[int, int, int, bytes, bytes], None]  # kind, split, number, body and context of a runner's word

_IDENTITY = Path(__file__).with_name("runtimes") / "identity.onnx"
_LAST_WORD_S = 0.05  # what a child wrote before it ended may still be on its way


class ChildKilledError(ChildProcessError):
    """A stranger killed the process: an operator, or the kernel for want of memory."""


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

    def __init__(self, on_frame: OnFrame) -> None:
        super().__init__()
        self.on_frame = on_frame
        self.on_read: Callable[[], None] = lambda: None  # follows when all frames that came together were handed on

    def data_received(self, data: bytes) -> None:
        """Hand on what has come."""
        super().data_received(data)
        self.on_read()

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:  # noqa: ARG002
        """Hand on what the child says."""
        _, kind, _, _, split, frame_id, _ = head
        self.on_frame(kind, split, frame_id, body, self.context)


class FirstWord:
    """What a child says first: its result, or the error that it met."""

    def __init__(self) -> None:
        self._said: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def take(self, kind: int, body: bytes) -> None:
        """Take a frame of the child; only the first counts."""
        if self._said.done():
            return
        data = json.loads(body)
        if kind == Kind.ERROR:
            self._said.set_exception(from_code(data["code"], data["message"]))
        else:
            self._said.set_result(data)

    async def wait(self, child: Child, timeout_s: float) -> dict[str, Any]:
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
            status = child.ended.result()
            msg = f"ended with status {status}"
            if status == -signal.SIGXCPU:
                msg = f"took more than {CHECK_CPU_S} s of processor time"
            raise (ChildKilledError if status == -signal.SIGKILL and not child.killed else ChildProcessError)(msg)
        msg = f"was not done in {timeout_s:g} s"
        raise ChildProcessError(msg)


class Supervisor:
    """The fork server and its children."""

    def __init__(self, forkserver: ForkServer) -> None:
        self._loop = asyncio.get_running_loop()
        self._forkserver = forkserver
        self._control = forkserver.control
        self._children: dict[int, Child] = {}
        self._tokens = itertools.count(1)
        self._control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._control, self._told)

    def _told(self) -> None:
        """Read what happened to the children."""
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except ConnectionResetError:  # killed with orders of ours unread: uvloop never calls this again after an error
            data = b""
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
        ends_at = self._loop.time() + timeout_s
        try:
            try:
                return await self._check_once(task, timeout_s)
            except ChildKilledError:  # hardly the file's fault: once more
                return await self._check_once(task, max(ends_at - self._loop.time(), 0))
        except ChildProcessError as error:
            msg = f"the file is not a model that can be loaded: the process that tried {error}"
            raise InvalidModelError(msg) from None

    async def _check_once(self, task: CheckTask, timeout_s: float) -> dict[str, object]:
        word = FirstWord()
        ours, theirs = socket.socketpair()
        with theirs:
            child = self.fork("check", task, [theirs.fileno()])
        _, link = await self._loop.create_unix_connection(
            lambda: ProcessLink(lambda kind, _, __, body, ___: word.take(kind, body)), sock=ours
        )
        try:
            return await word.wait(child, timeout_s)
        finally:
            child.kill()
            link.close()

    async def prove(self) -> None:
        """Check the smallest model there is, as if it were uploaded: who cannot do that will serve no other.

        Raises:
            MLBuffetError: no model can be loaded and run here.
        """
        digest = f"sha256:{hashlib.sha256(_IDENTITY.read_bytes()).hexdigest()}"
        found = await self.check(CheckTask(str(_IDENTITY), digest, 0), CHECK_S)
        if found["notes"]:
            msg = f"no model can be run here: {found['notes']}"
            raise UnavailableError(msg)

    def close(self) -> None:
        """Let go of the fork server: it ends, and every child with it."""
        self._loop.remove_reader(self._control)
        self._control.close()
        self._forkserver.wait()
