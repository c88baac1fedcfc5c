"""Every method of the gRPC server behind the gate, whoever registered it: refused before its message is read."""

from collections.abc import Collection, Sequence
from typing import Any

import grpc

from inferrer.access import RPC
from inferrer.gate import Gate, RpcHead
from inferrer.rpc.statuses import abort, request_id_in
from mlbuffet.chassis.telemetry import RequestCounts
from mlbuffet.chassis.web import log_failure


class GatedHandlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Takes what services register with a server, and is all that the server gets."""

    def __init__(self, gate: Gate, counts: RequestCounts) -> None:
        self._gate = gate
        self._counts = counts
        self._handlers: list[Any] = []
        self.paths: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Take a service, as a server does."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, methods: Collection[str]) -> None:
        """Note their paths only: these are the same methods again, by a way that does not ask us."""
        self.paths += (f"/{service}/{name}" for name in methods)

    def service(self, handler_call_details: Any) -> Any:  # noqa: ANN401 - grpc has no types
        """The handler of a call: its own, or one that refuses it; none where there is no such method."""
        found = (handlers.service(handler_call_details) for handlers in self._handlers)
        handler = next(filter(None, found), None)
        if handler is None:
            return None
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        fault = self._gate.rpc_fault(RpcHead(method, metadata, "", ""))
        if fault is None:
            return handler

        async def refuse(_: object, context: Any) -> None:  # noqa: ANN401 - grpc has no types
            head = RpcHead(method, metadata, context.peer(), request_id_in(metadata))
            error = self._gate.rpc_told(fault, head)
            self._counts.failures[error.code] += 1
            self._counts.count(method, RPC, error.status, "", 0)
            log_failure(error, head.request_id, method)
            await abort(context, error, head.request_id)

        return grpc.stream_stream_rpc_method_handler(refuse)
