"""Prometheus beside the platform on one machine: its configuration, and where it finds the services.

The inferrer's address is known. The others take a free port and name it when they start; each has a file for that,
which Prometheus follows, and which stays when the service dies: so its absence is seen. The rules are the Swarm's.
"""

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

RULES = Path(__file__).resolve().parents[1] / "metrics" / "rules"

_PROGRAM = "prometheus"
_SUFFIX = ".targets.json"
_STARTED = b" started"
# What was lost while Prometheus itself was away is soon forgotten, and its alert with it.
_FORGETS = "--query.lookback-delta=30s"
_KEPT = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=512MB")
_HOST_PORT = 9100


@dataclass(frozen=True, slots=True)
class Watch:
    """Where Prometheus keeps what it collects, on which port of loopback it answers, and the key that it asks with."""

    folder: Path
    port: int = 9091
    key: Path | None = None

    def fault(self) -> str:
        """Why there will be no Prometheus here; empty when there will be."""
        if shutil.which(_PROGRAM) is None:
            return "Prometheus is not installed"
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", self.port))
            except OSError as error:
                return f"port {self.port} cannot be listened on: {error.strerror}"
        return ""


def configuration(watch: Watch, inferrer: str, targets: Path) -> dict[str, Any]:
    """What Prometheus asks, as its configuration file has it; `targets` is the folder of the services' files. Pure."""
    asking: dict[str, Any] = {"job_name": "inferrer", "static_configs": [{"targets": [inferrer]}]}
    if watch.key is not None:
        asking["authorization"] = {"credentials_file": str(watch.key.resolve())}
    return {
        "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
        "rule_files": [f"{RULES}/*.yml"],
        "scrape_configs": [
            asking,
            *(
                {"job_name": service, "file_sd_configs": [{"files": [f"{targets}/{service}*{_SUFFIX}"]}]}
                for service in ("modelhost", "trainer", "host")
            ),
        ],
    }


def note_start(name: str, targets: Path, line: bytes) -> None:
    """Keep where a service answers, if this line of its log says so."""
    if _STARTED not in line:
        return
    try:
        record = orjson.loads(line)
        event, port = record["event"], record["port"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    if event == f"{name.partition('-')[0]} started" and isinstance(port, int):
        _write_target(targets, name, port)


def note_host(targets: Path) -> None:
    """Take this machine's node exporter in, if it has one."""
    with socket.socket() as sock:
        sock.settimeout(1)
        if sock.connect_ex(("127.0.0.1", _HOST_PORT)) == 0:
            _write_target(targets, "host", _HOST_PORT)


def _write_target(targets: Path, name: str, port: int) -> None:
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
    beside = targets / f".{name}"
    beside.write_bytes(orjson.dumps([target]))
    beside.rename(targets / f"{name}{_SUFFIX}")


def prometheus(watch: Watch, inferrer: str, targets: Path) -> tuple[str, ...]:
    """Write the configuration; returns the command that is Prometheus."""
    file = targets / "prometheus.json"  # whoever reads YAML reads JSON
    file.write_bytes(orjson.dumps(configuration(watch, inferrer, targets)))
    watch.folder.mkdir(parents=True, exist_ok=True)
    return (
        _PROGRAM,
        f"--config.file={file}",
        f"--storage.tsdb.path={watch.folder}",
        f"--web.listen-address=127.0.0.1:{watch.port}",
        "--log.level=warn",
        _FORGETS,
        *_KEPT,
    )
