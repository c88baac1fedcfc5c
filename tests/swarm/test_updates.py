"""Updates, scaling and losses under load from clients that keep their connections and never try again."""

import os

import pytest
import requests

from mlbuffet.deploying.names import certificate_names
from tests.harness.platform import wait_until
from tests.harness.stack import Stack
from tests.harness.swarm import CANNOT_RUN, NEWER, TAG, Lab, build_changed

RATE = 1500.0
LEAST_RATE, SHARE = 1000.0, 0.75  # a second; of what is answered when nothing happens, where the machine is too busy
SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
ROUNDS, LEAST = (10, 1_000_000) if SOAK else (1, 100_000)
CALM = 6_000  # requests, for how long answers take when nothing happens
P99_S = 0.5  # two cores start seven services meanwhile
UPDATED = ("inferrer", "modelhost", "mirror")
QUICK = {"UPDATE_DELAY": "8s"}


def tag_anew(lab: Lab, tag: str, **instead: str) -> None:
    """Give the services' images another tag on the nodes that need them; `instead` names other images for some."""
    for node, services in ((lab.first, ("inferrer", "modelhost", "trainer", "metrics")), (lab.second, ("modelhost",))):
        for service in services:
            node.docker("tag", instead.get(service, f"mlbuffet/{service}:{TAG}"), f"mlbuffet/{service}:{tag}")


def wait_for_updates(stack: Stack, state: str) -> None:
    """Wait until the update of every service has come to this end."""

    def states() -> set[str]:
        return {stack.service(name).get("UpdateStatus", {}).get("State", "") for name in UPDATED}

    wait_until(lambda: states() == {state}, 300, f"the updates being {state}")


def make_newer(lab: Lab) -> None:
    """Version N + 1 on the nodes that need it: another label, and manifests with more in them."""
    for service in ("inferrer", "modelhost"):
        build_changed(lab, service, "newer", "LABEL org.opencontainers.image.version=9.9.9", NEWER)
    lab.copy_image("mlbuffet/modelhost:newer")
    for service in ("metrics", "trainer"):
        lab.first.docker("tag", f"mlbuffet/{service}:{TAG}", f"mlbuffet/{service}:newer")


def versions(stack: Stack) -> set[str]:
    """What the labels of the running inferrers and modelhosts say."""
    known = [
        container
        for node in stack.lab.nodes
        for service in UPDATED
        for container in node.inspect(*node.containers(service))
    ]
    assert len(known) == 5
    return {container["Config"]["Labels"]["org.opencontainers.image.version"] for container in known}


def manifest(stack: Stack, name: str, version: int) -> str:
    """A manifest as it lies in the repository."""
    container = stack.lab.first.containers("inferrer")[0]
    return stack.lab.first.docker("exec", container, "cat", f"/repository/{name}/{version}/manifest.json")


def there_and_back(stack: Stack, own: set[str], number: int) -> None:
    """N + 1 and N again, with models uploaded at each step, all of which are served at each."""
    old, new, again = (f"{word}-{number}" for word in ("old", "new", "again"))
    stack.put_constant(old, 1)
    stack.lab.deploy("up", "--tag", "newer")
    wait_for_updates(stack, "completed")
    assert versions(stack) == {"9.9.9"} != own
    assert stack.answers(old, 1)
    stack.put_constant(new, 2)
    stack.put_constant(old, 3)
    stack.post(new, {"model_description": "of the newer one"}).raise_for_status()
    stack.lab.deploy("up", **QUICK)
    wait_for_updates(stack, "completed")
    assert versions(stack) == own
    stack.put_constant(again, 4)
    assert all(stack.answers(name, value) for name, value in ((old, 3), (f"{old}:1", 1), (new, 2), (again, 4)))
    stack.post(new, {"model_description": "by the older one again"}).raise_for_status()
    text = manifest(stack, new, 1)
    assert all(word in text for word in ('"team"', '"burst"', "by the older one again"))
    assert '"burst"' not in manifest(stack, again, 1)
    stack.delete(old, new, again)


def test_d01_d03_every_service_goes_to_another_version_and_back_without_one_failed_request(stack: Stack) -> None:
    """N, N + 1, which has more in its manifests, and N again. Not the edge."""
    stack.whole()
    make_newer(stack.lab)
    with stack.load(RATE, CALM) as before:
        own = versions(stack)
    with stack.load(RATE, LEAST) as running:
        for number in range(ROUNDS):
            there_and_back(stack, own, number)
    print(f"before: {before.result}")  # noqa: T201 - a figure
    print(f"rolling update, there and back: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    assert running.result.rate >= min(LEAST_RATE, SHARE * before.result.rate)
    assert running.result.p99_s <= max(2 * before.result.p99_s, P99_S)
    stack.whole()


def test_certificates_are_renewed_without_one_failed_request(stack: Stack) -> None:
    """Between the services, as an operator does it."""
    with stack.load(RATE) as running:
        stack.lab.deploy("certificates", "renew")
    print(f"certificates renewed: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    wait_for_updates(stack, "completed")
    present = set(stack.lab.first.docker("secret", "ls", "--format={{.Name}}").split())
    assert present >= set(certificate_names(2))
    assert not present & set(certificate_names(1))
    stack.whole()


def test_d02_an_update_to_images_that_do_not_work_rolls_back_without_one_failed_request(stack: Stack) -> None:
    """A modelhost that cannot run models, and an inferrer that ends after 20 s; what serves meanwhile is left alone."""
    lab = stack.lab
    mirror = lab.second.containers("mirror")
    build_changed(lab, "modelhost", "broken", CANNOT_RUN)
    build_changed(lab, "inferrer", "broken", 'CMD ["timeout", "20", "python3", "-m", "inferrer"]')
    lab.copy_image("mlbuffet/modelhost:broken")
    tag_anew(lab, "worse", modelhost="mlbuffet/modelhost:broken", inferrer="mlbuffet/inferrer:broken")
    with stack.load(RATE) as running:
        with pytest.raises(AssertionError, match="rollback completed"):
            stack.lab.deploy("up", "--tag", "worse")
        wait_for_updates(stack, "rollback_completed")
    print(f"update that rolls back: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    for service in UPDATED:
        assert ":worse" not in stack.service(service)["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    assert lab.second.containers("mirror") == mirror
    stack.whole()


def test_scaling_to_1_5_and_2_fails_no_request(stack: Stack) -> None:
    first = stack.lab.first

    def runs(count: int) -> bool:
        return all(len(first.containers(service)) == count for service in ("inferrer", "modelhost"))

    with stack.load(RATE) as running:
        for count in (1, 5, 2):
            first.docker("service", "scale", "--detach", f"mlbuffet_inferrer={count}", f"mlbuffet_modelhost={count}")
            wait_until(lambda count=count: runs(count), 90, f"{count} tasks of each")  # type: ignore[misc]
    print(f"scaling to 1, 5 and 2: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    stack.whole()


def test_draining_the_second_node_fails_no_request(stack: Stack) -> None:
    lab = stack.lab
    stack.whole()
    name = lab.second.docker("info", "--format={{.Swarm.NodeID}}")
    with stack.load(RATE) as running:
        lab.first.docker("node", "update", "--availability=drain", name)
        wait_until(lambda: not lab.second.containers(), 60, "an empty second node")
        lab.first.docker("node", "update", "--availability=active", name)
        stack.whole()
    print(f"second node drained and back: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}


def test_the_second_node_may_lose_its_power(stack: Stack) -> None:
    lab = stack.lab

    def first_alone() -> bool:
        try:
            return len(stack.modelhosts()) == 2
        except requests.Timeout:  # as a question may that is sent while the node is being lost
            return False

    stack.whole()
    before = stack.names()
    try:
        with stack.load(RATE) as running:
            lab.link("down")
            lab.second.kill()
            wait_until(first_alone, 30, "the first node's modelhosts alone")
    finally:
        lab.link("up")
        lab.second.start()
    print(f"second node lost: {running.result}; failing for {running.result.failing_s:.1f} s")  # noqa: T201 - a figure
    assert running.result.failing_s <= 10
    stack.whole()
    assert before == stack.names()


def test_replacing_the_edge_is_a_gap_of_seconds(stack: Stack) -> None:
    first = stack.lab.first
    (before,) = first.containers("edge")
    with stack.load(RATE) as running:
        first.docker("service", "update", "--detach", "--force", "mlbuffet_edge")
        wait_until(lambda: before not in (now := first.containers("edge")) and now, 60, "another edge")
        wait_until(lambda: stack.is_healthy(first.containers("edge")), 30, "a healthy edge")
    print(f"edge replaced: {running.result}; failing for {running.result.failing_s:.1f} s")  # noqa: T201 - a figure
    assert running.result.failing_s <= 15
