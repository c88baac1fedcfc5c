"""gRPC's standard health service: the whole server's and the inference service's state, to ask for and to watch."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

_LOOK_S = 0.1
_MOST_WATCHERS = 64


class Health(HealthServicer):  # type: ignore[misc]  # grpc has no types
    """SERVING while predictions can be answered and the server is not being stopped."""

    def __init__(self, names: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """`names` are the services beside "", which stands for the whole server."""
        super().__init__()
        self._names = ("", *names)
        self._server_status = dict.fromkeys(self._names, HealthCheckResponse.NOT_SERVING)
        self._is_ready = is_ready
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the state."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            status = HealthCheckResponse.SERVING if self._is_ready() else HealthCheckResponse.NOT_SERVING
            if status != self._server_status[""]:
                for name in self._names:
                    await self.set(name, status)
            await asyncio.sleep(_LOOK_S)

    async def drain(self) -> None:
        """Be NOT_SERVING from now on."""
        if self._task is not None:
            self._task.cancel()
        await self.enter_graceful_shutdown()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: ANN401, N802 - grpc's name; it has no types
        """Tell of each change; a bounded number of clients may listen, because they may do so for ever."""
        if self._watchers >= _MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already")
        self._watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watchers -= 1
