"""The whole platform as child processes on this machine: an inferrer, modelhosts, perhaps a trainer; one supervisor.

Each service gets its settings by environment variables, as it would in a container. It is no program of its own but a
fork of the supervisor, which has imported what they all need, and so has one thread. What dies is started again; all
of them end with the supervisor, however it ends.
"""

import asyncio
import importlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

import orjson

from mlbuffet.chassis.forking import Service, fork_service
from mlbuffet.endpoints import is_loopback
from mlbuffet.keystore import KeyStore
from mlbuffet.layout import Platform, child_settings, trainer_folder
from mlbuffet.watching import Watch, note_host, note_start, prometheus

Main = Callable[[], object]

_STOP_S = 15.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SOUND_S = 10.0
_LINE_BYTES = 1 << 20
_UNISOLATED = "WITHOUT ISOLATION: whoever may train here may do whatever you may on this machine"
_HIDDEN = frozenset({"time", "level", "service", "pid", "event"})


def make_trainer_key(sockets: Path) -> None:
    """Make what the trainer shows the inferrer, for as long as this platform runs."""
    private = trainer_folder(sockets)
    private.mkdir(mode=0o700)
    with open(os.open(private / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
        file.write(secrets.token_urlsafe(32))


def check_reach(platform: Platform) -> None:
    """See that nobody else's machine can ask a platform without keys.

    Raises:
        ValueError: it could.
    """
    if not is_loopback(platform.host) and KeyStore(platform.repository).signature() is None:
        msg = (
            f"without API keys {platform.host} would be open to everybody who reaches it. Make a key first: mlbuffet "
            f"keys create NAME --scope admin --to FILE --repository {platform.repository}"
        )
        raise ValueError(msg)


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


def import_services(*, training: bool = False) -> Mapping[str, Main]:
    """Import all that the services run, before there is a loop; returns what each of them begins with.

    Raises:
        ImportError: they are not installed.
    """
    mains = {}
    for name in ("modelhost", "inferrer", *(["trainer"] if training else [])):
        service = importlib.import_module(f"{name}.__main__")
        service.preload()
        mains[name] = service.main
    return mains


class _Service:
    """One child that is kept running."""

    def __init__(
        self,
        name: str,
        main: Main,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        note: Callable[[bytes], None] | None = None,
    ) -> None:
        """`note` gets each line of its log before it is shown."""
        self.name = name
        self._note = note
        self._main = main
        self._environment = {**os.environ, **environment}
        self._say = say
        self._pid = 0  # 0 while it does not run
        self._ended = asyncio.Event()
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
        """Run it once; returns its exit status, negative for a signal."""
        loop = asyncio.get_running_loop()
        ours, theirs = os.pipe()
        self._ended.clear()
        self._pid = await _forked(Service(self.name, self._main, self._environment, theirs))
        os.close(theirs)
        # Not waited for: children that outlive the service for a moment hold its output open.
        self._log = loop.create_task(self._show(ours))
        if self._stopping:  # `stop` came while the child was being made, and could not see it
            os.kill(self._pid, signal.SIGTERM)
        handle = os.pidfd_open(self._pid)
        loop.add_reader(handle, self._ended.set)
        await self._ended.wait()
        loop.remove_reader(handle)
        os.close(handle)
        pid, self._pid = self._pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it has ended

    async def _show(self, pipe: int) -> None:
        """Show its log until it ends."""
        log = asyncio.StreamReader(_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(log),
            open(pipe, "rb", buffering=0),  # noqa: SIM115, ASYNC230 - a descriptor
        )
        while True:
            try:
                line = await log.readline()
            except ValueError:
                continue  # a line over the limit: its rest follows
            if not line:
                return
            if self._note is not None:
                self._note(line)
            self._say(readable(line, self.name))

    async def stop(self) -> None:
        """Ask it to end, and see that it does."""
        self._stopping = True
        if not self._pid:
            return
        os.kill(self._pid, signal.SIGTERM)  # not reaped yet, so that the number is still its own
        try:
            await asyncio.wait_for(self._ended.wait(), _STOP_S)
        except TimeoutError:
            self._say(f"{self.name} did not end in {_STOP_S:g} s and is killed")
            os.kill(self._pid, signal.SIGKILL)


async def _forked(service: Service) -> int:
    """Fork outside of any task: a child that was inside of one could run no loop of its own (Python 3.14)."""
    loop = asyncio.get_running_loop()
    forked: asyncio.Future[int] = loop.create_future()

    def fork() -> None:
        try:
            forked.set_result(fork_service(service))
        except OSError as error:
            forked.set_exception(error)

    loop.call_soon(fork)
    return await forked


async def run_platform(platform: Platform, mains: Mapping[str, Main]) -> None:
    """Run the platform until Ctrl-C or SIGTERM; `mains` are what `import_services` returns."""
    if platform.samples is not None:
        copy_samples(platform.samples, platform.repository)
    platform.repository.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sockets = Path(tempfile.mkdtemp(prefix="mlbuffet-"))
    try:
        if platform.training is not None:
            make_trainer_key(sockets)
        settings = child_settings(platform, sockets)
        services = [
            _Service(name, mains[name.partition("-")[0]], environment, platform.say, partial(note_start, name, sockets))
            for name, environment in settings.items()
        ]
        keepers = [loop.create_task(service.keep()) for service in services]

        def watch(watch: Watch) -> None:
            note_host(sockets)
            command = prometheus(watch, f"{platform.address}:{platform.port}", sockets)
            services.append(_Service(command[0], partial(os.execvp, command[0], command), {}, platform.say))
            keepers.append(loop.create_task(services[-1].keep()))

        greeter = loop.create_task(_greet(platform, watch))
        await stop.wait()
        greeter.cancel()
        platform.say("stopping")
        # A trainer first, whose runs are found again; the inferrer before the modelhosts, which still answer meanwhile.
        for service in reversed(services):
            await service.stop()
        await asyncio.gather(*keepers)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


async def _greet(platform: Platform, begin: Callable[[Watch], None]) -> None:
    """Say where to go, once predictions are answered; only then begin to watch."""
    while not await _is_ready(platform.address.strip("[]"), platform.port):
        await asyncio.sleep(0.05)
    url = f"http://{platform.address}:{platform.port}"
    platform.say(f"MLBuffet is ready at {url} with {platform.modelhosts} modelhosts; Ctrl-C stops it")
    platform.say(f"  curl {url}/help")
    if platform.training is not None:
        where = f"on the Docker engine {platform.training.engine}" if platform.training.engine else _UNISOLATED
        platform.say(f"  training {where}")
    if platform.grpc_port:
        platform.say(f"  gRPC at {platform.address}:{platform.grpc_port}")
    if platform.watch is None:
        return
    fault = platform.watch.fault()
    if fault:
        platform.say(f"  nobody watches: {fault}")
        return
    begin(platform.watch)
    platform.say(f"  Prometheus at http://127.0.0.1:{platform.watch.port}/alerts")


async def _is_ready(host: str, port: int) -> bool:
    """Ask without a thread, which the services would be forked beside."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
    except (OSError, ValueError):
        return False
    return line.split()[1:2] == [b"200"]
