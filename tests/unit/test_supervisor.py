"""The supervisor's end of the line to its fork server, without one."""

import asyncio
import socket

import uvloop

from modelhost.launch import ForkServer
from modelhost.supervisor import Supervisor
from modelhost.tasks import CheckTask


def test_a_fork_server_that_dies_with_orders_unread_is_noticed() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = Supervisor(ForkServer(ours, lambda: None))
        with theirs:
            supervisor.fork("check", CheckTask("model.onnx", "sha256:0", 0), [ours.fileno()])
        async with asyncio.timeout(10):
            await supervisor.lost
        supervisor.close()

    uvloop.run(scenario())
