"""When a service is what it is to be, when it never will be, and what is said of it."""

from dataclasses import replace
from typing import Any

import pytest

from mlbuffet.deploying.preparation import network_fault
from mlbuffet.deploying.progress import Service, State, api_version, asks_to_detach, describe_failures, judge

SERVICE = Service("mlbuffet_inferrer", tag="2", previous="1", replicas=2, update="", secrets=(), environment={})


def task(
    tag: str = "2", desired: str = "Running", current: str = "Running 3 seconds ago", error: str = ""
) -> dict[str, Any]:
    return {
        "Name": "mlbuffet_inferrer.1",
        "Node": "here",
        "Image": f"mlbuffet/inferrer:{tag}",
        "DesiredState": desired,
        "CurrentState": current,
        "Error": error,
    }


OLD = task("1", "Shutdown", "Shutdown 2 seconds ago")


def test_a_service_is_read_from_what_the_engine_tells() -> None:
    container = {"Image": "mlbuffet/inferrer:2", "Secrets": [{"SecretName": "mlbuffet_ca"}]}
    told: dict[str, Any] = {
        "Spec": {
            "Name": "mlbuffet_inferrer",
            "Labels": {"mlbuffet.previous": "1"},
            "TaskTemplate": {"ContainerSpec": container},
            "Mode": {"Replicated": {"Replicas": 2}},
        },
        "UpdateStatus": {"State": "completed"},
    }
    assert Service.read(told) == replace(SERVICE, update="completed", secrets=("mlbuffet_ca",))
    told["Spec"]["Mode"] = {"Global": {}}
    assert Service.read(told).replicas is None


@pytest.mark.parametrize(
    ("update", "tasks", "state"),
    [
        ("", [task(), task(), OLD], State.SETTLED),
        ("completed", [task(), task()], State.SETTLED),
        ("", [task()], State.WAITING),
        ("", [task(), task(current="Starting 1 second ago")], State.WAITING),
        ("", [task(), task("1")], State.WAITING),
        ("", [task(), task(), task(desired="Ready", current="Ready")], State.WAITING),
        ("updating", [task(), task()], State.WAITING),
        ("rollback_started", [task(), task()], State.WAITING),
        ("rollback_completed", [task(), task()], State.FAILED),
        ("rollback_paused", [task(), task()], State.FAILED),
        ("paused", [task(), task()], State.FAILED),
    ],
)
def test_it_is_waited_for_until_it_is_there_or_never_will_be(
    update: str, tasks: list[dict[str, Any]], state: State
) -> None:
    assert judge(replace(SERVICE, update=update), tasks, updating=False) is state


def test_tasks_that_are_to_be_replaced_are_those_of_before_until_the_engine_says_so() -> None:
    assert judge(SERVICE, [task(), task()], updating=True) is State.WAITING
    assert judge(replace(SERVICE, update="completed"), [task(), task()], updating=True) is State.SETTLED


def test_one_on_each_node_is_as_many_as_there_are_nodes_that_suit() -> None:
    everywhere = replace(SERVICE, replicas=None)
    assert judge(everywhere, [], updating=True) is State.SETTLED
    assert judge(everywhere, [task(), task(current="Preparing")], updating=False) is State.WAITING
    assert judge(everywhere, [task(), task(), task()], updating=False) is State.SETTLED


def test_what_failed_is_said_in_the_engines_words() -> None:
    failed = task(error="No such image: mlbuffet/inferrer:2", current="Rejected")
    assert describe_failures([task(), failed]) == ["mlbuffet_inferrer.1 on here: No such image: mlbuffet/inferrer:2"]
    assert len(describe_failures([failed] * 100)) == 5


@pytest.mark.parametrize(
    ("client", "server", "pinned"),
    [("1.50", "1.41", "1.41"), ("1.41", "1.41", ""), ("1.9", "1.41", ""), ("1.41", "1.50", ""), ("1.50", "", "")],
)
def test_the_older_version_of_the_api_is_spoken(client: str, server: str, pinned: str) -> None:
    told = {"Client": {"ApiVersion": "1.41", "DefaultAPIVersion": client}, "Server": {"ApiVersion": server}}
    assert api_version(told) == pinned
    assert asks_to_detach(told) is (client == "1.50")


GOOD: dict[str, Any] = {
    "Driver": "overlay",
    "IPAM": {"Config": [{"Subnet": "10.0.13.0/24"}]},
    "Options": {"encrypted": ""},
}


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        (GOOD, ""),
        (GOOD | {"Driver": "bridge"}, "overlay"),
        (GOOD | {"IPAM": {"Config": [{"Subnet": "10.0.1.0/24"}]}}, "subnet"),
        (GOOD | {"IPAM": None}, "subnet"),
        (GOOD | {"Options": None}, "encrypted"),
    ],
)
def test_another_network_of_the_name_is_refused(network: dict[str, Any], fault: str) -> None:
    found = network_fault(network, encrypted=True)
    assert fault in found
    assert bool(found) is bool(fault)
