"""A run's states: every move from every state, and what stands in its file."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from mlbuffet.errors import RunEndedError
from trainer import runs
from trainer.engine import Seen, Usage
from trainer.runs import Input, Inputs, Limits, Phase, Reason, Run, State, Wish
from trainer.verdict import verdict

AT = "2026-11-29T13:00:00.000+00:00"
LIMITS = Limits(60.0, 1 << 28, 1.0)
INPUTS = Inputs(Input("a" * 64, 1, "train.py"), Input("b" * 64, 0, "requirements.txt"), (Input("c" * 64, 2, "d.csv"),))
RUN = Run("20261129t130000-00000000", Wish("m.onnx", LIMITS, {"alpha": 0.5}), INPUTS, AT)

MOVES: dict[str, Callable[[Run], Run]] = {
    "begin": lambda run: runs.begin(run, "unix:///e", AT),
    "train": lambda run: runs.train(run, "image", "sha256:1", "env", AT),
    "register": runs.register,
    "finish": lambda run: runs.finish(run, 3, AT),
    "fail": lambda run: runs.fail(run, Reason.NO_MODEL, "why", AT),
    "kill": lambda run: runs.kill(run, AT),
}
ALLOWED = {
    State.SCHEDULED: {"begin": State.RUNNING, "fail": State.FAILED, "kill": State.KILLED},
    State.RUNNING: {
        "train": State.RUNNING,
        "register": State.RUNNING,
        "finish": State.FINISHED,
        "fail": State.FAILED,
        "kill": State.KILLED,
    },
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", MOVES)
def test_a_move_is_made_in_its_states_alone(state: State, move: str) -> None:
    run = replace(RUN, state=state)
    wanted = ALLOWED.get(state, {}).get(move)
    if wanted is None:
        with pytest.raises(RunEndedError):
            MOVES[move](run)
    else:
        assert MOVES[move](run).state is wanted


def test_a_run_goes_through_its_phases() -> None:
    run = MOVES["begin"](RUN)
    assert (run.phase, run.attempts, run.engine) == (Phase.PREPARING, 1, "unix:///e")
    run = MOVES["train"](run)
    assert (run.phase, run.environment, run.training_started) == (Phase.TRAINING, "env", AT)
    run = MOVES["finish"](MOVES["register"](run))
    assert (run.phase, run.model_version, run.ended, run.retryable) == (None, 3, AT, False)


def test_one_that_was_interrupted_waits_again_as_often_as_asked_for() -> None:
    asked = replace(RUN, wish=replace(RUN.wish, retries=1))
    again = runs.fail(MOVES["begin"](asked), Reason.INTERRUPTED, "engine stopped", AT)
    assert (again.state, again.engine, again.reason) == (State.SCHEDULED, None, Reason.INTERRUPTED)
    second = MOVES["begin"](again)
    assert (second.attempts, second.reason) == (2, None)
    assert runs.fail(second, Reason.INTERRUPTED, "again", AT).state is State.FAILED
    assert runs.fail(MOVES["begin"](RUN), Reason.INTERRUPTED, "not asked for", AT).state is State.FAILED
    assert runs.fail(MOVES["begin"](asked), Reason.SCRIPT_FAILED, "its own fault", AT).state is State.FAILED


def test_what_may_go_well_another_time_is_said_to() -> None:
    running = MOVES["begin"](RUN)
    assert runs.fail(running, Reason.IMAGE_UNAVAILABLE, "", AT).retryable
    assert not runs.fail(running, Reason.OOM_KILLED, "", AT).retryable
    assert not running.retryable


def test_cancelling() -> None:
    killed = runs.cancel(RUN, AT)
    assert (killed.state, killed.reason) == (State.KILLED, Reason.CANCELLED)
    assert runs.cancel(killed, "later") is killed, "twice is once"
    training = MOVES["train"](MOVES["begin"](RUN))
    asked = runs.cancel(training, AT)
    assert (asked.state, asked.cancelled) == (State.RUNNING, True)
    for late in (runs.register(training), MOVES["finish"](runs.register(training)), MOVES["fail"](training)):
        with pytest.raises(RunEndedError):
            runs.cancel(late, AT)


def test_a_run_is_read_as_it_was_written() -> None:
    run = MOVES["register"](MOVES["train"](MOVES["begin"](RUN)))
    text = orjson.dumps(asdict(run))
    assert Run.from_json(orjson.loads(text)) == run
    assert Run.from_json({**orjson.loads(text), "of_a_later_release": 1}) == run
    with pytest.raises((KeyError, TypeError, ValueError)):
        Run.from_json({**orjson.loads(text), "state": "LOST"})


def test_a_client_is_told_what_there_is_to_know_and_no_more() -> None:
    shown = runs.begin(replace(RUN, wish=replace(RUN.wish, idempotency_key="secret")), "unix:///e", AT).shown()
    assert "idempotency_key" not in orjson.dumps(shown).decode()
    assert shown["state"] == "RUNNING"
    assert shown["inputs"] == {
        "script": {"sha256": "a" * 64, "size_bytes": 1},
        "requirements": {"sha256": "b" * 64, "size_bytes": 0},
        "dataset": ({"sha256": "c" * 64, "size_bytes": 2, "name": "d.csv"},),
    }


def test_ids_sort_by_time() -> None:
    began = datetime(2026, 11, 29, 23, 59, 59, 999_990, UTC)
    made = [runs.make_id(began + timedelta(microseconds=step), 0xFFF - step) for step in range(20)]
    assert made == sorted(made)
    assert all(map(runs.is_run_id, made))
    assert not runs.is_run_id("../../etc")


@pytest.mark.parametrize(
    ("seen", "most", "tail", "reason"),
    [
        (Seen("ended", 137, lost=True), Usage(), "", Reason.INTERRUPTED),
        (Seen("ended", 137, out_of_memory=True), Usage(), "", Reason.OOM_KILLED),
        (Seen("ended", 137), Usage(LIMITS.memory_bytes), "", Reason.OOM_KILLED),
        (Seen("ended", 1), Usage(), "OSError: [Errno 28] No space left on device", Reason.DISK_LIMIT),
        (Seen("ended", 1), Usage(pids=64), "", Reason.PIDS_LIMIT),
        (Seen("ended", 1), Usage(), "RuntimeError: can't start new thread", Reason.PIDS_LIMIT),
        (Seen("ended", 1), Usage(pids=63), "ValueError", Reason.SCRIPT_FAILED),
        (Seen("ended", 139), Usage(), "", Reason.SCRIPT_FAILED),
    ],
)
def test_why_a_script_failed(seen: Seen, most: Usage, tail: str, reason: Reason) -> None:
    assert verdict(seen, LIMITS, most, 64, tail)[0] is reason
