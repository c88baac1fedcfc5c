"""A service as a fork of this process: what is imported here is shared with it instead of read and made again.

To be called by a process of one thread. The child keeps nothing of its parent but memory: no descriptor, no signal
handler, no session. It ends as a program of its own would, and when its parent does.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlbuffet.chassis.process import die_with_parent, set_name, signals_held

_HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Service:
    """What a fork is to be."""

    name: str
    main: Callable[[], object]
    environment: Mapping[str, str]
    output: int = 1  # descriptor of the parent that its output goes to
    keep: tuple[int, ...] = ()  # descriptors that it needs besides


def fork_service(service: Service) -> int:
    """Run a service in a child of this process; returns its id."""
    # A child never collects what was ours: that would write to shared pages, and close descriptors that are its own.
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    # A signal that comes before the child has let go of our handlers waits, instead of being handled by them.
    with signals_held(_HANDLED):
        pid = os.fork()
        if pid == 0:
            _become(service, parent)
    return pid


def _become(service: Service, parent: int) -> None:
    """Be the child: never returns."""
    status = 1
    try:
        _let_go(service.output, service.keep)
        die_with_parent(parent, signal.SIGTERM)
        set_name(service.name)
        environment = dict(service.environment)  # it may be our own
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [service.name]
        service.main()
        status = 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:  # noqa: BLE001 - the child ends here whatever it was
        traceback.print_exc()
    finally:
        os._exit(status)


def _let_go(output: int, keep: tuple[int, ...]) -> None:
    """Keep only these descriptors, and no handler of a signal."""
    os.setsid()  # Ctrl-C is the parent's: it stops its children in order
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (1, 2)):
        os.dup2(source, target)
    for fd in {int(fd.name) for fd in Path("/proc/self/fd").iterdir()} - {0, 1, 2, *keep}:
        with contextlib.suppress(OSError):  # the one that read the list is closed
            os.close(fd)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
    sys.stdout = sys.stderr = open(  # noqa: SIM115 - a descriptor, written a line at a time
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _status_of(end: SystemExit) -> int:
    """What a program that raises this ends with, having said why."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1
