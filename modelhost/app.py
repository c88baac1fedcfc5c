"""The composition root of a modelhost."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from mlbuffet.certificates import tls_context
from mlbuffet.chassis.expiry import Expiry
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.process import ignore_signals, settle_memory
from mlbuffet.chassis.request import Limits
from mlbuffet.chassis.scrape import ScrapeServer
from mlbuffet.chassis.telemetry import exposition
from mlbuffet.chassis.vitals import VitalsCollector
from mlbuffet.chassis.web import NoLane, health_routes, make_app
from mlbuffet.endpoints import Address, listen, remove_dead_sockets
from mlbuffet.generation import create_generation
from mlbuffet.index import PRIVATE, generation_file
from modelhost.ends import Ends
from modelhost.inventory import Inventory
from modelhost.launch import ForkServer
from modelhost.mirror import Mirror
from modelhost.routes import modelhost_routes
from modelhost.segments import Segments
from modelhost.server import ChannelServer
from modelhost.settings import ModelhostSettings
from modelhost.stores import SharedStore, Store
from modelhost.supervisor import Supervisor
from modelhost.telemetry import HostMetrics, VersionMetrics

if TYPE_CHECKING:
    from mlbuffet.chassis.tracing import Tracer

log = logging.getLogger(__name__)

_HTTP_BODY_BYTES = 1 << 16
_HTTP_THREADS = 4
_NOTED_S = 3.0
_LOOK_S = 0.02


async def serve(settings: ModelhostSettings, forkserver: ForkServer) -> int:
    """Run until told to stop; returns the exit status.

    Nobody is let in before it is proven that models can be run here: a task of an image that cannot must not be taken
    for a healthy one, for which the one before it would have to leave.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(forkserver)
    proof = loop.create_task(supervisor.prove())
    healthy = await _told_to_end(stop, [proof], supervisor.lost)
    if proof.done() and proof.exception() is None and not healthy:
        healthy = await _serve(settings, supervisor, stop)
    proof.cancel()
    supervisor.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    ignore_signals()
    return 0 if healthy else 1


async def _serve(settings: ModelhostSettings, supervisor: Supervisor, stop: asyncio.Event) -> bool:
    """Let inferrers in until the end; tells whether somebody wanted it."""
    loop = asyncio.get_running_loop()
    host_id = settings.id or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    store = _make_store(settings)
    addresses = _own_addresses(settings.channel, host_id)
    local = next((address.path for address in addresses if address.path), "")
    segments = Segments(local)
    channel = ChannelServer(host_id, store, supervisor, segments, settings.model_bytes)
    ends = Ends(_tracer(settings), settings.slow_s)
    inventory = Inventory(store, supervisor, settings, ends, channel.changed)
    channel.serve(inventory)
    tls = tls_context(settings.tls_folder, server=True)
    listeners = [await listen(channel.link, address, tls) for address in addresses]
    servers, listening = await _serve_http(settings, host_id, _registry(settings, channel), inventory, tls)
    listeners += listening
    port = listening[0].sockets[0].getsockname()[1]
    log.info("modelhost started", extra={"modelhost": host_id, "channel": ",".join(map(str, addresses)), "port": port})
    following = loop.create_task(inventory.follow())
    of_mirror = (store.listen(), store.watch()) if isinstance(store, Mirror) else ()
    tasks = [following, *map(loop.create_task, (inventory.sweep(), channel.watch(), *of_mirror))]
    settle_memory()
    healthy = await _told_to_end(stop, tasks, supervisor.lost)
    following.cancel()  # or it would report ready once more
    inventory.ready = False
    if healthy:
        await _leave(channel, settings.drain_s)
    for listener in listeners:
        listener.close()
    if local:
        Path(local).unlink(missing_ok=True)
    for server in servers:
        await server.drain(0)
    for task in tasks:
        task.cancel()
    for link in list(channel.links):
        link.close()
    segments.close()
    ends.close()
    return healthy


def _own_addresses(channel: tuple[str, ...], host_id: str) -> list[Address]:
    """Where to listen; in a folder that modelhosts share, what ended ones have left is removed."""
    own = []
    for address in map(Address.parse, channel):
        own.append(address.owned_by(host_id))
        if own[-1] != address:
            remove_dead_sockets(Path(address.path))
    return own


def _make_store(settings: ModelhostSettings) -> Store:
    root = Path(settings.repository)
    if settings.mirror:
        return Mirror(root / PRIVATE / "cache")
    (root / PRIVATE).mkdir(parents=True, exist_ok=True)
    create_generation(generation_file(root))
    return SharedStore(root)


async def _leave(channel: ChannelServer, drain_s: float) -> None:
    """Tell the inferrers, and go on until they have taken note; then let what they had sent before end."""
    channel.changed()
    await _until(lambda: channel.noted, _NOTED_S)
    await _until(lambda: not channel.unfinished, drain_s)


async def _until(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something, but not for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not is_so():
                await asyncio.sleep(_LOOK_S)


async def _told_to_end(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]], lost: asyncio.Future[None]) -> bool:
    """Wait for the end; tells whether somebody wanted it.

    A task that ends by itself has failed: better a new process than one that no longer follows.
    """
    waited: list[asyncio.Future[Any]] = [*tasks, asyncio.ensure_future(stop.wait()), lost]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            log.error("task failed", exc_info=task.exception())
    return stop.is_set()


def _tracer(settings: ModelhostSettings) -> "Tracer | None":
    """What sends spans, where there is somebody to send to; only then is it imported."""
    if not settings.traces_endpoint:
        return None
    from mlbuffet.chassis.tracing import Tracer  # noqa: PLC0415

    return Tracer(settings.traces_endpoint, "modelhost")


def _registry(settings: ModelhostSettings, channel: ChannelServer) -> CollectorRegistry:
    """Everything that Prometheus is shown."""
    registry = CollectorRegistry()
    registry.register(HostMetrics(channel))
    registry.register(VitalsCollector())
    registry.register(VersionMetrics(channel.inventory))
    registry.register(Expiry(settings.tls_folder))
    return registry


async def _serve_http(
    settings: ModelhostSettings,
    host_id: str,
    registry: CollectorRegistry,
    inventory: Inventory,
    tls: ssl.SSLContext | None,
) -> tuple[list[HttpServer], list[asyncio.Server]]:
    """What an operator and the health check ask on loopback, and if it is to be what Prometheus asks from elsewhere."""
    loop = asyncio.get_running_loop()
    health = lambda: inventory.ready, lambda: exposition(registry)
    app = make_app("modelhost", modelhost_routes(host_id, inventory), health_routes(*health))
    limits = Limits(body_bytes=_HTTP_BODY_BYTES, threads=_HTTP_THREADS)
    servers = [HttpServer(app, NoLane(), limits, lane_on=False)]
    listeners = [await loop.create_server(servers[0].connection, settings.host, settings.port)]
    if settings.metrics_port and tls is not None:
        scrapes = ScrapeServer("modelhost", *health)
        servers.append(scrapes)
        listeners.append(await scrapes.listen(settings.metrics_port, tls))
    return servers, listeners
