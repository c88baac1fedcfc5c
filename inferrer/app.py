"""The composition root of one inferrer process: settings in, WSGI application and lane out."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry

from inferrer.adoption import adopt_all
from inferrer.clients import Proxies
from inferrer.controlplane import ControlPlane
from inferrer.dataplane import DataPlane
from inferrer.gate import Caller, Gate, Place
from inferrer.keyring import FOLLOW_S, KeyRing
from inferrer.lane import PredictionLane
from inferrer.outcomes import Outcomes
from inferrer.repository import Repository
from inferrer.routes.bodies import compressed
from inferrer.routes.docs import documentation_routes
from inferrer.routes.greeting import greeting_routes
from inferrer.routes.keys import key_routes
from inferrer.routes.kserve import kserve_routes
from inferrer.routes.models import model_routes
from inferrer.routes.oip import oip_routes
from inferrer.routes.oip_repository import oip_repository_routes
from inferrer.routes.predictions import prediction_routes
from inferrer.routes.training import training_routes
from inferrer.services import Services
from inferrer.settings import InferrerSettings, open_keys
from inferrer.telemetry import InferrerMetrics
from inferrer.trainer import Trainer
from inferrer.volume import VolumeMetrics
from mlbuffet.certificates import tls_context
from mlbuffet.chassis.context import FIELD, Contexts, current_context
from mlbuffet.chassis.expiry import Expiry
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.tally import Tally
from mlbuffet.chassis.telemetry import RequestCounts, exposition
from mlbuffet.chassis.web import health_routes, make_app, request_id, route, seconds_since_begun
from mlbuffet.errors import MLBuffetError, ModelBusyError, StorageUnavailableError
from mlbuffet.index import Index

if TYPE_CHECKING:
    from mlbuffet.chassis.tracing import Tracer

log = logging.getLogger(__name__)

_FIRST_ERROR = 400
_PATIENCE_S = 5.0
_UPLOAD = ("PUT", "/api/v1/models/<name>")
_ADOPTION_S = 60.0
_LOOKUP_S = 1.0  # between two looks for the proxies


class Inferrer:
    """One inferrer process: made on its event loop, `close` ends it."""

    def __init__(self, settings: InferrerSettings) -> None:
        registry = CollectorRegistry()
        self.settings = settings
        repository = Repository(Path(settings.repository))
        index = Index(repository.root)
        index.refresh()  # here, where it may take long, and not with the first request
        dataplane = DataPlane(
            index,
            settings.modelhosts,
            tls_context(settings.tls_folder, server=False),
            cache_bytes=settings.cache_bytes,
        )
        controlplane = ControlPlane(repository, index, dataplane)
        keys = KeyRing(open_keys(settings), settings.trainer_key)
        trainer = Trainer(settings.trainer, settings.tls_folder, dataplane.loop, max(settings.threads // 4, 1))
        self.services = Services(settings, repository, index, dataplane, controlplane, keys, trainer)
        registry.register(VolumeMetrics(repository.root))
        registry.register(Expiry(settings.tls_folder))
        tally = Tally(settings.metrics_folder)
        counts = RequestCounts(registry, tally, lambda model: model in index.models())
        self.metrics = InferrerMetrics(registry, tally, dataplane, index)
        self.outcomes = Outcomes(
            counts,
            Contexts(_tracer(settings)),
            self.metrics.steps,
            slow_s=settings.slow_s,
            access_log=settings.access_log,
        )
        self.lane = PredictionLane(dataplane, self.outcomes, settings)
        self.app = self._make_flask(registry)
        hosts = HostPolicy(settings.hosts, settings.origins)
        self._proxies = Proxies(settings.trusted_proxies)
        self.gate = Gate(keys, self.app.url_map, hosts, self._proxies)
        self._closed = threading.Event()
        threading.Thread(target=self._look_after_repository, name="repository", daemon=True).start()
        threading.Thread(target=self._follow_keys, name="keys", daemon=True).start()
        if self._proxies.names:
            threading.Thread(target=self._follow_proxies, name="proxies", daemon=True).start()

    def _make_flask(self, registry: CollectorRegistry) -> Flask:
        services = self.services

        def metrics() -> bytes:
            asyncio.run_coroutine_threadsafe(self._bring_up_to_date(), services.dataplane.loop).result(_PATIENCE_S)
            return exposition(registry)

        app = make_app(
            "inferrer",
            greeting_routes(services),
            model_routes(services),
            training_routes(services),
            key_routes(services),
            prediction_routes(services),
            kserve_routes(services),
            oip_routes(services),
            oip_repository_routes(services),
            documentation_routes(services),
            health_routes(lambda: services.ready, metrics),
        )
        app.before_request(self._begin)
        app.after_request(self._count)
        app.after_request(self._record)
        app.after_request(self._compress)
        return app

    def _compress(self, response: Response) -> Response:
        # tritonclient's asynchronous client asks for gzip in every call, and unpacks nothing but predictions.
        if request.path.startswith("/v2/") and not request.path.endswith("/infer"):
            return response
        return compressed(response, request.headers.get("Accept-Encoding", ""), self.settings.gzip_bytes)

    def _begin(self) -> None:
        """Take note of whose request it is, and how long it waited for this thread."""
        given = request.headers.get(FIELD, "").encode("latin-1")
        g.asked = self.outcomes.contexts.begin(request_id(), given)
        current_context.set(g.asked.line)
        g.waited_s = seconds_since_begun()

    def _count(self, response: Response) -> Response:
        """Count what Flask answered, on the loop's thread, where the lane counts too; tell of what took long."""
        seconds, status = seconds_since_begun(), response.status_code
        name = (request.view_args or {}).get("name", "").partition(":")[0]
        model = name if name in self.services.index.models() else ""
        if seconds > self.outcomes.recorded_s and status < _FIRST_ERROR:
            self.outcomes.record(route(), status, seconds, model=model, wait_s=round(g.waited_s, 6))
        self.outcomes.end(g.asked, route(), request.environ["mlbuffet.began_at"], status, model)
        method, code = request.method if request.url_rule else "", g.get("error_code")
        place, waited_s, size_bytes = route(), g.waited_s, g.get("uploaded_bytes")

        def count() -> None:
            self.outcomes.counts.count(place, method, status, model, seconds)
            self.outcomes.steps.observe(waited_s, "wait")
            if code is not None:
                self.outcomes.counts.failures[code] += 1
            if (method, place) == _UPLOAD:
                self.metrics.uploaded(status, seconds, size_bytes or 0)

        self.services.dataplane.loop.call_soon_threadsafe(count)
        return response

    def _record(self, response: Response) -> Response:
        """Leave a record of what changes something."""
        environ, arguments = request.environ, request.view_args or {}
        place = Place(request.method, route(), arguments.get("name", ""), None)
        caller = Caller(environ["REMOTE_ADDR"], request.headers.get("X-Forwarded-For", ""), request_id())
        subject = g.get("subject", {}) | {"seconds": round(seconds_since_begun(), 6)}
        self.gate.done(environ["mlbuffet.grant"], place, caller, response.status_code, subject)
        return response

    def _follow_keys(self) -> None:
        while not self._closed.wait(FOLLOW_S):
            self.services.keys.refresh()

    def _follow_proxies(self) -> None:
        """Look the proxies' names up, again and again: one that is replaced has another address."""
        while not self._closed.is_set():
            for name in self._proxies.names:
                with contextlib.suppress(OSError):  # no answer is no news
                    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                    self._proxies.found(name, [str(item[4][0]) for item in found])
            self._closed.wait(_LOOKUP_S)

    async def _bring_up_to_date(self) -> None:
        """Measure on the loop, when another thread wants to show it."""
        self.measure()

    def measure(self, server: HttpServer | None = None) -> None:
        """Bring up to date what is not counted as it happens."""
        self.metrics.measure(server)

    def _look_after_repository(self) -> None:
        """Adopt what lies in the folder, then remove what dead processes left in it, again and again."""
        self._adopt()
        while not self._closed.wait(self.settings.sweep_s):
            try:
                self.services.repository.sweep(self.settings.sweep_s)
            except OSError as error:
                log.warning("staging not swept", extra={"why": str(error)})

    def _adopt(self) -> None:
        """Take over what lies in the repository folder, as soon as a modelhost can check it; one process does it."""
        ends_at = time.monotonic() + _ADOPTION_S
        services = self.services
        while not services.dataplane.replicas.ready():
            if time.monotonic() > ends_at or self._closed.wait(0.05):
                return
        try:
            adopt_all(services.repository, services.index, services.controlplane, timeout_s=0)
        except ModelBusyError:
            log.debug("another process adopts")
        except StorageUnavailableError:
            log.warning("nothing adopted", extra={"why": "the model repository cannot be written now"})
        except (MLBuffetError, OSError):
            log.exception("adoption failed")

    def close(self) -> None:
        """Drop the channels."""
        self._closed.set()
        self.measure()
        if self.outcomes.contexts.tracer is not None:
            self.outcomes.contexts.tracer.close()
        self.services.dataplane.close()


def _tracer(settings: InferrerSettings) -> "Tracer | None":
    """What sends spans, where there is somebody to send to; only then is it imported."""
    if not settings.traces_endpoint:
        return None
    from mlbuffet.chassis.tracing import Tracer  # noqa: PLC0415

    return Tracer(settings.traces_endpoint, "inferrer", settings.traces_share)
