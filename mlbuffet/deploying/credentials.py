"""What the Swarm keeps secret, made here: certificates, the key that API keys are hashed with, the first keys.

The authorities' own keys never enter the Swarm: they lie in a folder of the operator's.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import bcrypt

from mlbuffet.deploying.authority import Pair, issue, issue_client, make_authority
from mlbuffet.deploying.names import (
    AUTHORITY_LABEL,
    ENGINE,
    EXPIRES_LABEL,
    FIRST_KEYS,
    KEY_HASH,
    METRICS_KEY,
    METRICS_PASSWORD,
    METRICS_WEB,
    TRAINER_KEY,
    pair_names,
)
from mlbuffet.keyfile import write_keys
from mlbuffet.keys import ADMIN, READ, Wish, new_key

_HASHING_KEY_BYTES = 32
_METRICS_USER = "metrics"
_BCRYPT_COST = 10  # a password of 192 random bits needs no more


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of the Swarm, which cannot be changed nor read back once it is there."""

    name: str
    content: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Whom the services trust, and whom the engines that run training trust."""

    services: Pair
    engines: Pair


class Folder:
    """Where the operator keeps an authority: a folder that nobody else may look into."""

    def __init__(self, path: Path, called: str = "MLBuffet") -> None:
        self.path = path
        self._called = called
        self._certificate = path / "ca.pem"
        self._key = path / "ca-key.pem"

    def engines(self) -> "Folder":
        """The folder inside this one where the engines' authority is kept."""
        return Folder(self.path / "engines", "MLBuffet engines")

    def authority(self) -> Pair | None:
        """The authority that is kept here; None without one.

        Raises:
            OSError: it cannot be read.
        """
        if not self._key.exists():
            return None
        return Pair(self._certificate.read_bytes(), self._key.read_bytes())

    def make_authority(self, now: datetime) -> Pair:
        """Make an authority and keep it; the key last, so that there is none without its certificate."""
        made = make_authority(now, self._called)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        write_own(self._certificate, made.certificate)
        write_own(self._key, made.key)
        return made


def write_own(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - the mode
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def authority_secret(name: str, authority: Pair) -> Secret:
    """What all who are signed by it trust; its label tells whether it is this one."""
    return Secret(name, authority.certificate, {AUTHORITY_LABEL: authority.fingerprint})


def certificate_secrets(authorities: Authorities, role: str, generation: int, now: datetime) -> list[Secret]:
    """A role's certificate and its key."""
    if role == ENGINE:
        pair = issue_client(authorities.engines, "trainer", now)
    else:
        pair = issue(authorities.services, role, now)
    labels = {EXPIRES_LABEL: pair.expires.strftime("%Y-%m-%d")}
    certificate, key = pair_names(role, generation)
    return [Secret(certificate, pair.certificate, labels), Secret(key, pair.key, labels)]


def key_secrets(now: datetime) -> tuple[list[Secret], str]:
    """The key that API keys are hashed with, the first two keys, and the administrator's, which is returned too."""
    hashing_key = secrets.token_bytes(_HASHING_KEY_BYTES)
    administrator, text = new_key(Wish("first", (ADMIN,)), hashing_key, now)
    scraper, scrapers_text = new_key(Wish("metrics", (READ,)), hashing_key, now)
    return [
        Secret(FIRST_KEYS, write_keys([administrator, scraper], hashing_key)),
        Secret(METRICS_KEY, scrapers_text.encode()),
        Secret(KEY_HASH, hashing_key.hex().encode()),
    ], text


def trainer_secret() -> Secret:
    """What the trainer shows an inferrer to upload a model; both have it."""
    return Secret(TRAINER_KEY, secrets.token_urlsafe(32).encode())


def metrics_secrets() -> tuple[list[Secret], str]:
    """Who may ask Prometheus, as it reads it; the password of that user, with which it asks itself, returned too."""
    password = secrets.token_urlsafe(24)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_COST)).decode()
    web = f'basic_auth_users:\n  {_METRICS_USER}: "{hashed}"\n'
    return [Secret(METRICS_PASSWORD, password.encode()), Secret(METRICS_WEB, web.encode())], password
