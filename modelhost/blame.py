"""Who is to blame when a runner ends, and what becomes of the requests that it was running. Pure.

Those that ran together are tried one at a time, and the one whose runner dies while it runs alone is the guilty one. A
process that was killed from outside says little of its request: that is tried once more.
"""

import signal
from enum import Enum

from modelhost.waiting import Waiting


class Verdict(Enum):
    """What becomes of a request."""

    AGAIN = 1
    LATE = 2
    GUILTY = 3


def reason_of(status: int, *, killed: bool, retiring: bool, idle: bool) -> str:
    """Why a runner ended, in one word; `killed` by us, `retiring` because it had grown, `idle` without a request."""
    if retiring and idle:
        return "memory"
    if killed:
        return "deadline"
    return "killed" if status == -signal.SIGKILL else "crashed"


def judge(waiting: Waiting, reason: str, *, was_alone: bool, now_ns: int) -> Verdict:
    """Decide on a request that was being run; marks one that runs again as to be run alone."""
    if waiting.deadline_ns < now_ns:
        return Verdict.LATE
    if was_alone and (reason != "killed" or waiting.tried):
        return Verdict.GUILTY
    waiting.alone = True
    waiting.tried = waiting.tried or reason == "killed"
    return Verdict.AGAIN
