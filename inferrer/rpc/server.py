"""The gRPC server of one inferrer process: bounds, health, start and drain.

Several processes listen on one port, among whom the kernel shares the connections. What a client may do is bounded
here as far as gRPC's core has a bound for it, and in `calls` where it has none.
"""

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from inferrer.gate import Gate
from inferrer.outcomes import Outcomes
from inferrer.rpc.calls import Calls
from inferrer.rpc.gated import GatedHandlers
from inferrer.rpc.health import Health
from inferrer.rpc.listener import Listener
from inferrer.rpc.methods import methods
from inferrer.services import Services
from inferrer.settings import InferrerSettings
from mlbuffet.chassis.request import PREDICT_BYTES
from mlbuffet.oip import inference_pb2

SERVICE: str = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_STANDARD: tuple[str, ...] = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
_METADATA_BYTES = 1 << 14
_MOST_CALLS = 1024
_FLUSH_S = 0.25
_LOOK_S = 0.02
_SECOND_MS = 1000


def options_of(settings: InferrerSettings) -> list[tuple[str, int]]:
    """What gRPC's core is told: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", PREDICT_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.max_allowed_incoming_connections", 256),
        ("grpc.server_handshake_timeout_ms", int(settings.head_s * _SECOND_MS)),
        ("grpc.max_connection_idle_ms", int(settings.keep_alive_s * _SECOND_MS)),
        # A client that is gone without a word is found out, and its calls are given up.
        ("grpc.keepalive_time_ms", 60 * _SECOND_MS),
        ("grpc.keepalive_timeout_ms", 20 * _SECOND_MS),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.http2.min_ping_interval_without_data_ms", 10 * _SECOND_MS),
    ]


class RpcServer:
    """Made and started on the process's event loop; `drain` ends it."""

    def __init__(self, services: Services, outcomes: Outcomes, gate: Gate) -> None:
        settings = services.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._address = f"{host}:{settings.grpc_port}"
        self._calls = Calls(outcomes, gate, most=_MOST_CALLS, message_s=settings.timeout_s)
        self._health = Health((SERVICE,), lambda: services.ready)
        handlers = GatedHandlers(gate, outcomes.counts)
        own = {name: self._calls.handler(f"/{SERVICE}/{name}", method) for name, method in methods(services).items()}
        handlers.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, own),))
        handlers.add_registered_method_handlers(SERVICE, own)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, handlers)
        about = reflection.aio.ReflectionServicer((SERVICE, *_STANDARD))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(about, handlers)
        self._drain_s = settings.drain_s
        self._listener = Listener(handlers, options_of(settings))

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: the port cannot be listened on.
        """
        self._listener.listen(self._address)
        await self._listener.start()
        self._health.start()

    def failed(self) -> bool:
        """Tell whether it has ended of itself, which the process then is to do as well."""
        return not self._listener.is_running()

    async def drain(self) -> None:
        """Take no new connections, let calls that are in flight end, then close everything."""
        await self._health.drain()
        stopping = asyncio.get_running_loop().create_task(self._listener.shutdown(self._drain_s))
        while self._calls.active and not stopping.done():
            await asyncio.sleep(_LOOK_S)
        # Whoever is left watches health or keeps a reflection open, and waits for nothing.
        await self._listener.shutdown(_FLUSH_S)
        await stopping
