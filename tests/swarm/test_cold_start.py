"""Row D09: everything starts at once, in whatever order, and what it needs comes late."""

import os
import random
import time
from collections.abc import Iterator

import pytest
import requests

from tests.harness.platform import wait_until
from tests.harness.stack import Stack

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
MODELS, LATE_S = (200, 60.0) if SOAK else (12, 10.0)
COUNTS = {"edge": 1, "metrics": 1, "inferrer": 2, "trainer": 1}
READY_S = 120.0


def is_ready(stack: Stack) -> bool:
    """Ask the edge."""
    try:
        return requests.get(f"{stack.url}/health/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def scale(stack: Stack, counts: dict[str, int]) -> None:
    """Have so many tasks of each."""
    wanted = [f"mlbuffet_{service}={count}" for service, count in counts.items()]
    stack.lab.first.docker("service", "scale", "--detach", *wanted)


def has_mirror(stack: Stack, availability: str) -> None:
    """Let the second node have tasks: `active`; or none: `drain`."""
    name = stack.lab.second.docker("info", "--format={{.Swarm.NodeID}}")
    stack.lab.first.docker("node", "update", f"--availability={availability}", name)


def failed(stack: Stack) -> set[str]:
    """The tasks that have ended by themselves, or were never begun, as far as Swarm remembers."""
    found: set[str] = set()
    for service in (*COUNTS, "modelhost", "mirror"):
        lines = stack.lab.first.docker(
            "service", "ps", "--no-trunc", "--format={{.ID}} {{.CurrentState}}", f"mlbuffet_{service}"
        )
        states = (line.split()[:2] for line in lines.splitlines())
        found |= {task for task, state in states if state in {"Failed", "Rejected", "Complete"}}
    return found


@pytest.fixture
def emptied(stack: Stack) -> Iterator[Stack]:
    """The stack with everything that is to run running before, and after, whatever becomes of the test."""
    stack.whole()
    yield stack
    scale(stack, {**COUNTS, "modelhost": 2})
    has_mirror(stack, "active")
    wait_until(lambda: is_ready(stack), READY_S, "being ready")
    stack.whole()


@pytest.fixture
def models(stack: Stack) -> Iterator[dict[str, float]]:
    """Models that all have to be there again."""
    numbers = {f"cold-{number}": float(number) for number in range(MODELS)}
    for name, number in numbers.items():
        stack.put_constant(name, number)
    yield numbers
    stack.delete(*numbers)


def test_d09_a_cold_start_in_any_order_with_late_modelhosts(models: dict[str, float], emptied: Stack) -> None:
    stack = emptied
    has_mirror(stack, "drain")
    scale(stack, dict.fromkeys([*COUNTS, "modelhost"], 0))
    wait_until(lambda: not any(node.containers() for node in stack.lab.nodes), 90, "nothing running")
    before = failed(stack)
    order = random.sample(list(COUNTS), len(COUNTS))
    for service in order:
        scale(stack, {service: COUNTS[service]})
    late_at = time.monotonic() + LATE_S
    wait_until(lambda: is_ready(stack) or time.monotonic() > late_at, LATE_S + READY_S)
    assert time.monotonic() > late_at, "ready without a modelhost"
    scale(stack, {"modelhost": 2})
    has_mirror(stack, "active")
    wait_until(lambda: is_ready(stack), READY_S, "being ready")
    took_s = time.monotonic() - late_at
    # Whoever is ready has all of them: the very first predictions.
    answered = {name: stack.answers(name, number) for name, number in models.items()}
    print(f"cold start, {MODELS} models, {', '.join(order)}: ready {took_s:.1f} s after modelhosts came")  # noqa: T201
    assert answered == dict.fromkeys(models, True)
    stack.whole()
    assert failed(stack) <= before  # of which Swarm may have forgotten some
