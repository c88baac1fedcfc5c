"""An engine that is none: scripts as child processes of the trainer, in virtual environments and without isolation.

For a laptop without Docker, and only where nobody from elsewhere can ask (`mlbuffet up --allow-unisolated-training`). A
script may read and write whatever this user may, and use the network. What holds: its memory, the files that it writes
and its time are bounded, and when it ends, all that it has started ends with it. When the trainer ends, so does it.
"""

import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from trainer import minder, spec
from trainer.engine import Prepared, Seen, TrainingError, Usage
from trainer.installer import Watch
from trainer.runs import Reason, Run
from trainer.store import RunFolder
from trainer.survey import METRICS_BYTES, read_survey
from trainer.venvs import Venvs, python_of

log = logging.getLogger(__name__)

ADDRESS = "unisolated"

_GRACE_S = 5.0
_STOP_S = _GRACE_S + 5.0
_TELL_S = 0.1
_PIECE_BYTES = 1 << 16
_OPEN_FILES = 4096
_SIGNALLED = 128
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_WARNING = b"mlbuffet: this run is NOT isolated: its script may do whatever the user may who started the platform\n"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What scripts may take beyond what their runs say."""

    work_bytes: int
    pids: int
    model_bytes: int


class _Child:
    """A script that was started here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.began = time.monotonic()
        self.ended: float | None = None
        self.out_of_memory = False
        self.cpu_s = 0.0


class UnisolatedEngine:
    """This machine as a place for runs; `folder` is where scripts work."""

    address = ADDRESS

    def __init__(self, folder: Path, venvs: Venvs, bounds: Bounds) -> None:
        self._folder = folder
        self._venvs = venvs
        self._bounds = bounds
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()

    def check(self) -> Mapping[str, str]:
        """The version of the interpreter; it always answers."""
        return {"Python": platform.python_version()}

    def prepare(
        self, run: Run, folder: RunFolder, say: Callable[[bytes], object], go_on: Callable[[], bool]
    ) -> Prepared:
        """Have a virtual environment ready."""
        say(_WARNING)
        log.warning("script runs without isolation", extra={"run": run.run_id})
        environment = self._venvs.have(folder.requirements, Watch(say, go_on))
        return Prepared(f"Python {platform.python_version()} of this machine, not isolated", "", str(environment))

    def place(self, run: Run, folder: RunFolder) -> None:
        """Fill the script's folder."""
        self.clean(run.run_id)
        work = self._work(run.run_id)
        (work.parent / "tmp").mkdir(parents=True, mode=0o700)
        work.mkdir(mode=0o700)
        shutil.copyfile(folder.script, work / spec.SCRIPT)
        for item in run.inputs.dataset:
            shutil.copyfile(folder.dataset / item.name, work / item.name)

    def start(self, run: Run) -> bool:
        """Start the script, unless it was started; one that was before this trainer is gone. Tells whether it did."""
        work = self._work(run.run_id)
        with self._lock:
            if run.run_id in self._children or not work.is_dir() or (work.parent / "started").exists():
                return False
            (work.parent / "started").touch()
            self._children[run.run_id] = _Child(
                subprocess.Popen(  # noqa: S603 - what this engine is for
                    [
                        sys.executable,
                        "-I",
                        minder.__file__,
                        json.dumps(self._limits(run)),
                        str(_GRACE_S),
                        *_command(run),
                    ],
                    cwd=work,
                    env=_variables(run, work),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return True

    def look(self, run: Run) -> Seen:
        """What has become of the script."""
        child = self._children.get(run.run_id)
        if child is None:
            started = (self._work(run.run_id).parent / "started").exists()
            return Seen("absent", lost=True) if started or not self._work(run.run_id).is_dir() else Seen("ready")
        code = child.process.poll()
        if code is None:
            return Seen("running", ran_s=time.monotonic() - child.began)
        child.ended = child.ended or time.monotonic()
        return Seen("ended", code if code >= 0 else _SIGNALLED - code, child.out_of_memory, child.ended - child.began)

    def usage(self, run: Run) -> Usage | None:
        """What the script takes with all that it has started; too much, and it is ended."""
        child = self._children.get(run.run_id)
        if child is None or child.process.poll() is not None:
            return None
        pids = list(minder.below(child.process.pid))
        taken = [found for found in map(_taken, pids) if found is not None]
        child.cpu_s = max(child.cpu_s, sum(cpu_s for _, cpu_s, _ in taken))
        usage = Usage(sum(memory for memory, _, _ in taken), child.cpu_s, sum(threads for _, _, threads in taken))
        if usage.memory_bytes > run.wish.limits.memory_bytes or usage.pids > self._bounds.pids:
            child.out_of_memory = usage.memory_bytes > run.wish.limits.memory_bytes
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return usage

    def output(self, run: Run) -> Generator[bytes, None, None]:
        """What the script prints; to be asked for once."""
        child = self._children.get(run.run_id)
        if child is None or child.process.stdout is None:
            return
        fd = os.dup(child.process.stdout.fileno())
        try:
            while piece := os.read(fd, _PIECE_BYTES):
                yield piece
            os.close(fd)
        except GeneratorExit:  # whoever reads has enough; the script is not to wait for that
            threading.Thread(target=_drop, args=(fd,), daemon=True).start()
            raise

    def stop(self, run: Run) -> None:
        """Ask the script to end, and make it five seconds later, with all that it has started."""
        child = self._children.get(run.run_id)
        if child is None:
            return
        child.process.terminate()
        try:
            child.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("script not ended by its minder", extra={"run": run.run_id})
            child.process.kill()
            child.process.wait()

    def take(self, run: Run, folder: RunFolder) -> bytes:
        """Copy the model out of the script's folder."""
        work = self._work(run.run_id)
        found = read_survey(_survey(work, run.wish.model), run.wish.model, self._bounds.model_bytes)
        path = work / Path(found.model_path).relative_to(spec.WORK)
        try:
            data = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(data, "rb") as source, folder.model.open("wb") as target:  # noqa: PTH123 - a descriptor
                shutil.copyfileobj(source, target)
        except OSError as error:
            msg = "the model is no file any more"
            raise TrainingError(Reason.NO_MODEL, msg) from error
        return _head(work / spec.METRICS_FILE, found.metrics_bytes)

    def clean(self, run_id: str) -> None:
        """End what is left of a run, and remove its folder."""
        with self._lock:
            child = self._children.pop(run_id, None)
        if child is not None:
            _end(child.process)
            if child.process.stdout is not None:
                child.process.stdout.close()
        shutil.rmtree(self._work(run_id).parent, ignore_errors=True)

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove the folders of runs that are not wanted."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in list(self._folder.iterdir()):
            if not is_wanted(path.name):
                self.clean(path.name)

    def _work(self, run_id: str) -> Path:
        return (self._folder / run_id / "work").absolute()

    def _limits(self, run: Run) -> dict[str, int]:
        """Bounds that the kernel holds each of its processes to, by their names in setrlimit(2)."""
        return {
            "DATA": run.wish.limits.memory_bytes,
            "FSIZE": self._bounds.work_bytes,
            "NOFILE": _OPEN_FILES,
            "CORE": 0,
        }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a minder with its script at once; told again and again, since until it listens it may ignore it."""
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TELL_S)


def _command(run: Run) -> list[str]:
    arguments = [word for name, value in run.wish.parameters.items() for word in (f"--{name}", spec.text_of(value))]
    return [str(python_of(Path(str(run.environment)))), spec.SCRIPT, *arguments]


def _variables(run: Run, work: Path) -> dict[str, str]:
    """What the script finds in its environment: nothing of the trainer's."""
    variables = spec.script_variables(run, str(work))
    del variables["PYTHONPATH"]  # its interpreter knows where its packages are
    temporary = str(work.parent / "tmp")
    path = f"{python_of(Path(str(run.environment))).parent}:{os.defpath}"
    return variables | {"HOME": temporary, "TMPDIR": temporary, "PATH": path, "LANG": "C.UTF-8"}


def _drop(fd: int) -> None:
    """Read what nobody wants any more."""
    while os.read(fd, _PIECE_BYTES):
        continue
    os.close(fd)


def _taken(pid: int) -> tuple[int, float, int] | None:
    """Memory in bytes, processor time and threads of a process; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[21]) * _PAGE, (int(fields[11]) + int(fields[12])) / _TICK, int(fields[17])


def _survey(work: Path, name: str) -> bytes:
    """What is there, as the program tells it that looks into a container's folder."""
    found = []
    for path in _files(work, name):
        info = path.lstat()
        place = f"{spec.WORK}/{path.relative_to(work)}"
        found.append([os.fsencode(place).hex(), stat.S_ISREG(info.st_mode), info.st_size])
    metrics = len(_head(work / spec.METRICS_FILE, METRICS_BYTES))
    return orjson.dumps({"found": found, "metrics": metrics})


def _files(work: Path, name: str) -> Iterator[Path]:
    """Whatever has the name, below a folder; links are not followed."""
    for folder, folders, files in os.walk(work):
        if name in files or name in folders:
            yield Path(folder) / name


def _head(path: Path, most_bytes: int) -> bytes:
    """The beginning of a plain file; nothing of anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read(most_bytes) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
