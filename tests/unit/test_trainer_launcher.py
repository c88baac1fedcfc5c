"""Runs in order, on engines that are away, stopped or crowded, over an engine that keeps its state in memory."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mlbuffet.errors import RunEndedError
from tests.harness.platform import wait_until
from tests.unit.test_trainer_runs import RUN
from trainer.attempt import Surroundings
from trainer.engine import EngineUnreachableError, Prepared, Seen, TrainingError, Usage
from trainer.launcher import Launcher
from trainer.registry import Registry, RegistryUnavailableError
from trainer.runs import Phase, Run, State
from trainer.settings import TrainerSettings
from trainer.stations import Station
from trainer.store import RunFolder, RunStore
from trainer.training import Training


class Memory:
    """An engine whose scripts end when a test says so."""

    def __init__(self, address: str = "unix:///memory") -> None:
        self.address = address
        self.away = False
        self.scripts: dict[str, Seen] = {}
        self.began: list[str] = []
        self.most_at_once = 0
        self.refused: TrainingError | None = None

    def _answer(self) -> None:
        if self.away:
            msg = "away"
            raise EngineUnreachableError(msg)

    def check(self) -> Mapping[str, str]:
        """Answer, unless it is away."""
        self._answer()
        return {"runc": "1.2.8"}

    def prepare(
        self,
        run: Run,  # noqa: ARG002 - the engine's signature
        folder: RunFolder,  # noqa: ARG002
        say: Callable[[bytes], object],
        go_on: Callable[[], bool],  # noqa: ARG002
    ) -> Prepared:
        """Need nothing."""
        self._answer()
        say(b"installed\n")
        if self.refused is not None:
            raise self.refused
        return Prepared("image", "sha256:1", "env")

    def place(self, run: Run, folder: RunFolder) -> None:
        """Have the script ready."""
        self._answer()
        assert folder.script.exists()
        self.scripts[run.run_id] = Seen("ready")

    def start(self, run: Run) -> bool:
        """Begin."""
        self._answer()
        if self.look(run).state != "ready":
            return False
        self.began.append(run.run_id)
        self.scripts[run.run_id] = Seen("running")
        running = sum(seen.state == "running" for seen in self.scripts.values())
        self.most_at_once = max(self.most_at_once, running)
        return True

    def look(self, run: Run) -> Seen:
        """As the test has it."""
        self._answer()
        return self.scripts.get(run.run_id, Seen("absent", lost=True))

    def usage(self, run: Run) -> Usage | None:  # noqa: ARG002 - as above
        """A little."""
        return Usage(5, 1.0, 2)

    def output(self, run: Run) -> Generator[bytes, None, None]:  # noqa: ARG002 - as above
        """Always the same, from the beginning."""
        self._answer()
        yield b"hello\n"
        yield b"mlbuffet: metric loss=1\n"

    def stop(self, run: Run) -> None:
        """End at once."""
        self._answer()
        self.end(run.run_id, 143)

    def take(self, run: Run, folder: RunFolder) -> bytes:  # noqa: ARG002 - as above
        """A model for everybody."""
        self._answer()
        folder.model.write_bytes(b"model")
        return b""

    def clean(self, run_id: str) -> None:
        """Forget a script."""
        self._answer()
        self.scripts.pop(run_id, None)

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """Forget those that nobody wants."""
        for run_id in [run_id for run_id in self.scripts if not is_wanted(run_id)]:
            self.clean(run_id)

    def end(self, run_id: str, exit_code: int = 0) -> None:
        """Have a script end."""
        self.scripts[run_id] = Seen("ended", exit_code)

    def crash(self) -> None:
        """Lose everything that is running."""
        for run_id in self.scripts:
            self.scripts[run_id] = Seen("ended", 137, lost=True)


class Shelf(Registry):
    """Takes models as the test has it."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "", None)
        self.faults: list[Exception] = []
        self.taken: list[str] = []

    def upload(self, run: Run, model: Path) -> int:
        """Take a model, unless there is a fault left."""
        if self.faults:
            raise self.faults.pop(0)
        assert model.read_bytes() == b"model"
        self.taken.append(run.run_id)
        return len(self.taken)


class Bench:
    """A launcher over such engines; it can be started anew on the same files."""

    def __init__(self, folder: Path, slots: int = 2, engines: int = 1) -> None:
        self.folder = folder
        self.engines = [Memory(f"unix:///{number}") for number in range(engines)]
        self.shelf = Shelf()
        self.outputs = folder / "outputs"
        self._slots = slots
        self._made = 0
        self.start()

    @property
    def engine(self) -> Memory:
        """The first one."""
        return self.engines[0]

    def start(self) -> None:
        """Begin, or begin anew."""
        settings = TrainerSettings(register_s=30, outputs=self.outputs)
        self.store = RunStore(self.folder)
        around = Surroundings(settings, self.store, self.shelf, threading.Event())
        self.launcher = Launcher(around, [Station(engine, self._slots) for engine in self.engines])
        self.training = Training(settings, self.store, self.launcher)
        self.launcher.start()
        wait_until(lambda: self.launcher.reachable or any(engine.away for engine in self.engines), 30, "the engines")

    def submit(self, **wish: object) -> str:
        """Add a run."""
        self._made += 1
        run = replace(RUN, run_id=f"20261129t130000-{self._made:08x}", wish=replace(RUN.wish, **wish))  # type: ignore[arg-type]
        with self.store.incoming() as folder:
            folder.script.write_bytes(b"")
            self.store.add(run, folder)
        return run.run_id

    def wait(self, run_id: str, *wanted: State | Phase) -> Run:
        """Wait for one of these."""
        wait_until(lambda: {self.store.get(run_id).state, self.store.get(run_id).phase} & set(wanted), 30, str(wanted))
        return self.store.get(run_id)

    def training_now(self, run_id: str) -> None:
        """Wait until a script runs."""
        wait_until(lambda: any(self._runs(engine, run_id) for engine in self.engines), 30, "the script")

    @staticmethod
    def _runs(engine: Memory, run_id: str) -> bool:
        return run_id in engine.scripts and engine.scripts[run_id].state == "running"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One engine with two slots."""
    made = Bench(tmp_path)
    yield made
    made.launcher.leave(5)


def test_a_run_ends_with_a_version_and_leaves_nothing(bench: Bench) -> None:
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.engine.end(run_id)
    run = bench.wait(run_id, State.FINISHED, State.FAILED)
    assert (run.state, run.model_version, run.image_digest, run.exit_code) == (State.FINISHED, 1, "sha256:1", 0)
    folder = bench.store.folder(run_id)
    printed = folder.log.read_bytes()
    assert printed.endswith(b"the script starts\nhello\nmlbuffet: metric loss=1\n")
    assert (bench.outputs / run_id / "m.onnx").read_bytes() == b"model", "a copy for the operator"
    assert (bench.outputs / run_id / "log").read_bytes() == printed
    wait_until(lambda: not folder.model.exists() and not bench.engine.scripts, 30, "its being cleared away")


def test_t19_runs_begin_in_order_and_never_more_than_there_are_slots(bench: Bench) -> None:
    sent = [bench.submit() for _ in range(9)]
    for run_id in sent:
        bench.training_now(run_id)
        bench.engine.end(run_id)
    for run_id in sent:
        bench.wait(run_id, State.FINISHED)
    assert sorted(bench.engine.began[:2]) == sent[:2]
    assert [bench.engine.began.index(run_id) - place for place, run_id in enumerate(sent)] <= [1] * 9
    assert bench.engine.most_at_once == 2


def test_engines_share_the_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=2, engines=2)
    wait_until(lambda: all(station.reachable for station in bench.launcher.stations), 30, "both")
    sent = [bench.submit() for _ in range(4)]
    for run_id in sent:
        bench.training_now(run_id)
    assert [len(engine.scripts) for engine in bench.engines] == [2, 2]
    for run_id in sent:
        next(engine for engine in bench.engines if run_id in engine.scripts).end(run_id)
        bench.wait(run_id, State.FINISHED)
    bench.launcher.leave(5)


def test_t20_cancelling_at_any_moment(bench: Bench) -> None:
    running = [bench.submit(), bench.submit()]
    waiting = bench.submit()
    for run_id in running:
        bench.training_now(run_id)
    assert bench.training.cancel(waiting).state is State.KILLED
    bench.training.cancel(running[0])
    assert bench.wait(running[0], State.KILLED).reason == "CANCELLED"
    assert bench.training.cancel(running[0]).state is State.KILLED, "twice is once"
    bench.engine.end(running[1])
    bench.wait(running[1], State.FINISHED)
    with pytest.raises(RunEndedError):
        bench.training.cancel(running[1])
    assert waiting not in bench.engine.began
    assert not bench.engine.scripts


def test_t17_an_engine_that_is_away_is_waited_for(bench: Bench) -> None:
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.engine.away = True
    wait_until(lambda: not bench.launcher.reachable, 30, "the loss")
    bench.engine.end(run_id)
    assert bench.store.get(run_id).state is State.RUNNING
    bench.engine.away = False
    assert bench.wait(run_id, State.FINISHED, State.FAILED).state is State.FINISHED


def test_one_that_is_cancelled_while_its_engine_is_away_is_swept_up_later(bench: Bench) -> None:
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.engine.away = True
    wait_until(lambda: not bench.launcher.reachable, 30, "the loss")
    bench.training.cancel(run_id)
    bench.wait(run_id, State.KILLED)
    assert run_id in bench.engine.scripts
    bench.engine.away = False
    wait_until(lambda: not bench.engine.scripts, 30, "the sweep")


def test_t16_what_an_engine_lost_is_interrupted_or_run_again(bench: Bench) -> None:
    once, again = bench.submit(), bench.submit(retries=1)
    for run_id in (once, again):
        bench.training_now(run_id)
    bench.engine.crash()
    assert bench.wait(once, State.FAILED, State.FINISHED).reason == "INTERRUPTED"
    bench.training_now(again)
    bench.engine.end(again)
    run = bench.wait(again, State.FAILED, State.FINISHED)
    assert (run.state, run.attempts) == (State.FINISHED, 2)


def test_a_script_that_fails_says_why(bench: Bench) -> None:
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.engine.end(run_id, 3)
    run = bench.wait(run_id, State.FAILED)
    assert (run.reason, run.message, run.exit_code) == ("SCRIPT_FAILED", "the script ended with status 3", 3)
    bench.engine.refused = TrainingError("REQUIREMENTS_FAILED", "no such package")
    assert bench.wait(bench.submit(), State.FAILED).reason == "REQUIREMENTS_FAILED"


def test_a_model_is_refused_or_taken_later(bench: Bench) -> None:
    bench.shelf.faults = [RegistryUnavailableError("away"), TrainingError("INVALID_MODEL", "not a model")]
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.engine.end(run_id)
    run = bench.wait(run_id, State.FAILED)
    assert (run.reason, run.message, run.model_version) == ("INVALID_MODEL", "not a model", None)
    assert bench.shelf.taken == []


def test_a_trainer_that_starts_again_goes_on(bench: Bench) -> None:
    """One waits, one trains, one registers; none is done twice."""
    bench.shelf.faults = [RegistryUnavailableError("away")] * 3
    registering, training = bench.submit(), bench.submit()
    for run_id in (registering, training):
        bench.training_now(run_id)
    bench.engine.end(registering)
    bench.wait(registering, Phase.REGISTERING)
    extra, waiting = bench.submit(), bench.submit()
    bench.training_now(extra)
    wait_until(lambda: bench.store.get(training).resources.max_memory_bytes, 30, "what it takes")
    bench.launcher.leave(5)
    assert bench.store.get(waiting).state is State.SCHEDULED
    bench.start()
    for run_id in (training, extra):
        bench.engine.end(run_id)
    bench.training_now(waiting)
    bench.engine.end(waiting)
    for run_id in (registering, training, extra, waiting):
        assert bench.wait(run_id, State.FINISHED, State.FAILED).state is State.FINISHED
    assert sorted(bench.shelf.taken) == sorted([registering, training, extra, waiting])
    assert len(bench.engine.began) == 4
    assert bench.store.get(training).resources.max_memory_bytes == 5
    assert bench.store.folder(training).log.read_bytes().count(b"hello") == 1, "what was printed is there once"


def test_a_run_whose_engine_is_no_longer_named_is_interrupted(bench: Bench) -> None:
    run_id = bench.submit()
    bench.training_now(run_id)
    bench.launcher.leave(5)
    bench.engines = [Memory("unix:///other")]
    bench.start()
    assert bench.wait(run_id, State.FAILED).reason == "INTERRUPTED"


def test_what_nobody_knows_is_removed(bench: Bench) -> None:
    bench.engine.away = True
    wait_until(lambda: not bench.launcher.reachable, 30, "the loss")
    bench.engine.scripts["20200101t000000-00000000"] = Seen("running")
    bench.engine.away = False
    wait_until(lambda: not bench.engine.scripts, 30, "the sweep")


def test_a_script_is_given_its_time_and_no_more(bench: Bench) -> None:
    run_id = bench.submit(limits=replace(RUN.wish.limits, timeout_s=0.5))
    run = bench.wait(run_id, State.FAILED, State.FINISHED)
    assert run.reason == "TIMED_OUT"
