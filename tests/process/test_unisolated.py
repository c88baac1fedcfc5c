"""Scripts as child processes: what bounds hold without isolation, and that nothing of a script outlives it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.platform import wait_until
from trainer import minder
from trainer.engine import CancelledError, Seen, TrainingError
from trainer.installer import Bounds as Installing
from trainer.runs import Input, Inputs, Limits, Reason, Run, Wish
from trainer.store import RunFolder
from trainer.unisolated import Bounds, UnisolatedEngine
from trainer.venvs import Index, Venvs

MIB = 1 << 20
NOTHING = Input("", 0)


class Bench:
    """One engine, and runs on it, each prepared, placed and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venvs = Venvs(folder / "environments", Index(), Installing(60, 1 << 30), 2)
        self.engine = UnisolatedEngine(folder / "work", venvs, Bounds(4 * MIB, 64, MIB))
        self.engine.sweep(lambda _: False)

    def started(self, script: str, *, number: int = 0, memory_bytes: int = 512 * MIB, c: str = "") -> Run:
        """A run whose script runs now."""
        run, folder = self.made(script, number, memory_bytes, {"c": c} if c else {})
        said: list[bytes] = []
        prepared = self.engine.prepare(run, folder, said.append, lambda: True)
        assert b"NOT isolated" in said[0]
        ready = Run(
            **{name: getattr(run, name) for name in ("run_id", "wish", "inputs", "created")},
            environment=prepared.environment,
        )
        self.engine.place(ready, folder)
        assert self.engine.look(ready).state == "ready"
        assert self.engine.start(ready)
        assert not self.engine.start(ready), "it has been"
        return ready

    def made(self, script: str, number: int, memory_bytes: int, parameters: dict[str, str]) -> tuple[Run, RunFolder]:
        """A run and its files, a dataset among them."""
        run_id = f"20261129t131405-{number:08x}"
        folder = RunFolder(self.folder / run_id)
        folder.dataset.mkdir(parents=True)
        folder.script.write_text(script)
        folder.requirements.write_text("# none\n")
        (folder.dataset / "data.csv").write_text("1,2\n")
        wish = Wish("m", Limits(60, memory_bytes, 1), parameters)
        inputs = Inputs(NOTHING, NOTHING, (Input("", 4, "data.csv"),))
        return Run(run_id, wish, inputs, "2026-11-29T13:14:05+00:00"), folder

    def ended(self, run: Run) -> Seen:
        """What has become of it."""
        wait_until(lambda: self.engine.look(run).state == "ended", 60, "the script's end")
        return self.engine.look(run)

    def printed(self, run: Run) -> str:
        """All that it prints."""
        return b"".join(self.engine.output(run)).decode()

    def model(self, run: Run) -> bytes:
        """What it has made."""
        folder = RunFolder(self.folder / run.run_id)
        self.engine.take(run, folder)
        return folder.model.read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.engine.sweep(lambda _: False)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_script_finds_what_it_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_KEY", "secret")
    script = """
import os, sys, pathlib
print(sys.argv[1:], open("data.csv").read().strip(), open(os.environ["MLBUFFET_DATASET"]).read().strip())
print(os.environ["MLBUFFET_PARAM_C"], "secret" in str(os.environ), sys.prefix != sys.base_prefix)
print(os.getpid() == os.getsid(0))
pathlib.Path(os.environ["MLBUFFET_MODEL_PATH"]).write_bytes(b"made")
pathlib.Path(os.environ["MLBUFFET_METRICS_PATH"]).write_text('{"name": "loss", "value": 1}')
"""
    run = bench.started(script, c="0.5")
    assert bench.printed(run).splitlines() == ["['--c', '0.5'] 1,2 1,2", "0.5 False True", "True"]
    assert (bench.ended(run).exit_code, bench.model(run)) == (0, b"made")
    assert bench.engine.take(run, RunFolder(bench.folder / run.run_id)) == b'{"name": "loss", "value": 1}'


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
        ("x = bytearray(2 << 30)", 1, "MemoryError"),
        ("open('large', 'wb').write(bytes(8 << 20))", 1, "File too large"),
        ("this is no Python", 1, "SyntaxError"),
    ],
)
def test_how_a_script_ends_is_seen(bench: Bench, script: str, code: int, said: str) -> None:
    run = bench.started(script)
    assert said in bench.printed(run)
    assert bench.ended(run).exit_code == code


ESCAPE = r"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(1, b"escaped %d\n" % os.getpid())
            open(f"escaped-{number}", "w").close()
            time.sleep(600)
        os._exit(0)
os.write(1, b"main %d\n" % os.getpid())
while sum(name.startswith("escaped") for name in os.listdir()) < 3:
    time.sleep(0.01)
if len(sys.argv) > 1:
    time.sleep(600)
"""


def pids_in(printed: str) -> set[int]:
    return {int(line.split()[1]) for line in printed.splitlines(keepends=True) if line.endswith("\n")}


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("how", ["ends", "is stopped", "is cleaned up", "loses the trainer"])
def test_t03_nothing_that_a_script_starts_outlives_it(bench: Bench, how: str) -> None:
    run = bench.started(ESCAPE, c="" if how == "ends" else "stay")
    printed = bytearray()

    def read() -> None:
        for piece in bench.engine.output(run):
            printed.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(pids_in(printed.decode())) == 4, 30, "all being there")
    pids = pids_in(printed.decode())
    ways: dict[str, Callable[[], object]] = {
        "ends": lambda: None,
        "is stopped": lambda: bench.engine.stop(run),
        "is cleaned up": lambda: bench.engine.clean(run.run_id),
        "loses the trainer": lambda: bench.engine._children[run.run_id].process.send_signal(signal.SIGINT),
    }
    ways[how]()
    wait_until(lambda: all(map(is_gone, pids)), 30, "all having ended")
    reader.join()


def test_t04_more_memory_than_allowed_ends_it(bench: Bench) -> None:
    """What no limit of one process sees: many that are small."""
    script = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        kept = bytearray(os.urandom(1)) * (40 << 20)
        time.sleep(600)
time.sleep(600)
"""
    run = bench.started(script, memory_bytes=100 * MIB)

    def is_over() -> bool:
        bench.engine.usage(run)
        return bench.engine.look(run).state == "ended"

    wait_until(is_over, 60, "it being ended")
    seen = bench.engine.look(run)
    assert (seen.out_of_memory, seen.exit_code) == (True, 137)


def test_t07_a_script_whose_output_nobody_wants_any_more_goes_on(bench: Bench) -> None:
    run = bench.started("print('x' * (64 << 20)); open('m', 'w').write('made')")
    pieces = bench.engine.output(run)
    assert next(pieces).startswith(b"xxx")
    pieces.close()
    assert (bench.ended(run).exit_code, bench.model(run)) == (0, b"made")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("pass", Reason.NO_MODEL),
        ("import os; os.mkdir('m')", Reason.NO_MODEL),
        ("import os; os.symlink('/etc/passwd', 'm')", Reason.NO_MODEL),
        ("import os; os.mkfifo('m')", Reason.NO_MODEL),
        ("import os; os.mkdir('a'); open('a/m', 'w'); os.mkdir('b'); open('b/m', 'w')", Reason.NO_MODEL),
        ("open('m', 'wb').write(bytes(2 << 20))", "TOO_LARGE"),
    ],
)
def test_t08_what_is_no_model_is_not_taken(bench: Bench, script: str, reason: str) -> None:
    run = bench.started(script)
    assert bench.ended(run).exit_code == 0
    with pytest.raises(TrainingError) as caught:
        bench.model(run)
    assert caught.value.reason == reason


def test_a_model_is_found_wherever_it_lies(bench: Bench) -> None:
    run = bench.started("import os; os.makedirs('a/b'); open('a/b/m', 'w').write('deep'); os.symlink('/', 'c')")
    assert bench.ended(run).exit_code == 0
    assert bench.model(run) == b"deep"


def test_t16_a_script_of_a_trainer_that_is_gone_is_lost(bench: Bench) -> None:
    run = bench.started("import time; time.sleep(600)")
    other = UnisolatedEngine(bench.folder / "work", bench.engine._venvs, Bounds(MIB, 8, MIB))
    other.start(run)
    seen = other.look(run)
    assert (seen.state, seen.lost) == ("absent", True)


@pytest.fixture
def _interrupts_ignored() -> Iterator[None]:
    """As in what a shell runs in the background: programs that are started inherit it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts_ignored")
def test_a_script_is_ended_that_has_hardly_begun(bench: Bench) -> None:
    run = bench.started("import time; time.sleep(600)")
    ending = threading.Thread(target=bench.engine.clean, args=(run.run_id,), daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()


def test_requirements_that_cannot_be_had_fail_with_what_pip_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    run, folder = bench.made("pass", 1, MIB, {})
    folder.requirements.write_text("mlbuffet-there-is-no-such-thing==1\n")
    venvs = Venvs(bench.folder / "others", Index(url="http://127.0.0.1:9/simple"), Installing(60, MIB), 2)
    engine = UnisolatedEngine(bench.folder / "work", venvs, Bounds(MIB, 8, MIB))
    said: list[bytes] = []
    with pytest.raises(TrainingError) as caught:
        engine.prepare(run, folder, said.append, lambda: True)
    assert caught.value.reason == Reason.REQUIREMENTS_FAILED
    assert b"mlbuffet-there-is-no-such-thing" in b"".join(said)
    assert list((bench.folder / "others").iterdir()) == [], "half an environment is none"
    with pytest.raises(CancelledError):
        engine.prepare(run, folder, said.append, lambda: False)


def test_environments_are_used_again_and_the_oldest_leave(bench: Bench) -> None:
    made = []
    for number in range(3):
        run, folder = bench.made("pass", number, MIB, {})
        folder.requirements.write_text(f"# {number}\n")
        first = bench.engine.prepare(run, folder, lambda _: None, lambda: True).environment
        inode = Path(first).stat().st_ino
        assert bench.engine.prepare(run, folder, lambda _: None, lambda: True).environment == first
        assert Path(first).stat().st_ino == inode
        made.append(Path(first))
    assert [path.is_dir() for path in made] == [False, True, True]


def test_a_minder_ends_with_whoever_started_it() -> None:
    """What the kernel tells it: here its parent is a process that dies, and not a thread."""
    script = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-I', {minder.__file__!r}, '{{}}', '5', sys.executable, '-c']\n"
        "command.append('import os, time; print(os.getpid(), flush=True); time.sleep(600)')\n"
        "subprocess.Popen(command); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        wait_until(lambda: is_gone(pid), 30, "the script having ended")
