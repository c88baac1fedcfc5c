"""The child process that holds one model version: decode → run → encode, one request after the other.

It is forked from a warm fork server, talks frames over a socket pair, and has nothing else: no channel, no secrets.
While it runs, requests pile up; it takes what is there. A page shared with the supervisor says which request is being
run, so that when the process dies it is known whose fault it was.
"""

import mmap
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mlbuffet.channel import Codec, FrameReader, Kind, encode_frame
from mlbuffet.chassis.process import confine, own_memory_bytes, set_name, settle_memory
from mlbuffet.errors import BadRequestError, DeadlineExceededError, MLBuffetError
from modelhost.codecs import buffet, image
from modelhost.runtimes.onnx import OnnxModel, Terminated, read_verified
from modelhost.tasks import PROGRESS, PROGRESS_BYTES, STOP, RunnerTask

_HOLD_NS = 1_000_000  # answers wait at most this long for others to leave with


def run(task: RunnerTask, frames: socket.socket, stops: socket.socket, page: int) -> None:
    """Load the version, say so or why not, then answer until the supervisor hangs up."""
    set_name(f"runner {task.name}")
    confine(cpu_s=None, memory_bytes=None)
    # Values beyond a datatype's range are errors, not infinities.
    np.seterr(over="raise", invalid="raise", divide="raise")
    try:
        model = OnnxModel(read_verified(Path(task.path), task.digest), task.threads)
        warning = model.try_out()
    except MLBuffetError as error:
        frames.sendall(_error(0, error))
        return
    settle_memory()
    runner = Runner(model, mmap.mmap(page, PROGRESS_BYTES))
    threading.Thread(target=runner.obey, args=(stops,), daemon=True).start()
    frames.sendall(_frame(Kind.STATE, 0, orjson.dumps({"memory_bytes": own_memory_bytes(), "warning": warning})))
    try:
        runner.serve(frames)
    except (EOFError, ConnectionError):
        os._exit(0)  # the supervisor is gone or has let go; threads of the runtime are not worth waiting for


class Runner:
    """One loaded model and the loop around it."""

    def __init__(self, model: OnnxModel, page: mmap.mmap) -> None:
        self._model = model
        self._page = page
        self._running = 0
        self._stopped = 0

    def serve(self, frames: socket.socket) -> None:
        """Answer for ever.

        Raises:
            EOFError, ConnectionError: the supervisor hung up.
        """
        reader = FrameReader(frames)
        while True:
            answers: list[bytes] = []
            held_since = time.monotonic_ns()
            for _, codec, number, deadline_ns, body in reader.read():
                now = time.monotonic_ns()
                if answers and now - held_since > _HOLD_NS:
                    frames.sendall(b"".join(answers))
                    answers.clear()
                    held_since = now
                PROGRESS.pack_into(self._page, 0, number)
                self._running = number
                answers.append(self._answer(codec, number, deadline_ns, body, now))
            self._running = 0
            PROGRESS.pack_into(self._page, 0, 0)
            frames.sendall(b"".join(answers))

    def _answer(self, codec: int, number: int, deadline_ns: int, body: memoryview, now_ns: int) -> bytes:
        """One request's answer as a frame; whatever goes wrong is its own."""
        try:
            if now_ns > deadline_ns:
                msg = "the request waited until its time was over"
                raise DeadlineExceededError(msg)
            return _frame(Kind.REPLY, number, self._predict(codec, number, body))
        except MLBuffetError as error:
            return _error(number, error)
        except Terminated:
            return _error(number, DeadlineExceededError("the model did not finish in time and was stopped"))
        except Exception as error:  # noqa: BLE001 - a bug in a codec must not take the model out of service
            return _error(number, MLBuffetError(f"the request could not be handled ({type(error).__name__})"))

    def _predict(self, codec: int, number: int, body: memoryview) -> bytes:
        signature = self._model.signature
        labels: tuple[str, ...] = ()
        if codec == Codec.BUFFET:
            feeds, wanted = buffet.decode(body, signature)
        elif codec == Codec.IMAGE:
            feeds, wanted, labels = image.decode(body, signature)
        else:
            msg = f"the codec {codec} is not known here"
            raise BadRequestError(msg)
        outputs = self._run(number, feeds, wanted)
        return buffet.encode(outputs, wanted, image.labels_of(outputs[0], labels) if labels else None)

    def _run(self, number: int, feeds: dict[str, Any], wanted: buffet.Wanted) -> list[Any]:
        while True:
            try:
                return self._model.run(feeds, wanted.names)
            except Terminated:
                if self._stopped == number:
                    raise
                # The stop was meant for the request before, which ended as it came.

    def obey(self, stops: socket.socket) -> None:
        """Stop a run when told to (its own thread, asleep until then)."""
        while order := stops.recv(STOP.size):
            (number,) = STOP.unpack(order)
            if number == self._running:
                self._stopped = number
                self._model.terminate()


def _frame(kind: int, number: int, body: bytes) -> bytes:
    return encode_frame(kind, Codec.NONE, b"", number, 0, len(body)) + body


def _error(number: int, error: MLBuffetError) -> bytes:
    return _frame(Kind.ERROR, number, orjson.dumps({"code": error.code, "message": error.message}))
