"""Updates, scaling and losses under load from clients that keep their connections and never try again."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.harness.platform import SAMPLES, wait_until
from tests.harness.stack import Stack
from tests.harness.steady_load import Order, SteadyLoad
from tests.harness.swarm import TAG, Lab

RATE = 1500.0
IRIS = json.dumps({"values": [2, 5, 1, 4]})


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """The stack, with the sample model of irises."""
    with Stack(lab) as deployed:
        deployed.put("iris.onnx", (SAMPLES / "iris.onnx/1/model.onnx").read_bytes()).raise_for_status()
        yield deployed


def load(stack: Stack, rate: float = RATE) -> SteadyLoad:
    """Predictions through the edge's port 80."""
    headers = tuple(f"{name}: {value}" for name, value in stack.headers.items())
    host = stack.lab.first.address
    return SteadyLoad(Order(host, 80, "/api/v1/models/iris.onnx/prediction", IRIS, rate, headers))


def tag_anew(lab: Lab, tag: str, **bases: str) -> None:
    """Give the services' images another tag, on both nodes; `bases` are other images to take for some of them."""
    for node in lab.nodes:
        for service in ("inferrer", "modelhost", "metrics") if node is lab.first else ("modelhost",):
            node.docker("tag", bases.get(service, f"mlbuffet/{service}:{TAG}"), f"mlbuffet/{service}:{tag}")


def update_states(stack: Stack) -> dict[str, str]:
    names = [f"mlbuffet_{name}" for name in ("inferrer", "modelhost", "mirror")]
    return {
        found["Spec"]["Name"]: found.get("UpdateStatus", {}).get("State", "")
        for found in stack.lab.first.inspect(*names)
    }


def test_d01_every_service_but_the_edge_is_updated_without_one_failed_request(stack: Stack) -> None:
    tag_anew(stack.lab, "next")
    began = time.monotonic()
    with load(stack) as running:
        stack.deploy(MLBUFFET_TAG="next")
        wait_until(lambda: set(update_states(stack).values()) == {"completed"}, 150, "the update")
        # At least a hundred thousand, and some after the last change.
        time.sleep(max(100_000 / RATE + 2 - (time.monotonic() - began), 1))
    print(f"rolling update: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
    assert running.result.answered >= 100_000


def test_scaling_to_5_and_back_to_2_fails_no_request(stack: Stack) -> None:
    first = stack.lab.first

    def runs(count: int) -> bool:
        return all(len(first.containers(service)) == count for service in ("inferrer", "modelhost"))

    with load(stack) as running:
        for count in (1, 5, 2):
            first.docker("service", "scale", "--detach", f"mlbuffet_inferrer={count}", f"mlbuffet_modelhost={count}")
            wait_until(lambda count=count: runs(count), 60, f"{count} tasks of each")  # type: ignore[misc]
    print(f"2 to 1, 5 and 2: {running.result}")  # noqa: T201 - a figure
    assert running.result.failures == {}
