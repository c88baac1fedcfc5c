"""Starts a service in a container, and refuses to where the container would let it do more than it needs.

A stack file cannot ask for `no_new_privs`: Swarm leaves out `security_opt`. So this process asks the kernel itself,
looks at what it may do, and becomes the service. That is then the container's first process: it gets the signals, and
reaps what is left to it. This file stands alone, so that images have it that have nothing else of ours.

A first process for which nobody has said what SIGTERM does does not get it at all, and a Python program needs seconds
on a busy machine until it has: a task that is stopped meanwhile would live until it is killed, and take requests. So a
module is run in this process (`-m inferrer`), which ends at once until the module has said otherwise; another program
is executed in its place.
"""

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38


def fault(status: Mapping[str, str]) -> str:
    """What is wrong with a process of this `/proc/PID/status`; empty when nothing is. Pure."""
    if "0" in status["Uid"].split():  # real, effective, saved, and for files
        return "it would run as root; the image's user is mlbuffet"
    if int(status["CapEff"], 16) | int(status["CapPrm"], 16):
        return "it would have capabilities; drop all of them (cap_drop: [ALL])"
    if status["NoNewPrivs"] != "1":
        return "the kernel does not keep it from getting new privileges"
    return ""


def main() -> None:
    """Become the program, or run the module, that the arguments name."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an exception could be lost in the midst of an import
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    reason = fault({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    if reason:
        sys.exit(f"not started: {reason}")
    if sys.argv[1] == "-m":
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the image's own command


if __name__ == "__main__":
    main()
