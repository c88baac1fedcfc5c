"""Updates, scaling and losses under load from clients that keep their connections and never try again."""

import json
import os

import pytest
import requests

from tests.harness.platform import wait_until
from tests.harness.stack import Stack
from tests.harness.steady_load import Order, SteadyLoad
from tests.harness.swarm import CANNOT_RUN, TAG, Lab, build_broken

RATE = 1500.0
LEAST = 1_000_000 if os.environ.get("MLBUFFET_SOAK") == "1" else 100_000
UPDATED = ("inferrer", "modelhost", "mirror")
IRIS = json.dumps({"values": [2, 5, 1, 4]})


def load(stack: Stack, least: int = 0) -> SteadyLoad:
    """Predictions through the edge's port 80."""
    headers = tuple(f"{name}: {value}" for name, value in stack.headers.items())
    host = stack.lab.first.address
    return SteadyLoad(Order(host, 80, "/api/v1/models/iris.onnx/prediction", IRIS, RATE, headers, least=least))


def tag_anew(lab: Lab, tag: str, **instead: str) -> None:
    """Give the services' images another tag on the nodes that need them; `instead` names other images for some."""
    for node, services in ((lab.first, ("inferrer", "modelhost", "metrics")), (lab.second, ("modelhost",))):
        for service in services:
            node.docker("tag", instead.get(service, f"mlbuffet/{service}:{TAG}"), f"mlbuffet/{service}:{tag}")


def wait_for_updates(stack: Stack, state: str) -> None:
    """Wait until the update of every service has come to this end."""

    def states() -> set[str]:
        found = stack.lab.first.inspect(*(f"mlbuffet_{name}" for name in UPDATED))
        return {service.get("UpdateStatus", {}).get("State", "") for service in found}

    wait_until(lambda: states() == {state}, 300, f"the updates being {state}")


def whole(stack: Stack) -> None:
    """Wait until all three modelhosts answer, of which one is on the second node."""
    wait_until(lambda: len(stack.modelhosts()) == 3, 90, "three modelhosts")


def test_d01_every_service_but_the_edge_is_updated_without_one_failed_request(stack: Stack) -> None:
    whole(stack)
    tag_anew(stack.lab, "next")
    with load(stack, LEAST) as running:
        stack.lab.deploy("up", "--tag", "next")
        wait_for_updates(stack, "completed")
    print(f"rolling update: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    whole(stack)


def test_d02_an_update_to_images_that_do_not_work_rolls_back_without_one_failed_request(stack: Stack) -> None:
    """A modelhost that cannot run models, and an inferrer that ends after 20 s."""
    lab = stack.lab
    build_broken(lab, "modelhost", f"RUN {CANNOT_RUN}")
    build_broken(lab, "inferrer", 'CMD ["timeout", "20", "python3", "-m", "inferrer"]')
    lab.copy_image("mlbuffet/modelhost:broken")
    tag_anew(lab, "worse", modelhost="mlbuffet/modelhost:broken", inferrer="mlbuffet/inferrer:broken")
    with load(stack) as running:
        with pytest.raises(AssertionError, match="rollback completed"):
            stack.lab.deploy("up", "--tag", "worse")
        wait_for_updates(stack, "rollback_completed")
    print(f"update that rolls back: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    for service in UPDATED:
        image = lab.first.inspect(f"mlbuffet_{service}")[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        assert ":worse" not in image
    whole(stack)


def test_scaling_to_1_5_and_2_fails_no_request(stack: Stack) -> None:
    first = stack.lab.first

    def runs(count: int) -> bool:
        return all(len(first.containers(service)) == count for service in ("inferrer", "modelhost"))

    with load(stack) as running:
        for count in (1, 5, 2):
            first.docker("service", "scale", "--detach", f"mlbuffet_inferrer={count}", f"mlbuffet_modelhost={count}")
            wait_until(lambda count=count: runs(count), 90, f"{count} tasks of each")  # type: ignore[misc]
    print(f"scaling to 1, 5 and 2: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    whole(stack)


def test_draining_the_second_node_fails_no_request(stack: Stack) -> None:
    lab = stack.lab
    whole(stack)
    name = lab.second.docker("info", "--format={{.Swarm.NodeID}}")
    with load(stack) as running:
        lab.first.docker("node", "update", "--availability=drain", name)
        wait_until(lambda: not lab.second.containers(), 60, "an empty second node")
        lab.first.docker("node", "update", "--availability=active", name)
        whole(stack)
    print(f"second node drained and back: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}


def test_the_second_node_may_lose_its_power(stack: Stack) -> None:
    lab = stack.lab

    def first_alone() -> bool:
        try:
            return len(stack.modelhosts()) == 2
        except requests.Timeout:  # as a question may that is sent while the node is being lost
            return False

    whole(stack)
    before = requests.get(f"{stack.url}/api/v1/models", headers=stack.headers, timeout=10).json()["model_list"]
    try:
        with load(stack) as running:
            lab.link("down")
            lab.second.kill()
            wait_until(first_alone, 30, "the first node's modelhosts alone")
    finally:
        lab.link("up")
        lab.second.start()
    print(f"second node lost: {running.result}; failing for {running.result.failing_s:.1f} s")  # noqa: T201 - a figure
    assert running.result.failing_s <= 10
    whole(stack)
    assert before == requests.get(f"{stack.url}/api/v1/models", headers=stack.headers, timeout=10).json()["model_list"]


def test_replacing_the_edge_is_a_gap_of_seconds(stack: Stack) -> None:
    first = stack.lab.first
    (before,) = first.containers("edge")
    with load(stack) as running:
        first.docker("service", "update", "--detach", "--force", "mlbuffet_edge")
        wait_until(lambda: before not in (now := first.containers("edge")) and now, 60, "another edge")
        wait_until(lambda: stack.is_healthy(first.containers("edge")), 30, "a healthy edge")
    print(f"edge replaced: {running.result}; failing for {running.result.failing_s:.1f} s")  # noqa: T201 - a figure
    assert running.result.failing_s <= 15
