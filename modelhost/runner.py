"""The child process that holds one model version: decode → batch → run → encode.

It is forked from a warm fork server, talks frames over a socket pair, and has nothing else: no channel, no secrets.
While it runs, requests pile up; it takes what is there and runs together what fits. A page shared with the supervisor
says which requests are being run, so that when the process dies it is known whose fault it may have been.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mlbuffet.blocking import Frame
from mlbuffet.channel import Kind
from mlbuffet.chassis.process import open_memory, own_memory_bytes, set_name, settle_memory
from mlbuffet.errors import DeadlineExceededError, MLBuffetError
from modelhost.answers import HOLD_NS, Answers
from modelhost.batching import batches
from modelhost.codecs.request import Answer, Array, Decoded, Served
from modelhost.decoding import TOO_LATE, Job, Requests, joined
from modelhost.inbox import Inbox
from modelhost.mappings import Mappings
from modelhost.progress import RAN, Counts, Progress
from modelhost.runtimes.onnx import OnnxModel, Terminated, read_verified
from modelhost.sandbox.confine import limit, seal
from modelhost.tasks import STOP, RunnerTask
from modelhost.warmup import warm_up

_RELEASE = Kind.RELEASE.value
_ORDERS = frozenset({_RELEASE, Kind.LINE.value})


def run(task: RunnerTask, frames: socket.socket, stops: socket.socket, segments: socket.socket, page: int) -> None:
    """Load the version, say so or why not, then answer until the supervisor hangs up."""
    set_name(f"runner {task.name}")
    limit(cpu_s=None, memory_bytes=task.memory_bytes)
    # Values beyond a datatype's range are errors, not infinities.
    np.seterr(over="raise", invalid="raise", divide="raise")
    inbox = Inbox(frames)
    answers = Answers(frames, inbox)
    try:
        data = read_verified(Path(task.path), task.digest)
        # What is opened and mapped here is all that there will be.
        progress, memory = Progress(page), open_memory()
        seal()
        model, tuning, warning = warm_up(data, task)
        del data
    except (MLBuffetError, MemoryError) as error:
        answers.refuse(0, error)
        answers.leave()
        return
    settle_memory()
    served = Served(task.name, task.version, model.signature)
    runner = Runner(model, served, progress, inbox, answers, Mappings(segments), tuning.batch_rows)
    threading.Thread(target=runner.obey, args=(stops,), daemon=True).start()
    with memory:
        loaded = {"memory_bytes": own_memory_bytes(memory), "warning": warning, "tuning": asdict(tuning)}
    answers.add(0, Answer((orjson.dumps(loaded),)))
    answers.leave()
    try:
        runner.serve()
    except (EOFError, ConnectionError):
        os._exit(0)  # the supervisor is gone or has let go; threads of the runtime are not worth waiting for


class Runner:
    """One loaded model and the loop around it."""

    def __init__(  # noqa: PLR0913 - what it has from its start on
        self,
        model: OnnxModel,
        served: Served,
        progress: Progress,
        inbox: Inbox,
        answers: Answers,
        mappings: Mappings,
        rows: int,
    ) -> None:
        """`rows` is how many run together at most."""
        self._model = model
        self._progress = progress
        self._inbox = inbox
        self._answers = answers
        self._mappings = mappings
        self._requests = Requests(served, progress, mappings, self._answers.refuse)
        self._most_rows = rows
        self._batches = self._rows = self._decode_ns = self._run_ns = self._encode_ns = 0
        self._direct = self._direct_ns = self._answered_at_ns = 0
        self._ran_ns = 0  # when the last run ended
        self._ran = b""  # when it began and ended
        self._running: Sequence[int] = ()
        self._stopped: Sequence[int] = ()

    def serve(self) -> None:
        """Answer for ever: decode what has come, run what fits together, send the answers.

        Raises:
            EOFError, ConnectionError: the supervisor hung up.
        """
        requests = self._requests
        while True:
            frames = self._inbox.read()
            began_ns = self._answers.since_ns = now_ns = time.monotonic_ns()
            for frame in frames:
                if frame[0] in _ORDERS:
                    self._obey_frame(frame)
                    continue
                if requests.count:
                    now_ns = time.monotonic_ns()
                    if requests.count >= self._most_rows or now_ns - began_ns > HOLD_NS:
                        self._run_all(began_ns)
                        began_ns = now_ns = time.monotonic_ns()
                requests.take(frame, now_ns, together=self._most_rows > 1)
            self._run_all(began_ns)
            self._progress.rest(self._counts())
            self._answers.leave()

    def _obey_frame(self, frame: Frame) -> None:
        """Let go of shared memory, or take a line."""
        kind, _, _, number, _, _ = frame
        if kind == _RELEASE:
            self._mappings.release(number)
        elif (fd := self._mappings.line(number)) is not None:
            self._inbox.open(number, fd)

    def _counts(self) -> Counts:
        """What it has done; of what lines were answered the modelhost hears nothing else."""
        direct = self._answers.direct()
        if direct:
            self._answered_at_ns = time.monotonic_ns()
            self._direct += direct
            self._direct_ns += direct * (self._answered_at_ns - self._answers.since_ns)
        done = self._batches, self._rows, self._decode_ns, self._run_ns, self._encode_ns
        return Counts(*done, self._direct, self._direct_ns, self._answered_at_ns)

    def _run_all(self, began_ns: int) -> None:
        """Run and answer all that was taken since `began_ns`, those together that fit."""
        jobs = self._requests.decoded(time.monotonic_ns())
        spent_ns = time.monotonic_ns() - began_ns
        self._decode_ns += spent_ns
        if jobs:
            self._progress.observe("decode", spent_ns // len(jobs), len(jobs))
        if len(jobs) == 1:
            self._run_alone(jobs[0])
        else:
            for batch in batches(jobs, self._most_rows):
                if len(batch) == 1 or not self._run_together(batch):
                    self._run_one_by_one(batch)

    def _run_together(self, batch: Sequence[Job]) -> bool:
        """Run several requests as one; false when that did not go well: then each is to be tried alone."""
        numbers = [job.number for job in batch]
        self._progress.run_together(numbers)
        try:
            request = joined(batch)
            outputs = self._run(numbers, request.feeds, request.outputs)
        except (MLBuffetError, MemoryError, Terminated):
            return False
        rows = sum(job.rows for job in batch)
        if any(len(output) != rows for output in outputs):
            self._most_rows = 1  # what held for the rows that it was tried with does not hold for all
            return False
        answers = _encode_rows(request, outputs)
        if len(answers) == len(batch):
            for number, answer in zip(numbers, answers, strict=True):
                self._answers.add(number, answer, self._ran)
        else:
            self._answer_each(batch, outputs)
        self._encoded(rows)
        return True

    def _answer_each(self, batch: Sequence[Job], outputs: Sequence[Any]) -> None:
        """Answer each by its rows of the outputs."""
        start = 0
        for job in batch:
            end = start + job.rows
            self._answer(job, [output[start:end] for output in outputs])
            start = end

    def _run_one_by_one(self, batch: Sequence[Job]) -> None:
        for job in batch:
            if time.monotonic_ns() > job.deadline_ns:
                self._answers.refuse(job.number, DeadlineExceededError(TOO_LATE))
            else:
                self._run_alone(job)

    def _run_alone(self, job: Job) -> None:
        self._progress.run_one(job.number)
        try:
            outputs = self._run((job.number,), job.request.feeds, job.request.outputs)
        except Terminated:
            error = DeadlineExceededError("the model did not finish in time and was stopped")
            self._answers.refuse(job.number, error)
        except (MLBuffetError, MemoryError) as error:
            self._answers.refuse(job.number, error)
        else:
            self._answer(job, outputs)
            self._encoded(job.rows)

    def _encoded(self, rows: int) -> None:
        """Count rows whose answers have been written since the run ended."""
        self._rows += rows
        spent_ns, count = time.monotonic_ns() - self._ran_ns, len(self._running)
        self._encode_ns += spent_ns
        self._progress.observe("encode", spent_ns // count, count)
        self._progress.observe("rows", rows, 1)

    def _answer(self, job: Job, outputs: list[Any]) -> None:
        try:
            self._answers.add(job.number, job.request.encode(outputs), self._ran)
        except Exception as error:  # noqa: BLE001 - as in decoding
            self._answers.refuse(job.number, error)

    def _run(self, numbers: Sequence[int], feeds: Mapping[str, Array], names: Sequence[str]) -> list[Any]:
        self._answers.leave_if_due()
        self._batches += 1
        self._running = numbers
        began_ns = time.monotonic_ns()
        while True:
            try:
                outputs = self._model.run(feeds, names)
            except Terminated:
                if self._stopped is numbers:
                    raise
                # The stop was meant for what ran before, which ended as it came.
            else:
                self._ran_ns = time.monotonic_ns()
                self._ran = RAN.pack(began_ns, self._ran_ns)
                self._run_ns += (self._ran_ns - began_ns) * len(numbers)
                self._progress.observe("run", self._ran_ns - began_ns, len(numbers))
                return outputs

    def obey(self, stops: socket.socket) -> None:
        """Stop a run when told to (its own thread, asleep until then)."""
        while order := stops.recv(STOP.size):
            (number,) = STOP.unpack(order)
            running = self._running
            if number in running:
                self._stopped = running
                self._model.terminate()


def _encode_rows(request: Decoded, outputs: Sequence[Any]) -> Sequence[Answer]:
    """The answers of all at once, where they can be made so; else nothing."""
    try:
        return request.encode_rows(outputs) if request.encode_rows is not None else ()
    except Exception:  # noqa: BLE001 - as in decoding
        return ()
