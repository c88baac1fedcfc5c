"""The child process that holds one model version: decode → batch → run → encode.

It is forked from a warm fork server, talks frames over a socket pair, and has nothing else: no channel, no secrets.
While it runs, requests pile up; it takes what is there and runs together what fits. A page shared with the supervisor
says which requests are being run, so that when the process dies it is known whose fault it may have been.
"""

import os
import socket
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mlbuffet.channel import Codec, FrameReader, Kind, encode_frame
from mlbuffet.chassis.process import open_memory, own_memory_bytes, set_name, settle_memory
from mlbuffet.errors import BadRequestError, DeadlineExceededError, MLBuffetError, ResourceLimitError
from modelhost.batching import batches
from modelhost.codecs import buffet, image
from modelhost.progress import Progress
from modelhost.runtimes.onnx import TOO_MUCH, Feeds, OnnxModel, Terminated, read_verified
from modelhost.sandbox.confine import limit, seal
from modelhost.tasks import STOP, RunnerTask
from modelhost.warmup import batch_limit

_HOLD_NS = 1_000_000  # answers wait at most this long for others to leave with
_TOO_LATE = "the request waited until its time was over"


def run(task: RunnerTask, frames: socket.socket, stops: socket.socket, page: int) -> None:
    """Load the version, say so or why not, then answer until the supervisor hangs up."""
    set_name(f"runner {task.name}")
    limit(cpu_s=None, memory_bytes=task.memory_bytes)
    # Values beyond a datatype's range are errors, not infinities.
    np.seterr(over="raise", invalid="raise", divide="raise")
    answers = Answers(frames)
    try:
        data = read_verified(Path(task.path), task.digest)
        # What is opened and mapped here is all that there will be.
        progress, memory = Progress(page), open_memory()
        seal()
        model = OnnxModel(data, task.threads)
        del data
        warning = model.try_out()
        rows = batch_limit(model)
    except (MLBuffetError, MemoryError) as error:
        answers.refuse(0, error)
        answers.leave()
        return
    settle_memory()
    runner = Runner(model, progress, frames, rows)
    threading.Thread(target=runner.obey, args=(stops,), daemon=True).start()
    with memory:
        loaded = {"memory_bytes": own_memory_bytes(memory), "warning": warning, "batch_rows": rows}
    answers.add(0, orjson.dumps(loaded))
    answers.leave()
    try:
        runner.serve()
    except (EOFError, ConnectionError):
        os._exit(0)  # the supervisor is gone or has let go; threads of the runtime are not worth waiting for


@dataclass(slots=True)
class _Job:
    """A request whose body is decoded."""

    number: int
    deadline_ns: int
    alone: bool
    feeds: Feeds
    wanted: buffet.Wanted
    labels: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many observations it has, by its first input."""
        return len(next(iter(self.feeds.values())))

    @property
    def fits(self) -> Hashable:
        """What it has to share with others to run with them; None when it runs alone."""
        arrays = self.feeds.values()
        rows = self.rows
        if self.alone or not rows or any(len(array) != rows for array in arrays):
            return None
        return (self.wanted.names, *(array.shape[1:] for array in arrays))


class Answers:
    """Answers that leave in one write; none waits long for others."""

    def __init__(self, frames: socket.socket) -> None:
        self._frames = frames
        self._held: list[bytes] = []
        self.since_ns = 0  # when those that are held began to wait

    def add(self, number: int, body: bytes) -> None:
        """Add an answer."""
        self._held.append(encode_frame(Kind.REPLY, Codec.NONE, b"", number, 0, len(body)) + body)

    def refuse(self, number: int, error: Exception) -> None:
        """Add an error; what nobody foresaw is told by its type."""
        if isinstance(error, MemoryError):
            error = ResourceLimitError(TOO_MUCH)
        elif not isinstance(error, MLBuffetError):
            error = MLBuffetError(f"the request could not be handled ({type(error).__name__})")
        body = orjson.dumps({"code": error.code, "message": error.message})
        self._held.append(encode_frame(Kind.ERROR, Codec.NONE, b"", number, 0, len(body)) + body)

    def leave_if_due(self) -> None:
        """Send what is here unless it was only just made."""
        if self._held and time.monotonic_ns() - self.since_ns > _HOLD_NS:
            self.leave()
            self.since_ns = time.monotonic_ns()

    def leave(self) -> None:
        """Send what is here."""
        self._frames.sendall(b"".join(self._held))
        self._held.clear()


class Runner:
    """One loaded model and the loop around it."""

    def __init__(self, model: OnnxModel, progress: Progress, frames: socket.socket, rows: int) -> None:
        """`rows` is how many run together at most."""
        self._model = model
        self._progress = progress
        self._reader = FrameReader(frames)
        self._answers = Answers(frames)
        self._most_rows = rows
        self._batches = 0
        self._running: Sequence[int] = ()
        self._stopped: Sequence[int] = ()

    def serve(self) -> None:
        """Answer for ever: decode what has come, run what fits together, send the answers.

        Raises:
            EOFError, ConnectionError: the supervisor hung up.
        """
        jobs: list[_Job] = []
        while True:
            frames = self._reader.read()
            began_ns = self._answers.since_ns = now_ns = time.monotonic_ns()
            for kind, codec, number, deadline_ns, body in frames:
                if jobs:
                    now_ns = time.monotonic_ns()
                    if len(jobs) >= self._most_rows or now_ns - began_ns > _HOLD_NS:
                        self._run_all(jobs)
                        began_ns = now_ns = time.monotonic_ns()
                self._progress.run_one(number)
                try:
                    if now_ns > deadline_ns:
                        raise DeadlineExceededError(_TOO_LATE)
                    jobs.append(_Job(number, deadline_ns, kind == Kind.PREDICT_ALONE, *self._decode(codec, body)))
                except Exception as error:  # noqa: BLE001 - a bug in a codec must not take the model out of service
                    self._answers.refuse(number, error)
            self._run_all(jobs)
            self._progress.rest(self._batches)
            self._answers.leave()

    def _decode(self, codec: int, body: memoryview) -> tuple[Feeds, buffet.Wanted, tuple[str, ...]]:
        if codec == Codec.BUFFET:
            return *buffet.decode(body, self._model.signature), ()
        if codec == Codec.IMAGE:
            return image.decode(body, self._model.signature)
        msg = f"the codec {codec} is not known here"
        raise BadRequestError(msg)

    def _run_all(self, jobs: list[_Job]) -> None:
        """Run and answer all, those together that fit."""
        if len(jobs) == 1:
            self._run_alone(jobs[0])
        else:
            for batch in batches(jobs, self._most_rows):
                if len(batch) == 1 or not self._run_together(batch):
                    self._run_one_by_one(batch)
        jobs.clear()

    def _run_together(self, batch: Sequence[_Job]) -> bool:
        """Run several requests as one; false when that did not go well: then each is to be tried alone."""
        numbers = [job.number for job in batch]
        self._progress.run_together(numbers)
        try:
            feeds = {name: np.concatenate([job.feeds[name] for job in batch]) for name in batch[0].feeds}
            outputs = self._run(numbers, feeds, batch[0].wanted.names)
        except (MLBuffetError, MemoryError, Terminated):
            return False
        ends = list(accumulate(job.rows for job in batch))
        if any(len(output) != ends[-1] for output in outputs):
            self._most_rows = 1  # what held for the rows that it was tried with does not hold for all
            return False
        for job, start, end in zip(batch, (0, *ends), ends, strict=False):
            self._answer(job, [output[start:end] for output in outputs])
        return True

    def _run_one_by_one(self, batch: Sequence[_Job]) -> None:
        for job in batch:
            if time.monotonic_ns() > job.deadline_ns:
                self._answers.refuse(job.number, DeadlineExceededError(_TOO_LATE))
            else:
                self._run_alone(job)

    def _run_alone(self, job: _Job) -> None:
        self._progress.run_one(job.number)
        try:
            outputs = self._run((job.number,), job.feeds, job.wanted.names)
        except Terminated:
            error = DeadlineExceededError("the model did not finish in time and was stopped")
            self._answers.refuse(job.number, error)
        except (MLBuffetError, MemoryError) as error:
            self._answers.refuse(job.number, error)
        else:
            self._answer(job, outputs)

    def _answer(self, job: _Job, outputs: list[Any]) -> None:
        try:
            extra = image.labels_of(outputs[0], job.labels) if job.labels else None
            self._answers.add(job.number, buffet.encode(outputs, job.wanted, extra))
        except Exception as error:  # noqa: BLE001 - as in decoding
            self._answers.refuse(job.number, error)

    def _run(self, numbers: Sequence[int], feeds: Feeds, names: Sequence[str]) -> list[Any]:
        self._answers.leave_if_due()
        self._batches += 1
        self._running = numbers
        while True:
            try:
                return self._model.run(feeds, names)
            except Terminated:
                if self._stopped is numbers:
                    raise
                # The stop was meant for what ran before, which ended as it came.

    def obey(self, stops: socket.socket) -> None:
        """Stop a run when told to (its own thread, asleep until then)."""
        while order := stops.recv(STOP.size):
            (number,) = STOP.unpack(order)
            running = self._running
            if number in running:
                self._stopped = running
                self._model.terminate()
