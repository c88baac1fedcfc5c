"""The platform as child processes: settings, samples, log lines, and a child that is kept and stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from mlbuffet.layout import Platform, Training, child_settings
from mlbuffet.local import _Service, copy_samples, import_services, make_trainer_key, readable
from tests.harness.fresh import in_fresh_process
from tests.harness.platform import SAMPLES


def forever() -> None:
    """What a service does."""
    sys.stdout.write(f"up {os.getpid()}\n")
    signal.pause()


def test_each_service_gets_its_settings(tmp_path: Path) -> None:
    settings = child_settings(
        Platform(port=9000, modelhosts=2, repository=tmp_path, workers=3, cores=5), Path("/sockets")
    )
    assert list(settings) == ["modelhost-1", "modelhost-2", "inferrer"]
    assert settings["modelhost-2"] == {
        "MODELHOST_ID": "modelhost-2",
        "MODELHOST_CHANNEL": "unix:/sockets/modelhost-2.sock",
        "MODELHOST_PORT": "0",
        "MODELHOST_REPOSITORY": str(tmp_path),
        "MODELHOST_CORES": "2",
    }
    assert settings["inferrer"] == {
        "INFERRER_HOST": "127.0.0.1",
        "INFERRER_PORT": "9000",
        "INFERRER_GRPC_PORT": "8001",
        "INFERRER_WORKERS": "3",
        "INFERRER_REPOSITORY": str(tmp_path),
        "INFERRER_MODELHOSTS": "unix:/sockets",
    }


def test_a_trainer_gets_its_settings_and_shares_a_key_with_the_inferrer_alone(tmp_path: Path) -> None:
    plain = child_settings(Platform(port=9000, repository=tmp_path), Path("/sockets"))
    training = Training("unix:///run/docker.sock", folder=tmp_path / "runs")
    settings = child_settings(Platform(port=9000, repository=tmp_path, training=training), Path("/sockets"))
    assert settings["trainer"] == {
        "TRAINER_CHANNEL": "unix:/sockets/trainer/trainer.sock",
        "TRAINER_PORT": "0",
        "TRAINER_FOLDER": str(tmp_path / "runs"),
        "TRAINER_INFERRER": "http://127.0.0.1:9000",
        "TRAINER_KEY_FILE": "/sockets/trainer/key",
        "TRAINER_ENGINES": "unix:///run/docker.sock",
    }
    assert settings["inferrer"] == plain["inferrer"] | {
        "INFERRER_TRAINER": "unix:/sockets/trainer/trainer.sock",
        "INFERRER_TRAINER_KEY_FILE": "/sockets/trainer/key",
    }
    assert {name: settings[name] for name in plain if name != "inferrer"} == {
        name: plain[name] for name in plain if name != "inferrer"
    }
    unisolated = child_settings(Platform(training=Training()), Path("/sockets"))["trainer"]
    assert (unisolated["TRAINER_UNISOLATED"], "TRAINER_ENGINES" in unisolated) == ("1", False)
    over_tcp = child_settings(Platform(training=Training("tcp://a:1", tmp_path)), Path("/sockets"))["trainer"]
    assert over_tcp["TRAINER_DOCKER_CERTS"] == str(tmp_path)
    make_trainer_key(tmp_path)
    key = tmp_path / "trainer" / "key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777, len(key.read_text())) == (0o600, 0o700, 43)


def _imports_no_trainer() -> None:
    import_services()
    assert not {name for name in sys.modules if name.partition(".")[0] in {"trainer", "docker"}}
    assert set(import_services(training=True)) == {"modelhost", "inferrer", "trainer"}
    assert "docker" in sys.modules


def test_where_training_is_off_nobody_pays_for_it() -> None:
    in_fresh_process(_imports_no_trainer)


def test_children_get_an_absolute_repository() -> None:
    settings = child_settings(Platform(repository=Path("here")), Path("/sockets"))
    assert settings["inferrer"]["INFERRER_REPOSITORY"] == str(Path.cwd() / "here")


def test_samples_fill_an_empty_repository_only(tmp_path: Path) -> None:
    repository = tmp_path / "deep" / "repository"
    copy_samples(SAMPLES, repository)
    assert sorted(item.name for item in repository.iterdir()) == sorted(
        item.parent.name for item in SAMPLES.glob("*/default")
    )
    (repository / "wine.onnx" / "default").write_text("7\n", encoding="ascii")
    copy_samples(SAMPLES, repository)
    assert (repository / "wine.onnx" / "default").read_text(encoding="ascii") == "7\n"


def test_private_folders_do_not_make_a_repository_full(tmp_path: Path) -> None:
    (tmp_path / ".mlbuffet").mkdir()
    copy_samples(SAMPLES, tmp_path)
    assert (tmp_path / "iris.onnx").is_dir()


def test_log_line_is_readable() -> None:
    record = {
        "time": "2026-01-01T12:00:00.250+00:00",
        "level": "INFO",
        "service": "modelhost",
        "pid": 7,
        "event": "version loaded",
        "model": "iris.onnx",
        "version": 3,
    }
    shown = readable(orjson.dumps(record), "modelhost-1")
    assert shown[2::3].startswith("::."), "a time of day"
    assert shown.split(maxsplit=1)[1] == "modelhost-1  INFO    version loaded  model=iris.onnx version=3"


@pytest.mark.parametrize("line", [b"plain text\n", b"{}\n", b"[1]\n", b"null\n", b'{"time": 3}\n'])
def test_line_of_another_kind_is_shown_as_it_is(line: bytes) -> None:
    assert readable(line, "inferrer").split(maxsplit=1) == ["inferrer", line.decode().strip()]


def test_line_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in readable(b"\x1b[2Jgone\n", "inferrer")
    assert "\\xff" in readable(b"\xff\n", "inferrer")


def _pids(lines: list[str]) -> list[int]:
    return [int(line.split()[-1]) for line in lines if " up " in line]


async def _until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not check():
            await asyncio.sleep(0.01)


def _started_again() -> None:
    lines: list[str] = []

    async def run() -> None:
        service = _Service("child-1", forever, {}, lines.append)
        keeper = asyncio.create_task(service.keep())
        await _until(lambda: len(_pids(lines)) == 1)
        os.kill(_pids(lines)[0], signal.SIGKILL)
        await _until(lambda: len(_pids(lines)) == 2)
        await service.stop()
        await asyncio.wait_for(keeper, 15)

    asyncio.run(run())
    assert "child-1 ended with status -9; starting it again" in lines
    for pid in _pids(lines):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_child_that_dies_is_started_again_and_stopped_in_the_end() -> None:
    in_fresh_process(_started_again)


def _long_line() -> None:
    lines: list[str] = []

    def verbose() -> None:
        sys.stdout.write("x" * 3_000_000 + "\n")
        forever()

    async def run() -> None:
        service = _Service("child-1", verbose, {}, lines.append)
        keeper = asyncio.create_task(service.keep())
        await _until(lambda: _pids(lines))
        await service.stop()
        await asyncio.wait_for(keeper, 15)

    asyncio.run(run())


def test_line_over_the_limit_does_not_end_the_log() -> None:
    in_fresh_process(_long_line)


def _just_starting() -> None:
    lines: list[str] = []

    async def run() -> None:
        service = _Service("child-1", forever, {}, lines.append)
        keeper = asyncio.create_task(service.keep())
        await asyncio.sleep(0)  # the child is being made, and not known yet
        await service.stop()
        try:
            await asyncio.wait_for(asyncio.shield(keeper), 5)
        except TimeoutError:
            for pid in _pids(lines):
                os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(keeper, 15)
            raise

    asyncio.run(run())


def test_child_that_is_just_starting_is_stopped_too() -> None:
    in_fresh_process(_just_starting)
