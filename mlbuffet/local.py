"""The whole platform as child processes on this machine: one inferrer, several modelhosts, one supervisor.

Each service gets its settings by environment variables, as it would in a container. What dies is started again; all of
them end with the supervisor, however it ends.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson

from mlbuffet.chassis.process import die_with_parent

_STOP_S = 15.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SOUND_S = 10.0
_LINE_BYTES = 1 << 20
_HIDDEN = frozenset({"time", "level", "service", "pid", "event"})


@dataclass(frozen=True, slots=True)
class Platform:
    """What `mlbuffet up` starts."""

    port: int = 8002
    modelhosts: int = 2
    repository: Path = Path("repository")
    samples: Path | None = None
    workers: int = 0
    say: Callable[[str], None] = print


def child_settings(platform: Platform, sockets: Path) -> dict[str, dict[str, str]]:
    """Name and environment of each service. Pure."""
    repository = str(platform.repository.resolve())
    services = {
        f"modelhost-{number}": {
            "MODELHOST_ID": f"modelhost-{number}",
            "MODELHOST_CHANNEL": f"unix:{sockets}/modelhost-{number}.sock",
            "MODELHOST_PORT": "0",
            "MODELHOST_REPOSITORY": repository,
        }
        for number in range(1, platform.modelhosts + 1)
    }
    services["inferrer"] = {
        "INFERRER_PORT": str(platform.port),
        "INFERRER_WORKERS": str(platform.workers),
        "INFERRER_REPOSITORY": repository,
        "INFERRER_MODELHOSTS": f"unix:{sockets}",
    }
    return services


def copy_samples(samples: Path, repository: Path) -> None:
    """Put sample models into a repository that has none."""
    repository.mkdir(parents=True, exist_ok=True)
    if any(item.is_dir() and not item.name.startswith(".") for item in repository.iterdir()):
        return
    for folder in sorted(samples.iterdir()):
        if (folder / "default").is_file():
            shutil.copytree(folder, repository / folder.name)


def readable(line: bytes, name: str) -> str:
    """A JSON log line as people read it; what is no such line is shown as it is."""
    try:
        record = orjson.loads(line)
        moment = datetime.fromisoformat(record["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in _HIDDEN)
        return f"{moment} {name:<12} {record['level']:<7} {record['event']}  {fields}".rstrip()
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        text = line.decode("utf-8", "backslashreplace").rstrip()
        return f"{'':12} {name:<12} {text!r}" if not text.isprintable() else f"{'':12} {name:<12} {text}"


class _Service:
    """One child that is kept running."""

    def __init__(self, name: str, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.name = name
        self._environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self._stopping = False

    async def keep(self) -> None:
        """Run it, and run it again when it dies, until `stop`."""
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            status = await self._run()
            if self._stopping:
                return
            pause_s = _FIRST_PAUSE_S if loop.time() - started > _SOUND_S else min(pause_s * 2, _LONGEST_PAUSE_S)
            self._say(f"{self.name} ended with status {status}; starting it again")
            await asyncio.sleep(pause_s)

    async def _run(self) -> int:
        parent = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.name.partition("-")[0],
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is the supervisor's: it stops them in order
            preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),
        )
        if self._stopping:  # `stop` came while the child was being made, and could not see it
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        if self._process.stdout is not None:
            # Not waited for: children that outlive the service for a moment hold its output open.
            self._log = asyncio.get_running_loop().create_task(self._show(self._process.stdout))
        return await self._process.wait()

    async def _show(self, log: asyncio.StreamReader) -> None:
        """Show its log until it ends."""
        while True:
            try:
                line = await log.readline()
            except ValueError:
                continue  # a line over the limit: its rest follows
            if not line:
                return
            self._say(readable(line, self.name))

    async def stop(self) -> None:
        """Ask it to end, and see that it does."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            self._say(f"{self.name} did not end in {_STOP_S:g} s and is killed")
            process.kill()


async def run_platform(platform: Platform) -> None:
    """Run the platform until Ctrl-C or SIGTERM."""
    if platform.samples is not None:
        copy_samples(platform.samples, platform.repository)
    platform.repository.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sockets = Path(tempfile.mkdtemp(prefix="mlbuffet-"))
    try:
        settings = child_settings(platform, sockets)
        services = [_Service(name, environment, platform.say) for name, environment in settings.items()]
        keepers = [loop.create_task(service.keep()) for service in services]
        greeter = loop.create_task(_greet(platform))
        await stop.wait()
        greeter.cancel()
        platform.say("stopping")
        # The inferrer first: it lets the requests that it has end while the modelhosts still answer.
        for service in reversed(services):
            await service.stop()
        await asyncio.gather(*keepers)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


async def _greet(platform: Platform) -> None:
    """Say where to go, once predictions are answered."""
    url = f"http://127.0.0.1:{platform.port}"
    while not await asyncio.to_thread(_is_ready, url):
        await asyncio.sleep(0.05)
    platform.say(f"MLBuffet is ready at {url} with {platform.modelhosts} modelhosts; Ctrl-C stops it")
    platform.say(f"  curl {url}/help")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2):  # noqa: S310 - our own address
            return True
    except OSError:
        return False
