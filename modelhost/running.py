"""A runner as the modelhost's server process sees it: what it says, what it takes, how it is told to stop."""

import asyncio
import logging
import mmap
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlbuffet.channel import Kind
from mlbuffet.segments import hand_over
from modelhost.progress import Counts, Progress, Spreads, new_page
from modelhost.segments import Segment
from modelhost.supervisor import Child, FirstWord, OnFrame, ProcessLink, Supervisor
from modelhost.tasks import STOP, RunnerTask, Tuning

log = logging.getLogger(__name__)


class Runner:
    """A running child that holds one model version."""

    def __init__(
        self, child: Child, link: ProcessLink, stops: socket.socket, segments: socket.socket, progress: Progress
    ) -> None:
        self.child = child
        self.link = link
        self._stops = stops
        self._segments = segments
        self._progress = progress
        self._first_anonymous_bytes = 0
        self._first_bytes = 0
        self.memory_bytes = 0
        self.tuning = Tuning(threads=1, batch_rows=1, run_s=None)
        self.retiring = False  # it gets no more requests

    def loaded(self, word: Mapping[str, Any]) -> None:
        """Take note of what it says once it has loaded its model: what it takes for itself, and how it runs."""
        self.memory_bytes = self._first_bytes = int(word["memory_bytes"])
        self.tuning = Tuning(**word["tuning"])
        self._first_anonymous_bytes = _anonymous_bytes(self.child.pid)

    def measure(self) -> None:
        """Bring `memory_bytes` up to date, cheaply: what it has grown by since it had loaded."""
        anonymous_bytes = _anonymous_bytes(self.child.pid)
        if anonymous_bytes:
            self.memory_bytes = self._first_bytes + anonymous_bytes - self._first_anonymous_bytes

    @property
    def running(self) -> tuple[int, ...]:
        """The numbers of the requests that it runs together, or ran when it died."""
        return self._progress.read_running()

    @property
    def counts(self) -> Counts:
        """What it has done."""
        return self._progress.read_counts()

    @property
    def spreads(self) -> Spreads:
        """How what it has done is distributed."""
        return self._progress.read_spreads()

    def has(self, segment: Segment) -> bool:
        """Hand a segment over unless it has been; tells whether the runner has it."""
        if self in segment.holders:
            return True
        if not hand_over(self._segments, segment.number, segment.size, segment.fd):
            return False
        segment.holders.add(self)
        return True

    def take_line(self, number: int, fd: int) -> bool:
        """Hand it an inferrer's line; tells whether that could be done."""
        if self.retiring or not hand_over(self._segments, number, 0, fd):
            return False
        self.link.send(Kind.LINE, 0, 0, b"", number, 0, b"")
        return True

    def release(self, number: int) -> None:
        """Tell it that a segment is no more."""
        self.link.send(Kind.RELEASE, 0, 0, b"", number, 0, b"")

    def stop(self, number: int) -> None:
        """Ask it to stop running a request."""
        try:
            self._stops.send(STOP.pack(number))
        except OSError as error:
            log.info("runner not reached", extra={"why": str(error)})

    def hang_up(self) -> None:
        """Let it end by itself."""
        self.link.close()

    def close(self) -> None:
        """Hang up and let go of what was shared with it."""
        self.hang_up()
        self._stops.close()
        self._segments.close()
        self._progress.close()


async def start_runner(
    supervisor: Supervisor, task: RunnerTask, on_frame: OnFrame, on_read: Callable[[], None], timeout_s: float
) -> Runner:
    """Fork a runner and wait until it has loaded its model.

    Its answers go to `on_frame` one by one; `on_read` follows when all that came together have.

    Raises:
        MLBuffetError: what the runner says is wrong with the model.
        ChildProcessError: it died or hung while loading.
    """
    word = FirstWord()
    frames, their_frames = socket.socketpair()
    stops, their_stops = socket.socketpair()
    segments, their_segments = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    segments.setblocking(False)  # noqa: FBT003 - the standard library's signature
    page_fd = new_page()
    with their_frames, their_stops, their_segments:
        fds = [their_frames.fileno(), their_stops.fileno(), their_segments.fileno(), page_fd]
        child = supervisor.fork("runner", task, fds)
    _, link = await asyncio.get_running_loop().create_unix_connection(
        lambda: ProcessLink(lambda kind, _, __, body, ___: word.take(kind, body)), sock=frames
    )
    runner = Runner(child, link, stops, segments, Progress(page_fd))
    try:
        runner.loaded(await word.wait(child, timeout_s))
    except BaseException:  # also when nobody waits for it any more
        child.kill()
        runner.close()
        raise
    link.on_frame, link.on_read = on_frame, on_read
    return runner


def _anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs, its fork's shared pages included; 0 when it is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE
