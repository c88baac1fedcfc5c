"""Row L09: modelhosts by a DNS name that has none, one, several, stale or no addresses at all.

The inferrer runs in a mount namespace of its own, where `/etc/hosts` and `/etc/resolv.conf` are files of the test.
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests.harness.load import Load
from tests.harness.platform import RunningPlatform, copy_samples, free_port, wait_until

NAME = "modelhosts.test"
NOBODY, SILENT = "127.0.0.98", "127.0.0.99"
UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
IRIS = b'{"values": [2, 5, 1, 4]}'


class Names:
    """What the inferrer's resolver says."""

    def __init__(self, folder: Path) -> None:
        self.hosts = folder / "hosts"
        self.resolver = folder / "resolv.conf"
        self.name()
        self.ask(NOBODY)

    def name(self, *addresses: str) -> None:
        """Let the name have these addresses."""
        lines = ["127.0.0.1 localhost", *(f"{address} {NAME}" for address in addresses)]
        self.hosts.write_text("\n".join(lines) + "\n")

    def ask(self, server: str) -> None:
        """Send questions that the file does not answer there."""
        self.resolver.write_text(f"nameserver {server}\n")

    @property
    def command(self) -> tuple[str, ...]:
        """What the inferrer is run through."""
        binds = {self.hosts: "/etc/hosts", self.resolver: "/etc/resolv.conf"}
        mounts = " && ".join(f"mount --bind {shlex.quote(str(file))} {target}" for file, target in binds.items())
        return (*UNSHARE, "sh", "-c", f'{mounts} && exec "$@"', "sh")


@pytest.fixture
def names(tmp_path: Path) -> Names:
    names = Names(tmp_path)
    if subprocess.run([*names.command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    return names


@pytest.fixture
def named(tmp_path: Path, names: Names) -> Iterator[RunningPlatform]:
    """Three modelhosts at 127.0.0.2 to 127.0.0.4, of which the name has all."""
    repository = tmp_path / "repository"
    repository.mkdir()
    copy_samples(repository)
    platform = RunningPlatform(repository, modelhosts=3, workers=1, prefix=names.command)
    port = free_port()
    for number in (1, 2, 3):
        platform.settings[f"modelhost-{number}"]["MODELHOST_CHANNEL"] = f"tcp://127.0.0.{number + 1}:{port}"
    platform.settings["inferrer"]["INFERRER_MODELHOSTS"] = f"tcp://{NAME}:{port}"
    names.name("127.0.0.2", "127.0.0.3", "127.0.0.4")
    with platform:
        yield platform


def used(platform: RunningPlatform) -> set[str]:
    """Modelhosts that answer."""
    answer = requests.post(f"{platform.url}/api/test/sendtomodelhost", json={"data": list(range(60))}, timeout=5)
    return {item["modelhost"][-1] for item in answer.json()["served"]} if answer.status_code == 200 else set()


def test_l09_the_set_follows_the_name_and_outlives_it(named: RunningPlatform, names: Names) -> None:
    with Load(named.port, "iris.onnx", IRIS, clients=4, pause_s=0.005) as load:
        load.wait_for(100)
        assert used(named) == {"1", "2", "3"}
        names.name("127.0.0.3")
        wait_until(lambda: used(named) == {"2"}, 5, "only the modelhost that is named being used")
        names.name()  # no address: the last good set stays
        for _ in range(30):
            load.wait_for(20)
            assert used(named) == {"2"}
        names.name("127.0.0.77", "127.0.0.2", "127.0.0.3")  # the first one is long gone
        wait_until(lambda: used(named) == {"1", "2"}, 5, "both that are there being used")
        names.name("127.0.0.77")  # only gone ones: those that still answer are better than none
        for _ in range(30):
            load.wait_for(20)
            assert used(named)
        names.name("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.4")
        wait_until(lambda: used(named) == {"1", "2", "3"}, 5, "all being used again")
    assert load.failures() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="port 53 is root's")
def test_l09_a_dead_dns_server_stops_nothing(named: RunningPlatform, names: Names) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind((SILENT, 53))
        server.settimeout(10)
        names.ask(SILENT)
        names.name()
        assert NAME.split(".", maxsplit=1)[0].encode() in server.recv(512), "the server is asked, and says nothing"
        with Load(named.port, "iris.onnx", IRIS, clients=4, pause_s=0.005) as load:
            load.wait_for(200)
            named.kill("modelhost-1")
            load.wait_for(200)
            named.start("modelhost-1")
            began = time.monotonic()
            wait_until(lambda: used(named) == {"1", "2", "3"}, 10, "the new modelhost at the known address being used")
            load.wait_for(200)
            wait_until(lambda: time.monotonic() - began > 6, what="a look-up running into its time limit")
            load.wait_for(100)
        assert load.failures() == {}
    assert named.processes["inferrer"].poll() is None
    names.name("127.0.0.4")
    names.ask(NOBODY)
    wait_until(lambda: used(named) == {"3"}, 40, "the name being followed again")
    assert not [record for record in named.records() if record["level"] == "ERROR"]


def test_l09_an_inferrer_starts_before_its_name_exists(tmp_path: Path, names: Names) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    copy_samples(repository)
    platform = RunningPlatform(repository, modelhosts=1, workers=1, prefix=names.command)
    address = f"127.0.0.2:{free_port()}"
    platform.settings["modelhost-1"]["MODELHOST_CHANNEL"] = f"tcp://{address}"
    platform.settings["inferrer"]["INFERRER_MODELHOSTS"] = f"tcp://{NAME}:{address.partition(':')[2]}"
    try:
        platform.start("inferrer")
        wait_until(lambda: _status(platform) == 503, 20, "the inferrer saying that it is not ready")
        platform.start("modelhost-1")
        names.name("127.0.0.2")
        wait_until(lambda: _status(platform) == 200, 20, "the inferrer being ready")
        assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    finally:
        platform.__exit__()


def _status(platform: RunningPlatform) -> int:
    try:
        return requests.get(f"{platform.url}/health/ready", timeout=5).status_code
    except requests.ConnectionError:
        return 0
