"""grpcio's asyncio server, in which a call of no known method cannot end all the others.

That of 1.85 reads the path of such a call outside of any `try`: one that is no UTF-8 ends the server, and with it every
connection (ADR 19). It reads none for a method that it was told of by name. So we tell it of every method, and answer
whatever else comes ourselves, with nothing but its status. The parts used here are grpcio's own, not its public ones:
the lock file holds its version, and `tests/process/test_grpc_faults.py` what they do.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc._cython import cygrpc

from inferrer.rpc.gated import GatedHandlers

_NO_METHODS = cygrpc._MethodResolver([], {})  # noqa: SLF001
_NO_PATH = "of no known method"


class Listener(cygrpc.AioServer):  # type: ignore[misc]  # grpc has no types
    """Made on a running event loop; `start` listens, `shutdown` ends it."""

    def __init__(self, handlers: GatedHandlers, options: Sequence[tuple[str, int]]) -> None:
        """`handlers` are asked for the handler of each call."""
        super().__init__(asyncio.get_running_loop(), None, [handlers], None, tuple(options), None)
        # Known by name alone: one that has no handler of its own is looked up in `handlers`, behind the gate.
        self.add_registered_method_handlers(dict.fromkeys(handlers.paths))

    def listen(self, address: str) -> None:
        """Take a port.

        Raises:
            RuntimeError: it cannot be listened on.
        """
        if not self.add_insecure_port(address.encode()):
            msg = f"gRPC cannot listen on {address}"
            raise RuntimeError(msg)

    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:  # noqa: ANN401 - grpc has no types
        """The next call of a method; for none, what answers all the others and never hands one on."""
        if method_bytes is None:
            return asyncio.get_running_loop().create_task(self._refuse_unknown())
        return super()._make_request_call_future(method_bytes)

    async def _refuse_unknown(self) -> None:
        """Answer UNIMPLEMENTED until the server is shut down, which ends this as it would end grpcio's own."""
        answering: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        while True:
            call = await self._request_call()
            refusing = cygrpc._handle_rpc(_NO_PATH, _NO_METHODS, (), call, loop, False)  # noqa: FBT003, SLF001
            answering.add(task := loop.create_task(cygrpc._schedule_rpc_coro(refusing, call, loop, _NO_PATH)))  # noqa: SLF001
            task.add_done_callback(answering.discard)
