"""Has an image and the installed requirements ready on a Docker engine; what was installed once is used again."""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import spec
from trainer.archive import File, folder_of, pack
from trainer.engine import CancelledError, Prepared, TrainingError
from trainer.environments import Environments
from trainer.link import GoneError, Link
from trainer.requirements import wanted_lines
from trainer.runs import Reason, Run

log = logging.getLogger(__name__)

_POLL_S = 0.2
_SIZE_S = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What installing may take."""

    seconds: float
    size_bytes: int
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what is printed, and who says whether to go on."""

    say: Callable[[bytes], object]
    go_on: Callable[[], bool]

    def check(self) -> None:
        """Go on, if that is wanted.

        Raises:
            CancelledError: it is not.
        """
        if not self.go_on():
            raise CancelledError


class Installer:
    """The environments of one engine."""

    def __init__(self, link: Link, sandbox: spec.Sandbox, environments: Environments, bounds: Bounds) -> None:
        self._link = link
        self._sandbox = sandbox
        self._environments = environments
        self._bounds = bounds
        self._busy = threading.Lock()  # two runs of the same requirements install them once

    def prepare(self, run: Run, requirements: bytes, watch: Watch) -> Prepared:
        """Have it all ready.

        Raises:
            TrainingError, CancelledError, EngineUnreachableError: it cannot be had, is not wanted, or not now.
        """
        digest = self._image(watch)
        name = spec.environment_name(self._sandbox, digest, requirements)
        while not self._busy.acquire(timeout=_POLL_S):
            watch.check()
        try:
            if self._has(name):
                watch.say(b"mlbuffet: the requirements are installed already\n")
            else:
                self._make(run.run_id, digest, name, requirements, watch)
        finally:
            self._busy.release()
        return Prepared(self._sandbox.image, digest, name)

    def _image(self, watch: Watch) -> str:
        """The image's digest; one that is missing is pulled."""
        image = self._sandbox.image
        try:
            with self._link.asking() as client:
                return str(client.inspect_image(image)["Id"])
        except GoneError:
            log.info("image is pulled", extra={"image": image})
        try:
            with self._link.asking() as client:
                for told in client.pull(image, stream=True, decode=True):
                    watch.check()
                    # What goes wrong once it has begun to answer, an engine says in its answer.
                    if "error" in told:
                        raise TrainingError(Reason.IMAGE_UNAVAILABLE, str(told["error"])[:500])
                return str(client.inspect_image(image)["Id"])
        except (GoneError, TrainingError) as error:
            why = error.message if isinstance(error, TrainingError) else "there is none of this name"
            msg = f"the image {image} is not on the engine and could not be pulled: {why}"
            raise TrainingError(Reason.IMAGE_UNAVAILABLE, msg) from error

    def _has(self, environment: str) -> bool:
        try:
            with self._link.asking() as client:
                labels = client.inspect_volume(environment)["Labels"] or {}
        except GoneError:
            return False
        return self._environments.is_complete(environment, labels.get(spec.TOKEN_LABEL, ""))

    def _make(self, run_id: str, image: str, environment: str, requirements: bytes, watch: Watch) -> None:
        """Make a volume and install into it what is asked for, if anything is."""
        token = secrets.token_hex(8)
        self._remove_begun(environment)
        with self._link.asking() as client:
            client.create_volume(**spec.environment_volume(self._sandbox, environment, token))
        if any(wanted_lines(requirements.decode())):
            self._install(run_id, image, environment, requirements, watch)
        self._environments.complete(environment, token)
        self._remove_surplus()

    def _install(self, run_id: str, image: str, environment: str, requirements: bytes, watch: Watch) -> None:
        """Have pip fill a volume; one that is not complete is taken away again."""
        container = spec.container_name(run_id, "prepare")
        files = [
            folder_of("site", spec.USER_ID),
            folder_of("tmp", spec.USER_ID),
            File("requirements.txt", data=requirements),
        ]
        if self._bounds.ca is not None:
            files.append(File(spec.CA_FILE, path=self._bounds.ca))
        try:
            self._link.create(container, spec.prepare_container(self._sandbox, run_id, image, environment))
            with self._link.asking() as client:
                client.put_archive(container, spec.ENVIRONMENT, pack(files))
                client.start(container)
            self._follow(container, watch)
        except BaseException:
            self._link.remove(container)
            self._link.remove_volume(environment)
            raise
        self._link.remove(container)

    def _remove_begun(self, environment: str) -> None:
        """Remove a volume that is not complete, with what another run had begun in it when the engine was lost."""
        used_by = {"volume": environment, "label": f"{spec.ROLE_LABEL}=prepare"}
        with self._link.asking() as client:
            begun = client.containers(all=True, filters=used_by)
        for container in begun:
            self._link.remove(container["Id"])
        self._link.remove_volume(environment)

    def _follow(self, container: str, watch: Watch) -> None:
        """Wait for the installation.

        Raises:
            TrainingError: it failed, took too long or became too large.
        """
        reader = threading.Thread(target=self._read, args=(container, watch), name="prepare", daemon=True)
        reader.start()
        ends_at = time.monotonic() + self._bounds.seconds
        sized_at = time.monotonic() + _SIZE_S
        while (state := self._state(container))["Status"] in {"created", "running"}:
            watch.check()
            now = time.monotonic()
            if now > ends_at:
                msg = f"the requirements were not installed within {self._bounds.seconds:.0f} s"
                raise TrainingError(Reason.REQUIREMENTS_FAILED, msg)
            if now > sized_at:
                sized_at = now + _SIZE_S
                self._check_size(container)
            time.sleep(_POLL_S)
        reader.join(_SIZE_S)
        if state["ExitCode"] != 0:
            msg = f"installing the requirements ended with status {state['ExitCode']}; the log says why"
            raise TrainingError(Reason.REQUIREMENTS_FAILED, msg)

    def _read(self, container: str, watch: Watch) -> None:
        """Hand on what is printed, until it ends, or as long as the engine is there."""
        with contextlib.suppress(Exception):
            for piece in self._link.follow(container):
                watch.say(piece)

    def _state(self, container: str) -> Any:  # noqa: ANN401 - as the engine tells it
        state = self._link.state_of(container)
        if state is None:
            msg = "somebody removed the container in which the requirements were being installed"
            raise TrainingError(Reason.ENGINE_FAILED, msg)
        return state

    def _check_size(self, container: str) -> None:
        printed = self._link.run_in(container, ["du", "-sk", spec.ENVIRONMENT])
        kib = printed.split(b"\t", 1)[0]
        if kib.isdigit() and int(kib) << 10 > self._bounds.size_bytes:
            msg = f"the installed requirements take more than {self._bounds.size_bytes} bytes"
            raise TrainingError(Reason.REQUIREMENTS_FAILED, msg)

    def _remove_surplus(self) -> None:
        """Remove what was not used for long; what is in use stays until another time."""
        for name in self._environments.surplus():
            try:
                self._link.remove_volume(name)
            except TrainingError:
                log.info("environment in use", extra={"environment": name})
            else:
                self._environments.forget(name)
