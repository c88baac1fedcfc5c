"""A warm process that forks runners and checks in milliseconds: onnxruntime is imported once and its pages are shared.

It never loads somebody's model, nor makes an event loop or a thread: a child gets a clean copy. It is the parent of all
its children, so it alone can kill and reap them without mistaking one process for another. It dies with the modelhost,
they with it.

Orders come as JSON over a SOCK_SEQPACKET socket with the child's file descriptors; what
happened goes back the same way.
"""

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

from PIL import Image

from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.process import die_with_parent, set_name
from modelhost import checks, runner
from modelhost.runtimes.onnx import warm_runtime
from modelhost.sandbox.confine import LAYERS, seal
from modelhost.tasks import CheckTask, RunnerTask

log = logging.getLogger(__name__)

_ORDER_BYTES = 1 << 16
_MAX_FDS = 4


def main() -> None:
    """Serve orders on the socket whose number is the first argument, for the process whose id is the second."""
    warm_up()
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))


def warm_up() -> None:
    """Make what each child would make for itself, or could not: once sealed it can import nothing."""
    Image.init()
    warm_runtime()


def serve(control: socket.socket, parent: int) -> None:
    """Serve orders until the socket is closed or the parent ends."""
    die_with_parent(parent)
    set_name("forkserver")
    configure_logs("modelhost")
    _try_the_seal()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the modelhost decides when this ends
    gc.collect()
    gc.freeze()  # what is here now stays shared with every child
    children: dict[int, int] = {}
    poller = select.poll()
    for fd in (control.fileno(), wake_read):
        poller.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(control, children)
        if control.fileno() in ready and not _obey(control, (wake_read, wake_write), children):
            return


def _try_the_seal() -> None:
    """Say once what this kernel does not have, by sealing a child that ends at once.

    Models are served all the same: a platform that does not start protects nobody, and the other layers hold.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(sum(1 << list(LAYERS).index(name) for name in seal()))
    _, status = os.waitpid(pid, 0)
    missing = [name for bit, name in enumerate(LAYERS) if os.waitstatus_to_exitcode(status) >> bit & 1]
    if missing:
        log.warning("models are not fully confined", extra={"missing": missing})


def _obey(control: socket.socket, own_fds: tuple[int, int], children: dict[int, int]) -> bool:
    """Carry out one order; false when the modelhost has hung up."""
    try:
        data, fds, _, _ = socket.recv_fds(control, _ORDER_BYTES, _MAX_FDS)
    except ConnectionResetError:  # it was killed with our reports unread
        return False
    if not data:
        return False
    order = json.loads(data)
    if "kill" in order:
        pid = next((pid for pid, token in children.items() if token == order["kill"]), None)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return True
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(order, fds, (control.fileno(), *own_fds), parent)
    for fd in fds:
        os.close(fd)
    children[pid] = order["token"]
    _tell(control, started=order["token"], pid=pid)
    return True


def _become(order: dict[str, Any], fds: list[int], inherited: tuple[int, ...], parent: int) -> None:
    """Be the child: never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        for fd in inherited:
            os.close(fd)
        if order["role"] == "check":
            checks.run(CheckTask(**order["task"]), socket.socket(fileno=fds[0]))
        else:
            frames, stops, segments = (socket.socket(fileno=fd) for fd in fds[:3])
            runner.run(RunnerTask(**order["task"]), frames, stops, segments, fds[3])
        status = 0
    except ConnectionError:
        status = 0  # the modelhost is gone: nobody is left to be told
    except BaseException:  # noqa: BLE001 - the child ends here whatever it was
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap(control: socket.socket, children: dict[int, int]) -> None:
    """Report every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        token = children.pop(pid, None)
        if token is not None:
            _tell(control, ended=token, status=os.waitstatus_to_exitcode(status))


def _tell(control: socket.socket, **what: int) -> None:
    try:
        control.send(json.dumps(what).encode())
    except ConnectionError:
        sys.exit()  # the modelhost is gone, and with this process go its children


if __name__ == "__main__":
    main()
