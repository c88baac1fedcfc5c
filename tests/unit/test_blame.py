"""Who pays when a runner ends."""

import signal
from typing import Any, cast

import pytest

from modelhost.blame import Verdict, judge, reason_of
from modelhost.waiting import Waiting


def request(deadline_ns: int = 1000) -> Waiting:
    return Waiting(cast("Any", object()), 1, 1, 0, 0, deadline_ns, b"")


@pytest.mark.parametrize(
    ("status", "killed", "retiring", "idle", "reason"),
    [
        (0, False, True, True, "memory"),
        (-signal.SIGSEGV, False, True, False, "crashed"),
        (-signal.SIGKILL, True, False, False, "deadline"),
        (-signal.SIGKILL, False, False, False, "killed"),
        (-signal.SIGKILL, False, False, True, "killed"),
        (-signal.SIGFPE, False, False, False, "crashed"),
        (1, False, False, True, "crashed"),
    ],
)
def test_why_a_runner_ended(*, status: int, killed: bool, retiring: bool, idle: bool, reason: str) -> None:
    assert reason_of(status, killed=killed, retiring=retiring, idle=idle) == reason


def test_who_runs_alone_when_it_crashes_is_guilty() -> None:
    assert judge(request(), "crashed", was_alone=True, now_ns=0) is Verdict.GUILTY


def test_those_that_ran_together_are_tried_alone() -> None:
    waiting = request()
    assert judge(waiting, "crashed", was_alone=False, now_ns=0) is Verdict.AGAIN
    assert waiting.alone
    assert judge(waiting, "crashed", was_alone=True, now_ns=0) is Verdict.GUILTY


def test_a_stranger_may_kill_a_runner_once() -> None:
    waiting = request()
    assert judge(waiting, "killed", was_alone=True, now_ns=0) is Verdict.AGAIN
    assert judge(waiting, "killed", was_alone=True, now_ns=0) is Verdict.GUILTY


@pytest.mark.parametrize("reason", ["deadline", "crashed", "killed"])
def test_what_is_overdue_is_answered_so(reason: str) -> None:
    assert judge(request(10), reason, was_alone=False, now_ns=11) is Verdict.LATE


def test_who_is_beside_an_overdue_one_runs_again() -> None:
    assert judge(request(), "deadline", was_alone=False, now_ns=0) is Verdict.AGAIN
