"""The composition root of one inferrer process: settings in, WSGI application and lane out."""

import contextlib
import logging
import socket
import threading
import time
from pathlib import Path

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry

from inferrer.adoption import adopt_all
from inferrer.clients import Proxies
from inferrer.controlplane import ControlPlane
from inferrer.dataplane import DataPlane
from inferrer.gate import Caller, Gate, Place
from inferrer.keyring import FOLLOW_S, KeyRing
from inferrer.lane import PredictionLane
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
from inferrer.telemetry import BalancingCounts
from inferrer.trainer import Trainer
from mlbuffet.certificates import tls_context
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.telemetry import RequestCounts, exposition
from mlbuffet.chassis.web import health_routes, log_slow, make_app, request_id, route
from mlbuffet.errors import MLBuffetError, ModelBusyError, StorageUnavailableError
from mlbuffet.index import Index

log = logging.getLogger(__name__)

_FIRST_ERROR = 400
_ADOPTION_S = 60.0
_LOOKUP_S = 1.0  # between two looks for the proxies


def _begin() -> None:
    g.began_at = time.monotonic()


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
        self.counts = RequestCounts(registry)
        self._balancing = BalancingCounts(registry, dataplane)
        self.lane = PredictionLane(dataplane, self.counts, settings)
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
            self.flush()
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
        app.before_request(_begin)
        app.after_request(self._count)
        app.after_request(self._record)
        app.after_request(self._compress)
        return app

    def _compress(self, response: Response) -> Response:
        # tritonclient's asynchronous client asks for gzip in every call, and unpacks nothing but predictions.
        if request.path.startswith("/v2/") and not request.path.endswith("/infer"):
            return response
        return compressed(response, request.headers.get("Accept-Encoding", ""), self.settings.gzip_bytes)

    def _count(self, response: Response) -> Response:
        """Count what Flask answered, on the loop's thread, where the lane counts too; tell of what took long."""
        seconds = time.monotonic() - g.began_at
        if seconds > self.settings.slow_s and response.status_code < _FIRST_ERROR:
            log_slow(route(), seconds, request_id())
        name = (request.view_args or {}).get("name", "").partition(":")[0]
        model = name if name in self.services.index.models() else ""
        method = request.method if request.url_rule else ""
        self.services.dataplane.loop.call_soon_threadsafe(
            self.counts.count, route(), method, response.status_code, model
        )
        return response

    def _record(self, response: Response) -> Response:
        """Leave a record of what changes something."""
        environ, arguments = request.environ, request.view_args or {}
        place = Place(request.method, route(), arguments.get("name", ""), None)
        caller = Caller(environ["REMOTE_ADDR"], request.headers.get("X-Forwarded-For", ""), request_id())
        self.gate.done(environ["mlbuffet.grant"], place, caller, response.status_code, g.get("subject", {}))
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

    def flush(self) -> None:
        """Bring the counters up to date."""
        self.counts.flush()
        self._balancing.flush()

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
        self.flush()
        self.services.dataplane.close()
