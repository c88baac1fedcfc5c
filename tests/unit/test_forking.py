"""A service as a fork: what it has of its parent, how it ends, and that it does so with its parent."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from mlbuffet.chassis import ids
from mlbuffet.chassis.forking import Service, fork_service
from tests.harness.fresh import in_fresh_process
from tests.harness.platform import wait_until


def _run(main: Callable[[], object], **more: str) -> tuple[int, str]:
    """Status and output of a service."""
    ours, theirs = os.pipe()
    pid = fork_service(Service("a-service", main, {"ONLY": "this", **more}, theirs))
    os.close(theirs)
    with open(ours, encoding="utf-8") as output:  # noqa: PTH123 - a descriptor
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def _tell() -> None:
    """What a service finds."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    found = {
        "environment": dict(os.environ),
        "argv": sys.argv,
        "name": Path("/proc/self/comm").read_text(encoding="ascii").strip(),
        "leads": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "descriptors": sorted(fd for fd in range(256) if _is_open(fd)),
        "default": handlers == [signal.SIG_DFL, signal.default_int_handler],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "stdin": sys.stdin.read(),
        "request": ids.request_id_of(b""),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stderr.write("ümlaut\n")


def _is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.fstat(fd))
    return False


def _gets_what_is_its_own() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with socket.socket() as ours:
        assert ours.fileno() > 2
        status, text = _run(_tell, MODE="x")
    line, other = text.splitlines()
    found = json.loads(line)
    request = found.pop("request")
    assert request.partition("-")[0] != ids.request_id_of(b"").partition("-")[0], "ids of its own"
    assert (status, other) == (0, "ümlaut")
    assert found == {
        "environment": {"ONLY": "this", "MODE": "x"},
        "argv": ["a-service"],
        "name": "a-service",
        "leads": True,
        "descriptors": [0, 1, 2],
        "default": True,
        "blocked": 0,
        "stdin": "",
    }
    assert "ONLY" not in os.environ


def test_a_service_gets_what_is_its_own_and_nothing_else() -> None:
    in_fresh_process(_gets_what_is_its_own)


def _keeps_a_descriptor() -> None:
    ours, theirs = socket.socketpair()
    pid = fork_service(Service("keeper", lambda: theirs.send(b"here"), os.environ, keep=(theirs.fileno(),)))
    theirs.close()
    assert ours.recv(16) == b"here"
    assert ours.recv(16) == b"", "we hold no copy, and it has ended"
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_service_keeps_the_descriptors_that_it_needs() -> None:
    in_fresh_process(_keeps_a_descriptor)


def _ends_like_a_program() -> None:
    def fail() -> None:
        raise ValueError("why")  # noqa: EM101 - a test's

    assert _run(lambda: None) == (0, "")
    assert _run(lambda: sys.exit(3)) == (3, "")
    assert _run(lambda: sys.exit(None)) == (0, "")
    assert _run(lambda: sys.exit("modelhost: no such setting")) == (1, "modelhost: no such setting\n")
    assert _run(lambda: signal.raise_signal(signal.SIGTERM))[0] == -signal.SIGTERM
    status, text = _run(fail)
    assert (status, text.splitlines()[-1]) == (1, "ValueError: why")


def test_a_service_ends_like_a_program_of_its_own() -> None:
    in_fresh_process(_ends_like_a_program)


def _early_signal() -> None:
    """A signal for the child must not run the parent's handler, however early it comes."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    for _ in range(50):
        pid = fork_service(Service("short-lived", signal.pause, {}))
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_a_signal_that_comes_while_it_is_made_ends_a_service() -> None:
    in_fresh_process(_early_signal)


def _is_orphaned() -> None:
    """Print the id of a service, and leave it behind."""
    ours, theirs = os.pipe()

    def live() -> None:
        os.write(1, b"%d\n" % os.getpid())
        signal.pause()

    fork_service(Service("orphan", live, {}, theirs))
    os.write(1, os.read(ours, 64))
    assert threading.active_count() == 1


def test_a_service_ends_with_its_parent() -> None:
    pid = int(in_fresh_process(_is_orphaned))
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text(encoding="ascii").split()[2] == "Z", 10, "its end")
