"""Settings of the trainer: environment variables with the prefix `TRAINER_`."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from mlbuffet.chassis.settings import Level, SettingsError, read_settings
from mlbuffet.endpoints import Address, is_loopback

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Every setting with its default; docs/settings.md says more of each."""

    channel: str = "unix:/run/mlbuffet/trainer.sock"
    tls_folder: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8004
    metrics_port: int = 0
    folder: str = "training"
    engines: tuple[str, ...] = ()
    unisolated: int = 0
    docker_certs: Path | None = None
    image: str = "python:3.11-slim-bookworm"
    index_url: str = field(default="", repr=False)
    index_ca: Path | None = None
    sdists: bool = False
    urls: bool = False
    inferrer: str = "http://127.0.0.1:8002"
    inferrer_ca: Path | None = None
    key: str = field(default="", repr=False)
    queue: int = 256
    timeout_s: float = 3600.0
    most_timeout_s: float = 86400.0
    memory_bytes: int = 2 * _GIB
    most_memory_bytes: int = 8 * _GIB
    cpus: float = 1.0
    most_cpus: float = 4.0
    pids: int = 256
    work_bytes: int = _GIB
    work_files: int = 100_000
    tmp_bytes: int = 256 * _MIB
    script_bytes: int = _MIB
    dataset_bytes: int = 512 * _MIB
    model_bytes: int = _GIB
    log_bytes: int = 10 * _MIB
    prepare_s: float = 900.0
    environment_bytes: int = 4 * _GIB
    environments: int = 8
    register_s: float = 600.0
    keep_runs: int = 1000
    outputs: Path | None = None
    drain_s: float = 5.0
    log_level: Level = "INFO"


@dataclass(frozen=True, slots=True)
class Place:
    """An engine's address, and how many runs it takes at once."""

    address: str
    slots: int

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read `tcp://host:2376=2` or `unix:///var/run/docker.sock=1`; without a number it has one slot.

        Raises:
            ValueError: neither of the two.
        """
        address, _, slots = text.partition("=")
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        is_address = address.startswith("unix:///") or (address.startswith("tcp://") and host and port.isdecimal())
        if is_address and (slots or "1").isdecimal() and int(slots or "1") > 0:
            return cls(address, int(slots or "1"))
        msg = f"an engine reads like tcp://host:2376=2 or unix:///var/run/docker.sock=1; received {text!r}"
        raise ValueError(msg)

    @property
    def is_local(self) -> bool:
        """Tell whether the engine is asked over a socket of this machine."""
        return self.address.startswith("unix:")


def read_trainer_settings() -> TrainerSettings:
    """Read the environment.

    Raises:
        SettingsError: it does not describe a trainer, or one open to the network.
    """
    settings = read_settings(TrainerSettings, "TRAINER_", os.environ)
    _check_addresses(settings)
    _check_limits(settings)
    return settings


def _check_addresses(settings: TrainerSettings) -> None:
    try:
        address = Address.parse(settings.channel)
    except ValueError as error:
        msg = f"TRAINER_CHANNEL: {error}"
        raise SettingsError(msg) from None
    if not address.is_local and settings.tls_folder is None:
        msg = f"beyond loopback the trainer needs TRAINER_TLS_FOLDER; TRAINER_CHANNEL is {settings.channel!r}"
        raise SettingsError(msg)
    if not is_loopback(settings.host):
        msg = f"health and metrics are served on loopback only; TRAINER_HOST is {settings.host!r}"
        raise SettingsError(msg)
    if settings.metrics_port and settings.tls_folder is None:
        msg = "metrics go beyond loopback by TLS only: TRAINER_METRICS_PORT needs TRAINER_TLS_FOLDER"
        raise SettingsError(msg)
    try:
        places = [Place.parse(text) for text in settings.engines]
    except ValueError as error:
        msg = f"TRAINER_ENGINES: {error}"
        raise SettingsError(msg) from None
    if len({place.address for place in places}) < len(places):
        msg = f"TRAINER_ENGINES names an engine twice: {', '.join(settings.engines)}"
        raise SettingsError(msg)
    if settings.unisolated < 0 or (settings.unisolated and (places or not address.path)):
        msg = "TRAINER_UNISOLATED is for a trainer without engines that only this user can reach, over a unix socket"
        raise SettingsError(msg)
    if settings.docker_certs is None and not all(place.is_local for place in places):
        msg = "an engine over TCP is asked by mutual TLS only: TRAINER_DOCKER_CERTS is the folder of its certificates"
        raise SettingsError(msg)


def _check_limits(settings: TrainerSettings) -> None:
    """Refuse limits that contradict each other.

    Raises:
        SettingsError: there are such.
    """
    pairs = (
        ("timeout_s", settings.timeout_s, "most_timeout_s", settings.most_timeout_s),
        ("memory_bytes", settings.memory_bytes, "most_memory_bytes", settings.most_memory_bytes),
        ("cpus", settings.cpus, "most_cpus", settings.most_cpus),
        ("dataset_bytes", settings.dataset_bytes, "work_bytes", settings.work_bytes),
        ("script_bytes", settings.script_bytes, "work_bytes", settings.work_bytes),
    )
    if settings.keep_runs < 1 or settings.environments < 1:
        msg = "TRAINER_KEEP_RUNS and TRAINER_ENVIRONMENTS are at least 1"
        raise SettingsError(msg)
    for name, value, most, ceiling in pairs:
        if not 0 < value <= ceiling:
            msg = f"TRAINER_{name.upper()} is above 0 and at most TRAINER_{most.upper()}, {ceiling}; it is {value}"
            raise SettingsError(msg)
