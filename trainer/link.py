"""The way to a Docker engine: the only import of docker.

Over a unix socket, or over TCP with mutual TLS in which the engine's certificate is verified against its authority and
its address; there is no third way. Certificates that were renewed count for what is asked next. The version of the API
is the engine's own.
"""

import contextlib
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig

from trainer.engine import EngineUnreachableError, TrainingError
from trainer.runs import Reason
from trainer.spec import cgroup_parent

GoneError = NotFound

_CHECK_S = 2.0
_CALL_S = 60.0
_CONNECTIONS = 64
_LOOK_S = 0.1
_BEING_REMOVED = "already in progress"
_FILES = ("ca.pem", "cert.pem", "key.pem")
_AWAY_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError)
_AWAY = ("context canceled", "shutting down", "connection refused")


class _Client(docker.APIClient):  # type: ignore[misc]  # docker has no types
    """Takes nothing from the environment: REQUESTS_CA_BUNDLE would stand in for the engines' authority."""

    trust_env = property(lambda _: False, lambda _, __: None)


class Link:
    """One engine's address, and a client of it."""

    def __init__(self, address: str, certificates: Path | None) -> None:
        self._address = address
        self._certificates = None if address.startswith("unix:") else certificates
        self._lock = threading.Lock()
        self._made: tuple[object, Any] | None = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[Any]:
        """A client; that the engine does not answer is one kind of failure, whatever the cause.

        Raises:
            EngineUnreachableError: it does not answer.
            GoneError: what was asked for is not there.
            TrainingError: it cannot do this.
        """
        try:
            yield self._client()
        except NotFound:
            raise
        except APIError as error:
            said = str(error.explanation or error)[:500]
            if any(words in said for words in _AWAY):
                raise EngineUnreachableError(said) from error
            raise TrainingError(Reason.ENGINE_FAILED, f"the engine refused: {said}") from error
        except _AWAY_ERRORS as error:
            raise EngineUnreachableError(str(error)[:500]) from error

    def check(self) -> Mapping[str, str]:
        """Ask for the versions of its parts, on a connection of its own: this is not to wait for others.

        Raises:
            EngineUnreachableError: it does not answer at once.
        """
        try:
            with contextlib.closing(self._connect(_CHECK_S)) as client:
                answer = client.version(api_version=False)
        except _AWAY_ERRORS as error:
            raise EngineUnreachableError(str(error)[:500]) from error
        return {part["Name"]: part["Version"] for part in answer.get("Components", ())}

    def _client(self) -> Any:  # noqa: ANN401 - docker has no types
        """A client by the certificates as they are now."""
        with self._lock:
            stamp = self._stamp()
            if self._made is None or self._made[0] != stamp:
                self._made = stamp, self._connect(_CALL_S)
            return self._made[1]

    def _stamp(self) -> object:
        if self._certificates is None:
            return ()
        stats = [(self._certificates / name).stat() for name in _FILES]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _connect(self, timeout_s: float) -> Any:  # noqa: ANN401 - as above
        """Meet the engine, and speak its version of the API."""
        options: dict[str, Any] = {"version": "auto", "timeout": timeout_s, "num_pools": _CONNECTIONS}
        if self._certificates is None:
            return _Client(base_url=self._address, **options)
        ca, certificate, key = (str(self._certificates / name) for name in _FILES)
        tls = TLSConfig(client_cert=(certificate, key), ca_cert=ca, verify=True)
        return _Client(base_url=self._address.replace("tcp://", "https://", 1), tls=tls, **options)

    # What is asked for again and again ------------------------------------------------------------------------------

    def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Make a container, in the place of one of this name that is left over."""
        self.remove(name)
        with self.asking() as client:
            host = {**config["HostConfig"], "CgroupParent": cgroup_parent(client.info()["CgroupDriver"])}
            client.create_container_from_config({**config, "HostConfig": host}, name)

    def remove(self, name: str) -> None:
        """Remove a container, running or not; nothing is fine too, and so is another one who is at it."""
        try:
            with contextlib.suppress(GoneError), self.asking() as client:
                client.remove_container(name, v=True, force=True)
        except TrainingError as error:
            if _BEING_REMOVED not in error.message:
                raise
            ends_at = time.monotonic() + _CALL_S
            while self.state_of(name) is not None and time.monotonic() < ends_at:
                time.sleep(_LOOK_S)

    def remove_volume(self, name: str) -> None:
        """Remove a volume; nothing is fine too."""
        with contextlib.suppress(GoneError), self.asking() as client:
            client.remove_volume(name, force=True)

    def state_of(self, name: str) -> Mapping[str, Any] | None:
        """The state of a container as the engine tells it; None when there is none."""
        try:
            with self.asking() as client:
                state: Mapping[str, Any] = client.inspect_container(name)["State"]
                return state
        except GoneError:
            return None

    def run_in(self, name: str, command: list[str]) -> bytes:
        """Run a command of ours in a container; returns what it printed."""
        with self.asking() as client:
            made = client.exec_create(name, command, stderr=False)["Id"]
            printed: bytes = client.exec_start(made)
            return printed

    def follow(self, name: str) -> Generator[bytes, None, None]:
        """All that a container has printed and will print; ends with it, or with the connection."""
        try:
            with self.asking() as client:
                stream = client.logs(name, stdout=True, stderr=True, stream=True, follow=True)
        except GoneError:
            return
        try:
            while True:
                with self.asking():
                    piece = next(stream, None)
                if piece is None:
                    return
                yield piece
        finally:
            stream.close()
