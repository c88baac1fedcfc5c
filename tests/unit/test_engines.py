"""Which Docker engine is this machine's, and whether it answers."""

import socket
from pathlib import Path

import pytest

from mlbuffet.engines import answers, local_engine
from tests.harness.odd_trainer import odd_trainer

TLS = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("unix:///var/run/docker.sock", None)),
        ({"DOCKER_HOST": ""}, ("unix:///var/run/docker.sock", None)),
        ({"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}, ("unix:///run/user/1000/docker.sock", None)),
        ({"DOCKER_HOST": "tcp://node:2376", **TLS}, ("tcp://node:2376", Path("/certs"))),
    ],
)
def test_the_engine_is_the_one_that_docker_asks(environ: dict[str, str], expected: tuple[str, Path | None]) -> None:
    assert local_engine(environ) == expected


@pytest.mark.parametrize(
    "environ", [{"DOCKER_HOST": "ssh://node"}, {"DOCKER_HOST": "tcp://node:2375"}, {"DOCKER_HOST": "node:2376", **TLS}]
)
def test_an_engine_that_is_not_asked(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="DOCKER_TLS_VERIFY"):
        local_engine(environ)


def test_an_engine_answers_or_not(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/docker.sock"
    assert not answers(address)
    with odd_trainer(tmp_path / "docker.sock") as asked:
        assert answers(address)
        assert asked.requests[0][:2] == ("GET", "/_ping")
    assert not answers(address), "a socket that is left over"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen(1)
        assert not answers(f"unix://{tmp_path}/deaf.sock")
    assert answers("tcp://node:2376"), "which the trainer itself will see"
