"""Settings of the inferrer: environment variables with the prefix `INFERRER_`."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from inferrer.clients import Proxies
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.settings import Level, SettingsError, check_endpoint, read_settings
from mlbuffet.endpoints import Address, is_loopback
from mlbuffet.keystore import KeyStore, KeyStoreError

_SERVICE_KEY = re.compile(r"[A-Za-z0-9._-]{32,255}")


@dataclass(frozen=True, slots=True)
class InferrerSettings:
    """Every setting with its default; docs/settings.md says more of each."""

    host: str = "127.0.0.1"
    port: int = 8002
    grpc_port: int = 8001
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    key_hash: str = field(default="", repr=False)
    first_keys: Path | None = None
    trainer: str = ""
    trainer_key: str = field(default="", repr=False)
    workers: int = 0
    repository: str = "repository"
    modelhosts: tuple[str, ...] = ("unix:/run/mlbuffet",)
    tls_folder: Path | None = None
    timeout_s: float = 30.0
    upload_bytes: int = 1 << 30
    gzip_bytes: int = 1 << 16
    threads: int = 32
    slow_s: float = 1.0
    access_log: bool = False
    traces_endpoint: str = ""
    traces_share: float = 0.01
    drain_notice_s: float = 0.0
    drain_s: float = 10.0
    head_s: float = 15.0
    body_idle_s: float = 20.0
    keep_alive_s: float = 70.0
    sweep_s: float = 15.0
    lane: bool = True
    cache_bytes: int = 1 << 26
    metrics_folder: Path | None = None
    log_level: Level = "INFO"

    @property
    def worker_count(self) -> int:
        """Processes that accept connections: as many as asked for, else one per core."""
        return self.workers or len(os.sched_getaffinity(0))


def read_inferrer_settings() -> InferrerSettings:
    """Read the environment.

    Raises:
        SettingsError: it does not describe an inferrer.
    """
    settings = read_settings(InferrerSettings, "INFERRER_", os.environ)
    try:
        for place in settings.modelhosts:
            Address.parse(place)
    except ValueError as error:
        msg = f"INFERRER_MODELHOSTS: {error}"
        raise SettingsError(msg) from None
    try:
        if settings.trainer:
            Address.parse(settings.trainer)
    except ValueError as error:
        msg = f"INFERRER_TRAINER: {error}"
        raise SettingsError(msg) from None
    try:
        HostPolicy(settings.hosts, settings.origins)
    except ValueError as error:
        msg = f"INFERRER_HOSTS, INFERRER_ORIGINS: {error}"
        raise SettingsError(msg) from None
    check_endpoint(settings.traces_endpoint, "INFERRER_TRACES_ENDPOINT")
    try:
        Proxies(settings.trusted_proxies)
    except ValueError as error:
        msg = f"INFERRER_TRUSTED_PROXIES: {error}"
        raise SettingsError(msg) from None
    if settings.trainer_key and not _SERVICE_KEY.fullmatch(settings.trainer_key):
        msg = "INFERRER_TRAINER_KEY has 32 to 255 characters of A-Z a-z 0-9 . _ -"
        raise SettingsError(msg)
    return settings


def open_keys(settings: InferrerSettings) -> KeyStore:
    """The keys of the repository; the first ones are taken over where there are none yet.

    Raises:
        SettingsError: they cannot be read, or there are none and the inferrer is to listen beyond loopback.
    """
    try:
        store = KeyStore(Path(settings.repository), settings.key_hash)
        if settings.first_keys is not None:
            store.begin_with(settings.first_keys)
        keys = store.read()
    except (KeyStoreError, OSError) as error:
        raise SettingsError(str(error)) from error
    if keys is None and not is_loopback(settings.host):
        msg = (
            f"without API keys the inferrer listens on loopback only; INFERRER_HOST is {settings.host!r}. The first "
            "key is made by: mlbuffet keys create NAME --scope admin --to FILE --repository FOLDER"
        )
        raise SettingsError(msg)
    return store
