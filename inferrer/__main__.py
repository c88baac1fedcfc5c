"""Starts the inferrer: `python -m inferrer`, settings from the environment."""

import math
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from inferrer.rpc.port import hold
from inferrer.settings import InferrerSettings, open_keys, read_inferrer_settings
from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.process import END_SIGNALS, ignore_signals, settle_memory, signals_held
from mlbuffet.chassis.settings import SettingsError
from mlbuffet.chassis.shares import Shares

if TYPE_CHECKING:
    from inferrer.worker import LaneWorker

_PORT_WAIT_S = 5.0
_LEAST_PLACES = 16


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages as JSON lines among ours; requests are logged by the inferrer."""

    def setup(self, cfg: object) -> None:  # noqa: ARG002 - gunicorn's signature
        """Let the root logger write."""
        self.error_log.propagate = True


class DrainingArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's arbiter, which ends in one way: it sends QUIT, and waits. Further signals make no difference.

    Its own way by TERM sends TERM, as it does to a worker that it replaces, and a SIGINT then cuts answers off.
    """

    handle_term = Arbiter.handle_quit

    def spawn_worker(self) -> int:
        """Fork a worker; a signal that comes before it listens for signals waits until it does, and is not lost."""
        with signals_held(END_SIGNALS):
            return int(super().spawn_worker())


class InferrerApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn configured by our settings instead of a file of its own."""

    def __init__(self, settings: InferrerSettings, held: socket.socket | None) -> None:
        """`held` keeps others off the gRPC port, for as long as the arbiter lives."""
        self._settings = settings
        self._held = held
        self._shares = Shares(max(2 * settings.worker_count, _LEAST_PLACES))
        super().__init__()

    def load_config(self) -> None:
        """Fill in gunicorn's configuration."""
        settings = self._settings
        values = {
            "bind": f"{settings.host}:{settings.port}",
            "workers": settings.worker_count,
            "worker_class": "inferrer.worker.LaneWorker",
            "backlog": 4096,
            "timeout": 30,
            "graceful_timeout": math.ceil(settings.drain_notice_s + settings.drain_s) + 2,
            "logger_class": RootLogger,
            "control_socket_disable": True,
            "pre_fork": self._place,
            "post_fork": self._release,
            "child_exit": self._free,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def _place(self, _: object, worker: "LaneWorker") -> None:
        """Give a worker that is about to be forked a place among the others."""
        worker.share = self._shares.take()

    def _free(self, _: object, worker: "LaneWorker") -> None:
        """Have the place again, however the worker ended."""
        worker.share.free()

    def _release(self, _: object, __: object) -> None:
        """Leave the port to the arbiter: one killed must not be outlived by its hold."""
        if self._held is not None:
            self._held.close()

    def run(self) -> None:
        """Run until stopped."""
        DrainingArbiter(self).run()

    def load(self) -> InferrerSettings:
        """What a worker gets; it builds the application itself, on its loop."""
        return self._settings


def _hold_grpc_port(settings: InferrerSettings) -> socket.socket | None:
    """Take the gRPC port, or end with a word on why not."""
    if not settings.grpc_port:
        return None
    try:
        return hold(settings.host, settings.grpc_port, _PORT_WAIT_S)
    except OSError as error:
        sys.exit(f"inferrer: port {settings.grpc_port} for gRPC cannot be listened on: {error.strerror}")


def preload() -> None:
    """Import what the workers run, so that all of them share the memory."""
    import inferrer.worker  # noqa: F401, PLC0415 - not for those who only want the settings


def main() -> None:
    """Run until stopped."""
    try:
        settings = read_inferrer_settings()
        open_keys(settings)
    except SettingsError as error:
        sys.exit(f"inferrer: {error}")
    configure_logs("inferrer", settings.log_level)
    held = _hold_grpc_port(settings)
    folder = settings.metrics_folder or Path(tempfile.mkdtemp(prefix="mlbuffet-metrics-"))
    preload()
    if settings.grpc_port:  # to import it begins no thread, which a fork would lose
        import inferrer.rpc.server  # noqa: F401, PLC0415

    settle_memory()  # what is here now stays shared with the workers
    arbiter = os.getpid()
    try:
        InferrerApplication(replace(settings, metrics_folder=folder), held).run()
    finally:
        ignore_signals()
        if settings.metrics_folder is None and os.getpid() == arbiter:  # a worker that ends comes by here too
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
