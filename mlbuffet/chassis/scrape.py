"""Where Prometheus asks from another machine or container: TLS 1.3 by a certificate of its role, for metrics alone.

A service's own HTTP port stays on loopback, without TLS, for the container's health check and for operators.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable

from mlbuffet.certificates import METRICS, has_role, roles_of
from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.request import Limits, Request
from mlbuffet.chassis.web import NoLane, health_routes, make_app

log = logging.getLogger(__name__)

_LIMITS = Limits(body_bytes=0, threads=2, waiting=8)


class ScrapeServer(HttpServer):
    """Metrics and health over TLS, on a port of their own: made on the event loop."""

    def __init__(self, service: str, is_ready: Callable[[], bool], metrics: Callable[[], bytes]) -> None:
        app = make_app(service, health_routes(is_ready, metrics))
        super().__init__(app, NoLane(), _LIMITS, gate=_AnyHost(), lane_on=False)

    async def listen(self, port: int, tls: ssl.SSLContext) -> asyncio.Server:
        """Take connections on all addresses.

        Raises:
            OSError: the port is taken.
        """
        listener = await self.loop.create_server(self.connection, None, port, ssl=tls)
        log.info("metrics beyond loopback", extra={"port": port})
        return listener

    def connection(self) -> "HttpConnection":
        """Make the protocol for a new connection."""
        return _Scraping(self)


class _Scraping(HttpConnection):
    """A connection that only Prometheus may make."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's connections, or hear nothing."""
        if has_role(transport, METRICS):
            super().connection_made(transport)
            return
        why = f"its certificate is not for {METRICS}"
        log.warning("client refused", extra={"why": why, "names": roles_of(transport)})
        self.deaf = True
        transport.close()


class _AnyHost:
    """Lets everything pass: the certificate has decided, and no browser has one."""

    def fault(self, request: Request) -> None:
        """Have nothing against it."""

    def again(self, request: Request) -> bool:  # noqa: ARG002 - likewise
        """Have nothing against it either."""
        return True

    def refused(self, request: Request, status: int) -> None:
        """Record nothing."""
