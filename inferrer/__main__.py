"""Starts the inferrer: `python -m inferrer`, settings from the environment."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from inferrer.settings import InferrerSettings, read_inferrer_settings
from mlbuffet.chassis.logs import configure_logs
from mlbuffet.chassis.settings import SettingsError


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages as JSON lines among ours; requests are logged by the inferrer."""

    def setup(self, cfg: object) -> None:  # noqa: ARG002 - gunicorn's signature
        """Let the root logger write."""
        self.error_log.propagate = True


class InferrerApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn configured by our settings instead of a file of its own."""

    def __init__(self, settings: InferrerSettings) -> None:
        self._settings = settings
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
            "graceful_timeout": int(settings.drain_s) + 2,
            "logger_class": RootLogger,
            "control_socket_disable": True,
            "child_exit": _forget_metrics,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> InferrerSettings:
        """What a worker gets; it builds the application itself, on its loop."""
        return self._settings


def _forget_metrics(_: object, worker: object) -> None:
    """A dead worker's gauges go, its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - reads its folder on import

    mark_process_dead(worker.pid)  # type: ignore[attr-defined,no-untyped-call]


def main() -> None:
    """Run until stopped."""
    try:
        settings = read_inferrer_settings()
    except SettingsError as error:
        sys.exit(f"inferrer: {error}")
    configure_logs("inferrer", settings.log_level)
    folder = settings.metrics_folder or Path(tempfile.mkdtemp(prefix="mlbuffet-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    # Imported by the arbiter so that all workers share the memory; prometheus-client reads the variable on import.
    import inferrer.worker  # noqa: F401, PLC0415

    try:
        InferrerApplication(settings).run()
    finally:
        if settings.metrics_folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
