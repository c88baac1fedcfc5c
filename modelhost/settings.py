"""Settings of the modelhost: environment variables with the prefix `MODELHOST_`."""

import os
from dataclasses import dataclass
from pathlib import Path

from mlbuffet.chassis.process import available_cores
from mlbuffet.chassis.settings import Level, SettingsError, check_endpoint, read_settings
from mlbuffet.endpoints import Address, is_loopback
from modelhost.sizing import Ceilings

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_BUDGET_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class ModelhostSettings:
    """Every setting with its default; docs/settings.md says more of each."""

    id: str = ""
    channel: tuple[str, ...] = ("unix:/run/mlbuffet/modelhost.sock",)
    tls_folder: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8003
    metrics_port: int = 0
    repository: str = "repository"
    mirror: bool = False
    memory_bytes: int = 0
    model_memory_bytes: int = 0
    cores: int = 0
    runners: int = 0
    threads: int = 0
    queue: int = 1024
    drain_s: float = 10.0
    slow_s: float = 1.0
    traces_endpoint: str = ""
    log_level: Level = "INFO"

    @property
    def budget_bytes(self) -> int:
        """Memory that loaded models may take: as asked for, else 40 % of what the machine or the container has."""
        return self.memory_bytes or int(_available_bytes() * _BUDGET_SHARE)

    @property
    def ceilings(self) -> Ceilings:
        """What one version may have: of the cores as said, else of those there are."""
        return Ceilings(self.cores or available_cores(), self.runners, self.threads)

    @property
    def model_bytes(self) -> int:
        """Memory that one model's process may take for itself: as asked for, else the whole budget."""
        return self.model_memory_bytes or self.budget_bytes


def _available_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def read_modelhost_settings() -> ModelhostSettings:
    """Read the environment.

    Raises:
        SettingsError: it does not describe a modelhost, or one open to the network.
    """
    settings = read_settings(ModelhostSettings, "MODELHOST_", os.environ)
    _check_channel(settings)
    check_endpoint(settings.traces_endpoint, "MODELHOST_TRACES_ENDPOINT")
    if not is_loopback(settings.host):
        msg = f"health and metrics are served on loopback only; MODELHOST_HOST is {settings.host!r}"
        raise SettingsError(msg)
    if settings.metrics_port and settings.tls_folder is None:
        msg = "metrics go beyond loopback by TLS only: MODELHOST_METRICS_PORT needs MODELHOST_TLS_FOLDER"
        raise SettingsError(msg)
    return settings


def _check_channel(settings: ModelhostSettings) -> None:
    """Refuse addresses that are none, and a way from other machines without TLS.

    Raises:
        SettingsError: there is one.
    """
    try:
        addresses = [Address.parse(text) for text in settings.channel]
    except ValueError as error:
        msg = f"MODELHOST_CHANNEL: {error}"
        raise SettingsError(msg) from None
    if not addresses or sum(bool(address.path) for address in addresses) > 1:
        msg = f"MODELHOST_CHANNEL names one unix socket at most, and one address at least; it is {settings.channel}"
        raise SettingsError(msg)
    far = [str(address) for address in addresses if not address.is_local]
    if far and settings.tls_folder is None:
        msg = f"beyond loopback the data channel needs MODELHOST_TLS_FOLDER; MODELHOST_CHANNEL names {far[0]!r}"
        raise SettingsError(msg)
    if "/" in settings.id:
        msg = f"MODELHOST_ID names a socket, and so holds no '/'; it is {settings.id!r}"
        raise SettingsError(msg)
