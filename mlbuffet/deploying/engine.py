"""Runs commands: shows each that it runs, without a shell, and says what one that fails has said."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlbuffet.deploying import commands
from mlbuffet.deploying.commands import Command
from mlbuffet.deploying.progress import api_version, asks_to_detach

_PINNED = "DOCKER_API_VERSION"


class EngineError(RuntimeError):
    """The engine did not do what it was asked to, or cannot be asked."""


class Engine:
    """The docker client on this machine, and the engine that it speaks to."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is told each command when it is run first, in the form in which a person would type it."""
        self._say = say
        self._said: set[str] = set()
        self._environment = dict(os.environ)
        self.detaches = False

    def meet(self) -> None:
        """Speak the older one's version of the API where the client is newer than the engine."""
        versions = self.ask(commands.VERSIONS)[0]
        self.detaches = asks_to_detach(versions)
        if _PINNED not in self._environment and (version := api_version(versions)):
            self._environment[_PINNED] = version

    def run(self, command: Command, *, given: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
        """Run a command with `given` on its standard input; returns its output.

        Raises:
            EngineError: it failed, or is not installed.
        """
        own = dict(environment or {})
        self._show([command], own)
        try:
            done = subprocess.run(  # noqa: S603 - a list of words, made here
                command, input=given, capture_output=True, check=False, env=self._environment | own
            )
        except FileNotFoundError:
            msg = f"{command[0]} is not installed here"
            raise EngineError(msg) from None
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode != 0:
            msg = f"{shlex.join(command[:4])} … failed: {said or f'status {done.returncode}'}"
            raise EngineError(msg)
        return done.stdout.decode(errors="replace") + said

    def ask(self, command: Command) -> list[dict[str, Any]]:
        """Run a command whose output is JSON: one list, or an object in each line."""
        text = self.run(command).strip()
        if text.startswith("["):
            found: list[dict[str, Any]] = json.loads(text)
            return found
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def names(self, command: Command) -> set[str]:
        """Run a command whose output is a name in each line."""
        return set(self.run(command).split())

    def save(self, command: Command, path: Path) -> None:
        """Run a command and keep its output as a file for this user alone, whole or not at all.

        Raises:
            EngineError: it failed, and there is no such file.
            OSError: it cannot be written.
        """
        self._show([command], {})
        beside = path.with_name(f"{path.name}.new")
        beside.unlink(missing_ok=True)
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - the mode
            done = subprocess.run(  # noqa: S603 - as above
                command, stdout=file, stderr=subprocess.PIPE, check=False, env=self._environment
            )
            os.fsync(file.fileno())
        if done.returncode != 0:
            beside.unlink()
            msg = f"{shlex.join(command[:2])} … failed: {done.stderr.decode(errors='replace').strip()}"
            raise EngineError(msg)
        beside.rename(path)

    def feed(self, command: Command, path: Path) -> None:
        """Run a command with a file as its standard input.

        Raises:
            EngineError: it failed.
            OSError: the file cannot be read.
        """
        self._show([command], {})
        with path.open("rb") as file:
            done = subprocess.run(  # noqa: S603 - as above
                command, stdin=file, capture_output=True, check=False, env=self._environment
            )
        if done.returncode != 0:
            msg = f"{shlex.join(command[:2])} … failed: {done.stderr.decode(errors='replace').strip()}"
            raise EngineError(msg)

    def pipe(self, source: Command, target: Command) -> None:
        """Run two commands, the output of the first being the input of the second.

        Raises:
            EngineError: one of them failed.
        """
        self._show([source, target], {})
        with subprocess.Popen(source, stdout=subprocess.PIPE) as first:  # noqa: S603 - as above
            done = subprocess.run(  # noqa: S603 - as above
                target, stdin=first.stdout, capture_output=True, check=False, env=self._environment
            )
        if first.returncode or done.returncode:
            msg = f"{shlex.join(target[:3])} … failed: {done.stderr.decode(errors='replace').strip()}"
            raise EngineError(msg)

    def _show(self, piped: list[Command], environment: Mapping[str, str]) -> None:
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        line = f"{settings} {' | '.join(map(shlex.join, piped))}".strip()
        if line not in self._said:
            self._said.add(line)
            self._say(f"$ {line}")
