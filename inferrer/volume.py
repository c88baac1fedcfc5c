"""The repository's volume, for Prometheus: how large it is, what is free, and whether it can be written."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inferrer.storage import storage_errors
from mlbuffet.errors import StorageFullError, StorageUnavailableError
from mlbuffet.index import PRIVATE


class VolumeMetrics(Collector):
    """Looked at when Prometheus asks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterable[Metric]:
        """Ask the file system; of a volume that is gone there are no sizes."""
        try:
            state = os.statvfs(self._root)
        except OSError:
            size, free = [], []
        else:
            # As it is for whoever is not root.
            used = state.f_blocks - state.f_bfree
            size, free = [(used + state.f_bavail) * state.f_frsize], [state.f_bavail * state.f_frsize]
        writable = [float(is_writable(self._root / PRIVATE))]
        for name, text, values in (
            ("repository_size_bytes", "The repository's volume", size),
            ("repository_free_bytes", "What is free of it", free),
            ("repository_writable", "1 when it can be written", writable),
        ):
            family = GaugeMetricFamily(name, text)
            for value in values:
                family.add_metric((), value)
            yield family


def is_writable(folder: Path) -> bool:
    """Try it; a volume that is only full can be written again as soon as something is deleted."""
    try:
        with storage_errors(), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"0")
    except StorageUnavailableError:
        return False
    except StorageFullError:
        return True
    return True
