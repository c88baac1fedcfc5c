"""Each image by itself: what is in it, what it refuses, how it starts and ends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlbuffet.deploying.names import IMAGES
from tests.harness.platform import wait_until
from tests.harness.swarm import CANNOT_RUN, TAG, Lab, Node, build_changed

MODELHOST = ("--volume=/repository", "--volume=/run/mlbuffet", "--env=MODELHOST_REPOSITORY=/repository")
HARDENED = ("--read-only", "--cap-drop=ALL", "--tmpfs=/tmp", "--network=none")


@contextmanager
def started(node: Node, image: str, *options: str) -> Iterator[str]:
    """A container as the stack would start it, without a network; its id."""
    container = node.docker("run", "--detach", *HARDENED, *options, image)
    try:
        yield container
    finally:
        node.docker("rm", "--force", "--volumes", container)


def state(node: Node, container: str) -> dict[str, object]:
    found: dict[str, object] = node.inspect(container)[0]["State"]
    return found


def health(node: Node, container: str) -> str:
    return node.docker("inspect", "--format={{.State.Health.Status}}", container)


def status_of_first(node: Node, container: str) -> dict[str, str]:
    """What the kernel says of a container's first process."""
    lines = node.docker("exec", container, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("service", IMAGES)
def test_an_image_is_labelled_and_its_user_is_nobody_special(lab: Lab, service: str) -> None:
    image = lab.first.inspect(f"mlbuffet/{service}:{TAG}")[0]
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Labels"]["org.opencontainers.image.title"] == "MLBuffet"
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision"} <= set(image["Config"]["Labels"])
    base = lab.first.inspect("python:3.11-slim-bookworm")[0]["Size"]
    print(f"mlbuffet/{service}: {(image['Size'] - base) / 1e6:.0f} MB over the base")  # noqa: T201 - a figure


@pytest.mark.parametrize("service", IMAGES)
def test_d05_root_is_refused(lab: Lab, service: str) -> None:
    with started(lab.first, f"mlbuffet/{service}:{TAG}", "--user=0") as container:
        assert lab.first.docker("wait", container) == "1"
        done = lab.first.logs(container)
    assert "not started: it would run as root" in done


def test_d05_a_modelhost_becomes_healthy_with_nothing_but_its_own_process(lab: Lab) -> None:
    node = lab.first
    with started(node, f"mlbuffet/modelhost:{TAG}", *MODELHOST) as container:
        wait_until(lambda: health(node, container) == "healthy", 40, "a healthy modelhost")
        status = status_of_first(node, container)
        assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == "0" * 16
        assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()[0]) == ("1", "2", "10001")
        node.docker("stop", "--time=15", container)
        assert state(node, container)["ExitCode"] == 0


def test_the_first_process_of_a_modelhost_leaves_no_zombies_and_ends_with_its_fork_server(lab: Lab) -> None:
    node = lab.first
    with started(node, f"mlbuffet/modelhost:{TAG}", *MODELHOST) as container:
        wait_until(lambda: health(node, container) == "healthy", 40, "a healthy modelhost")
        rows = [row.split() for row in node.docker("top", container, "-eo", "pid,stat,comm").splitlines()[1:]]
        assert [row for row in rows if row[1].startswith("Z")] == []
        (forkserver,) = [row[0] for row in rows if row[2] == "forkserver"]
        assert node.docker("exec", container, "python3", "-c", _KILL_FORKSERVER) == ""
        assert forkserver
        assert node.docker("wait", container) == "1"


_KILL_FORKSERVER = """
import os, pathlib
for path in pathlib.Path('/proc').glob('[0-9]*/comm'):
    if path.read_text().strip() == 'forkserver':
        os.kill(int(path.parent.name), 9)
"""


def test_d02_a_modelhost_that_cannot_run_models_ends(lab: Lab) -> None:
    """Its runtime imports, and fails at the first run."""
    build_changed(lab, "modelhost", "broken", CANNOT_RUN)
    with started(lab.first, "mlbuffet/modelhost:broken", *MODELHOST) as container:
        assert lab.first.docker("wait", container) == "1"
        log = lab.first.logs(container)
    assert "no model can be run here" in log


def test_what_an_image_holds(lab: Lab) -> None:
    """Only its own packages: no pip, no tests, and no runtime where none is needed."""
    listing = "import importlib.metadata as m, json; print(json.dumps(sorted(d.name for d in m.distributions())))"
    node = lab.first
    found = {}
    for service in ("inferrer", "modelhost", "trainer"):
        command = ("python3", "-c", listing)
        found[service] = set(json.loads(node.docker("run", "--rm", *HARDENED, f"mlbuffet/{service}:{TAG}", *command)))
    assert "pip" not in found["inferrer"] | found["modelhost"] | found["trainer"]
    assert not {"docker", "requests"} & (found["inferrer"] | found["modelhost"])
    assert not {"onnxruntime", "numpy", "grpcio", "gunicorn"} & found["trainer"]
    assert not {"onnxruntime", "numpy", "pillow"} & found["inferrer"]
    assert not {"grpcio", "gunicorn"} & found["modelhost"]
