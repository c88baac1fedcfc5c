"""A run's log while it is written: server-sent events, each with the offset that follows it as its id."""

import threading
import time
from collections.abc import Iterator

import orjson

from mlbuffet.errors import BusyError, RunNotFoundError
from trainer.output import pieces_of
from trainer.store import RunStore

_MOST = 16  # each holds a thread
_LOOK_S = 0.25
_BEAT_S = 10.0
_EVENT_BYTES = 1 << 14


class Followers:
    """Those who follow a log now; there are not more of them than the threads allow."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._room = threading.BoundedSemaphore(_MOST)

    def follow(self, run_id: str, offset: int) -> Iterator[bytes]:
        """Events from an offset on, until the run has ended.

        Raises:
            BusyError: as many as may are following already.
        """
        if not self._room.acquire(blocking=False):
            msg = f"{_MOST} clients are following logs already"
            raise BusyError(msg)
        return _Following(self._events(run_id, offset), self._room)

    def _events(self, run_id: str, offset: int) -> Iterator[bytes]:
        path = self._store.folder(run_id).log
        beats_at = time.monotonic() + _BEAT_S
        try:
            while True:
                run = self._store.get(run_id)  # before the log: what it printed last is there when it is over
                for piece in pieces_of(path, offset, _EVENT_BYTES):
                    offset += len(piece)
                    beats_at = time.monotonic() + _BEAT_S
                    yield event(piece.decode(errors="replace"), offset)
                if run.state.is_over:
                    yield b"event: end\ndata: " + orjson.dumps(run.shown()) + b"\n\n"
                    return
                if time.monotonic() > beats_at:
                    beats_at = time.monotonic() + _BEAT_S
                    yield b": still running\n\n"
                self._store.wait(_LOOK_S)
                yield b""  # so that it is seen when nobody reads any more
        except (RunNotFoundError, FileNotFoundError):
            yield b"event: gone\ndata: {}\n\n"  # it was deleted


class _Following:
    """The events of one follower, who leaves room when it is closed, begun or not."""

    def __init__(self, events: Iterator[bytes], room: threading.BoundedSemaphore) -> None:
        self._events = events
        self._room: threading.BoundedSemaphore | None = room

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        """Leave."""
        room, self._room = self._room, None
        if room is not None:
            room.release()


def event(text: str, offset: int) -> bytes:
    """A piece of the log as an event: a JSON text, so that every character arrives as it is."""
    return f"id: {offset}\ndata: ".encode() + orjson.dumps(text) + b"\n\n"
