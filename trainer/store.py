"""The trainer's files: `runs/<id>/` with `run.json`, what was sent, the log, the metrics and, for a while, the model.

The files are the truth and readable by a person. A run's file is replaced as a whole, and durable before anything is
done that it tells of.
"""

import contextlib
import errno
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import orjson

from mlbuffet.errors import RunNotFoundError, StorageFullError
from trainer.runs import Run
from trainer.tally import Tally

log = logging.getLogger(__name__)


class RunFolder:
    """Where the files of one run are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "run.json"
        self.script = path / "inputs" / "train.py"
        self.requirements = path / "inputs" / "requirements.txt"
        self.dataset = path / "inputs" / "dataset"
        self.log = path / "log"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model"


class RunStore:
    """All runs, in memory and on disk."""

    def __init__(self, root: Path) -> None:
        """Read what is there; what was on its way in when the trainer ended is removed."""
        self._runs_folder = root / "runs"
        self._incoming = root / "incoming"
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder in (self._runs_folder, self._incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.tally = Tally()
        self.trainer_id = _own_id(root / "id")
        self._runs = {run.run_id: run for run in self._read()}

    def _read(self) -> Iterator[Run]:
        for folder in sorted(self._runs_folder.iterdir()):
            if folder.name.startswith("."):  # half deleted
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                yield Run.from_json(orjson.loads((folder / "run.json").read_bytes()))
            except (OSError, KeyError, TypeError, ValueError):
                log.exception("run not readable", extra={"run": folder.name})

    def folder(self, run_id: str) -> RunFolder:
        """A run's files."""
        return RunFolder(self._runs_folder / run_id)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[RunFolder]:
        """A folder for what is being received; gone afterwards unless it became a run."""
        folder = RunFolder(self._incoming / secrets.token_hex(8))
        folder.dataset.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                msg = "the trainer's volume is full; nothing was kept"
                raise StorageFullError(msg) from error
            raise
        finally:
            shutil.rmtree(folder.path, ignore_errors=True)

    def add(self, run: Run, folder: RunFolder) -> None:
        """Make a run of what was received, durably."""
        folder.log.touch()
        _write(folder.record, run)
        _sync(folder.path)
        with self._changed:
            folder.path.rename(self._runs_folder / run.run_id)
            _sync(self._runs_folder)
            self._runs[run.run_id] = run
            self._changed.notify_all()

    def get(self, run_id: str) -> Run:
        """A run as it is now.

        Raises:
            RunNotFoundError: there is none of this id.
        """
        run = self._runs.get(run_id)
        if run is None:
            msg = f"no run has the id {run_id[:80]!a}"
            raise RunNotFoundError(msg)
        return run

    def all(self) -> list[Run]:
        """Every run, the oldest first."""
        with self._lock:
            return [run for _, run in sorted(self._runs.items())]

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keep others from changing any run meanwhile."""
        with self._lock:
            yield

    def put(self, run: Run) -> Run:
        """Replace a run's record, durably."""
        with self._changed:
            before = self.get(run.run_id)
            _write(self.folder(run.run_id).record, run)
            if run.state.is_over and not before.state.is_over:
                self.tally.note(run)
            self._runs[run.run_id] = run
            self._changed.notify_all()
        return run

    def wait(self, timeout_s: float) -> None:
        """Wait until any run has changed, or for so long."""
        with self._changed:
            self._changed.wait(timeout_s)

    def wake(self) -> None:
        """Have whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    def remove(self, run_id: str) -> None:
        """Forget a run with all its files."""
        with self._changed:
            self.get(run_id)
            gone = self._runs_folder / f".{run_id}"
            self.folder(run_id).path.rename(gone)
            _sync(self._runs_folder)
            del self._runs[run_id]
            self._changed.notify_all()
        shutil.rmtree(gone, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Forget the oldest of the runs that have ended, beyond as many as are kept."""
        with self._lock:
            ended = [run.run_id for run in self.all() if run.state.is_over]
            for run_id in ended[:-keep]:
                self.remove(run_id)


def write_file(file: BinaryIO) -> None:
    """Make a file's bytes durable."""
    file.flush()
    os.fsync(file.fileno())


def _write(path: Path, run: Run) -> None:
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(orjson.dumps(asdict(run), option=orjson.OPT_INDENT_2))
        write_file(file)
    beside.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _own_id(path: Path) -> str:
    """What tells this trainer's containers from others' on the same engine."""
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()
