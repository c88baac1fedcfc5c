"""What the Swarm keeps secret, made here: certificates, the key that API keys are hashed with, the first keys.

The authority's own key never enters the Swarm: it lies in a folder of the operator's.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mlbuffet.deploying.authority import Pair, issue, make_authority
from mlbuffet.deploying.names import (
    AUTHORITY,
    AUTHORITY_LABEL,
    EXPIRES_LABEL,
    FIRST_KEYS,
    KEY_HASH,
    METRICS_KEY,
    METRICS_USERS,
    ROLES,
    STACK,
    suffix,
)
from mlbuffet.keyfile import write_keys
from mlbuffet.keys import ADMIN, READ, Wish, new_key

_HASHING_KEY_BYTES = 32
_METRICS_USER = "metrics"


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of the Swarm, which cannot be changed nor read back once it is there."""

    name: str
    content: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)


class Folder:
    """Where the operator keeps the authority: a folder that nobody else may look into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._certificate = path / "ca.pem"
        self._key = path / "ca-key.pem"

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
        made = make_authority(now)
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


def authority_secret(authority: Pair) -> Secret:
    """What every service trusts; its label tells whether it is this one."""
    return Secret(AUTHORITY, authority.certificate, {AUTHORITY_LABEL: authority.fingerprint})


def certificate_secrets(authority: Pair, generation: int, now: datetime) -> list[Secret]:
    """A certificate and a key for each role."""
    made = []
    for role in ROLES:
        pair = issue(authority, role, now)
        labels = {EXPIRES_LABEL: pair.expires.strftime("%Y-%m-%d")}
        for part, content in (("cert", pair.certificate), ("key", pair.key)):
            made.append(Secret(f"{STACK}_{role}_{part}{suffix(generation)}", content, labels))
    return made


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


def metrics_secret() -> tuple[Secret, str]:
    """Who may see the metrics from outside, as HAProxy reads it, and that user's password."""
    password = secrets.token_urlsafe(24)
    lines = ["userlist metrics", f"  user {_METRICS_USER} insecure-password {password}", ""]
    return Secret(METRICS_USERS, "\n".join(lines).encode()), password
