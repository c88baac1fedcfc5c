"""The composition root of the trainer."""

import asyncio
import logging
import signal
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry

from mlbuffet.certificates import INFERRER, TRAINER, has_role, roles_of, tls_context
from mlbuffet.channel import is_own_user
from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.expiry import Expiry
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.process import ignore_signals, settle_memory
from mlbuffet.chassis.request import Limits
from mlbuffet.chassis.scrape import ScrapeServer
from mlbuffet.chassis.telemetry import exposition
from mlbuffet.chassis.vitals import VitalsCollector
from mlbuffet.chassis.web import NoLane, answer, health_routes, make_app
from mlbuffet.endpoints import Address, listen
from trainer import unisolated
from trainer.attempt import Surroundings
from trainer.dockerd import DockerEngine
from trainer.environments import Environments
from trainer.installer import Bounds, Installer
from trainer.launcher import Launcher
from trainer.link import Link
from trainer.registry import Registry
from trainer.routes import run_routes
from trainer.settings import Place, TrainerSettings
from trainer.spec import Sandbox
from trainer.stations import Station
from trainer.store import RunStore
from trainer.telemetry import TrainerMetrics
from trainer.training import Training
from trainer.unisolated import ADDRESS, UnisolatedEngine
from trainer.venvs import Index, Venvs

log = logging.getLogger(__name__)

_FORM_BYTES = 1 << 20  # what a form may have beside its files
_THREADS = 48
_OWN_THREADS = 4
_OWN_BODY_BYTES = 1 << 16


class InferrerConnection(HttpConnection):
    """A connection that only an inferrer may have."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at who connects: on a unix socket at the user, else at the role in the certificate."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if not has_role(transport, INFERRER):
            log.warning("client refused", extra={"names": roles_of(transport)})
            self.abort()
        elif sock is not None and sock.family.name == "AF_UNIX" and not is_own_user(sock):
            log.warning("client refused", extra={"why": "another user"})
            self.abort()


async def serve(settings: TrainerSettings) -> int:
    """Run until told to stop; returns the exit status. Scripts go on without the trainer."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = RunStore(Path(settings.folder))
    registry = Registry(settings.inferrer, settings.key, settings.inferrer_ca)
    around = Surroundings(settings, store, registry, threading.Event())
    launcher = Launcher(around, make_stations(settings, store.trainer_id))
    training = Training(settings, store, launcher)
    api = _make_api(settings, training)
    tls = tls_context(settings.tls_folder, server=True)
    listener = await listen(lambda: InferrerConnection(api), Address.parse(settings.channel), tls)
    servers, listeners = await _serve_own(settings, training, launcher.stations, tls)
    launcher.start()
    port = listeners[0].sockets[0].getsockname()[1]
    log.info("trainer started", extra={"channel": settings.channel, "port": port, "engines": len(launcher.stations)})
    settle_memory()
    await stop.wait()
    for each in (listener, *listeners):
        each.close()
    await asyncio.to_thread(launcher.leave, settings.drain_s)
    for server in (api, *servers):
        await server.drain(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    ignore_signals()
    return 0


def make_stations(settings: TrainerSettings, trainer_id: str) -> list[Station]:
    """The engines that the settings name."""
    sandbox = Sandbox(
        trainer_id=trainer_id,
        image=settings.image,
        pids=settings.pids,
        work_bytes=settings.work_bytes,
        work_files=settings.work_files,
        tmp_bytes=settings.tmp_bytes,
        log_bytes=settings.log_bytes,
        index_url=settings.index_url,
        sdists=settings.sdists,
        has_ca=settings.index_ca is not None,
    )
    bounds = Bounds(settings.prepare_s, settings.environment_bytes, settings.index_ca)
    stations = []
    for place in map(Place.parse, settings.engines):
        link = Link(place.address, settings.docker_certs)
        environments = Environments(Path(settings.folder) / "environments", place.address, settings.environments)
        installer = Installer(link, sandbox, environments, bounds)
        stations.append(
            Station(DockerEngine(place.address, link, sandbox, installer, settings.model_bytes), place.slots)
        )
    if settings.unisolated:
        stations.append(Station(_make_unisolated(settings, bounds), settings.unisolated))
    return stations


def _make_unisolated(settings: TrainerSettings, bounds: Bounds) -> UnisolatedEngine:
    """This machine, for scripts that nobody isolates."""
    folder = Path(settings.folder) / ADDRESS
    index = Index(settings.index_url, settings.index_ca, settings.sdists)
    venvs = Venvs(folder / "environments", index, bounds, settings.environments)
    log.warning("scripts run without isolation", extra={"slots": settings.unisolated})
    limits = unisolated.Bounds(settings.work_bytes, settings.pids, settings.model_bytes)
    return UnisolatedEngine(folder / "runs", venvs, limits)


def _make_api(settings: TrainerSettings, training: Training) -> HttpServer:
    app = make_app("trainer", run_routes(training), _life())
    body_bytes = settings.dataset_bytes + settings.script_bytes + _FORM_BYTES
    return HttpServer(
        app, NoLane(), Limits(body_bytes=body_bytes, threads=_THREADS), gate=HostPolicy([TRAINER]), lane_on=False
    )


def _life() -> Blueprint:
    """That somebody is there, for inferrers, which ask that before anything else."""
    routes = Blueprint("life", __name__)

    @routes.get("/health/live")
    def live() -> Response:
        """Answer."""
        return answer({"live": True})

    return routes


async def _serve_own(
    settings: TrainerSettings, training: Training, stations: Sequence[Station], tls: ssl.SSLContext | None
) -> tuple[list[HttpServer], list[asyncio.Server]]:
    """Health and metrics, on loopback, and if it is to be for Prometheus from elsewhere."""
    registry = CollectorRegistry()
    registry.register(TrainerMetrics(training.store, stations))
    registry.register(Expiry(settings.tls_folder, engines=settings.docker_certs))
    registry.register(VitalsCollector())
    health = lambda: training.ready, lambda: exposition(registry)
    app = make_app("trainer", health_routes(*health))
    limits = Limits(body_bytes=_OWN_BODY_BYTES, threads=_OWN_THREADS)
    servers = [HttpServer(app, NoLane(), limits, lane_on=False)]
    loop = asyncio.get_running_loop()
    listeners = [await loop.create_server(servers[0].connection, settings.host, settings.port)]
    if settings.metrics_port and tls is not None:
        scrapes = ScrapeServer("trainer", *health)
        servers.append(scrapes)
        listeners.append(await scrapes.listen(settings.metrics_port, tls))
    return servers, listeners
