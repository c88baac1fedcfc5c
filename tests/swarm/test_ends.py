"""Services that are asked to end, or made to, on the real Swarm."""

import contextlib
import os
import signal
import socket
import time

import pytest

from tests.harness.platform import wait_until
from tests.harness.stack import Stack
from tests.harness.swarm import ADDRESSES, Node

RATE = 1000.0
GRACE_S = {"inferrer": 40, "modelhost": 20, "mirror": 20, "metrics": 30}  # as deploy/stack.yaml has them


def tell(node: Node, container: str) -> bool:
    """Ask a container's first process to end; tells whether it is there no more."""
    state = node.inspect(container)[0]["State"]
    if not state["Running"]:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(state["Pid"], signal.SIGTERM)
    return False


def replaced(node: Node, service: str, gone: list[str], count: int) -> bool:
    """Tell whether there are healthy tasks in the places of those that went."""
    now = node.containers(service)
    states = node.docker("inspect", "--format={{.State.Health.Status}}", *now).split() if now else []
    return len(now) == count and not set(now) & set(gone) and set(states) == {"healthy"}


@pytest.mark.parametrize("service", GRACE_S)
def test_d08_a_service_told_again_and_again_to_end_does_so_well_and_nobody_notices(stack: Stack, service: str) -> None:
    stack.whole()
    node = stack.lab.second if service == "mirror" else stack.lab.first
    before = node.containers(service)
    with stack.load(RATE) as running:
        began = time.monotonic()
        wait_until(lambda: tell(node, before[0]), GRACE_S[service], f"the end of {service}")
        took_s = time.monotonic() - began
        wait_until(lambda: replaced(node, service, before[:1], len(before)), 60, "another one")
    print(f"{service}: ended after {took_s:.1f} s; {running.result}")  # noqa: T201 - a figure
    assert node.inspect(before[0])[0]["State"]["ExitCode"] == 0
    assert running.result.failures == {}
    stack.whole()


def test_d08_inferrers_killed_at_the_end_of_their_grace_leave_nothing_half_done(stack: Stack) -> None:
    """In the midst of an upload, whichever of them has it."""
    first, names = stack.lab.first, stack.names()
    before = first.containers("inferrer")
    key = stack.headers["Authorization"]
    head = f"PUT /api/v1/models/half HTTP/1.1\r\nHost: edge\r\nAuthorization: {key}\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((ADDRESSES[0], 80), 30) as uploading:
        uploading.sendall(head.encode() + bytes(500_000))
        wait_until(lambda: any(staged(first, container) for container in before), 30, "the upload having begun")
        for container in before:
            first.docker("stop", "--time=1", container)
        assert [known["State"]["ExitCode"] for known in first.inspect(*before)] == [128 + signal.SIGKILL] * 2
        assert not uploading.recv(4096).startswith(b"HTTP/1.1 2")
    wait_until(lambda: replaced(first, "inferrer", before, 2), 60, "others")
    stack.whole()
    assert stack.predict("iris.onnx", [2, 5, 1, 4]).json()["values"] == [1]
    assert stack.names() == names
    container = first.containers("inferrer")[0]
    wait_until(lambda: not staged(first, container), 90, "what was left of it being swept away")
    stack.put_constant("half", 5)
    stack.delete("half")


def staged(node: Node, container: str) -> list[str]:
    """The files of uploads on their way in."""
    return node.docker("exec", container, "find", "/repository/.mlbuffet/staging", "-type", "f").split()
