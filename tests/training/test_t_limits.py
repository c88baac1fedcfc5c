"""Scripts that want more than they may have (ACCEPTANCE T02 to T07), all on one engine, several at once.

What is looked at is the machine: whatever a script did, nothing of it is left.
"""

import os
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.harness.platform import wait_until
from tests.training.asking import Asking
from tests.training.conftest import Trainer
from tests.training.host import containers_of, free_bytes, left_of, processes_of, resident_bytes
from trainer import spec
from trainer.output import printed

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
TIMEOUT_S = 60 if SOAK else 3
FULL = b"import os; open('big', 'wb').write(bytes(10**8))"
START_S = 2 if SOAK else 15  # a machine of a CI has other things to do, four hostile runs among them
MB = 1 << 20


@dataclass
class Sent:
    """Runs that were sent at once, by name, with the containers that they had."""

    asking: Asking
    runs: dict[str, str]
    containers: dict[str, list[str]]
    free_before: int

    def ended(self, name: str) -> dict[str, Any]:
        """What became of one."""
        return self.asking.ended(self.runs[name], 60 + 4 * TIMEOUT_S)

    def printed(self, name: str) -> list[dict[str, Any]]:
        """What it found out."""
        return self.asking.findings(self.runs[name])


@pytest.fixture(scope="module")
def sent(trainer: Trainer) -> Sent:
    """All of them, sent at once; so each has three others beside it that are as bad."""
    asking, node = trainer.asking, trainer.node
    free = free_bytes(node)
    wanted: dict[str, dict[str, Any]] = {
        "spin": {"script": "spin.py", "timeout_s": TIMEOUT_S},
        "immortal": {"script": "immortal.py", "timeout_s": TIMEOUT_S},
        "leaver": {"script": "immortal.py", "timeout_s": 60, "parameters": {"leave": True}},
        "hog": {"script": "hog.py", "timeout_s": 60, "memory_bytes": 128 * MB},
        "bomb": {"script": "many.py", "kind": "bomb", "timeout_s": TIMEOUT_S + 5},
        "threads": {"script": "many.py", "kind": "threads", "timeout_s": 30},
        "fill": {"script": "fill.py", "timeout_s": 60, "memory_bytes": 512 * MB},
        "full": {"script": FULL, "timeout_s": 60},
    }
    runs = {name: asking.submit(model=f"{name}.onnx", **fields) for name, fields in wanted.items()}
    found: dict[str, list[str]] = {}
    for name, run_id in runs.items():
        asking.training(run_id)
        found[name] = containers_of(node, run_id)
    return Sent(asking, runs, found, free)


def seconds(run: dict[str, Any]) -> float:
    """How long the script ran."""
    return (datetime.fromisoformat(run["ended"]) - datetime.fromisoformat(run["training_started"])).total_seconds()


@pytest.mark.parametrize("name", ["spin", "immortal"])
def test_t02_t03_a_script_that_does_not_end_is_ended(sent: Sent, name: str) -> None:
    run = sent.ended(name)
    assert (run["state"], run["reason"]) == ("FAILED", "TIMED_OUT")
    assert TIMEOUT_S <= seconds(run) < TIMEOUT_S + (10 if SOAK else 25)


def test_t03_what_a_script_leaves_behind_ends_with_it(sent: Sent) -> None:
    run = sent.ended("leaver")
    assert (run["state"], run["reason"]) == ("FAILED", "NO_MODEL"), "it ended well, and had made nothing"


def test_t04_memory_is_taken_from_nobody_else(sent: Sent) -> None:
    run = sent.ended("hog")
    assert (run["state"], run["reason"]) == ("FAILED", "OOM_KILLED")
    assert run["resources"]["max_memory_bytes"] <= 128 * MB


def test_t05_processes_are_counted(sent: Sent, trainer: Trainer) -> None:
    began = time.monotonic()
    trainer.node.docker("run", "--rm", "--network=none", trainer.image, "python3", "-c", "")
    assert time.monotonic() - began < START_S, "others start as ever"
    for name in ("bomb", "threads"):
        assert sent.ended(name)["state"] == "FAILED"
        (said,) = sent.printed(name)
        assert 10 < said["started"] < trainer.pids
        assert "esource temporarily unavailable" in said["outcome"] or "start new thread" in said["outcome"]
    assert sent.ended("bomb")["reason"] in {"PIDS_LIMIT", "TIMED_OUT"}


def test_t06_a_script_that_fills_its_disk_is_told_so(sent: Sent) -> None:
    run = sent.ended("full")
    assert (run["state"], run["reason"], run["exit_code"]) == ("FAILED", "DISK_LIMIT", 1)
    assert not run["retryable"]


def test_t06_disks_are_full_before_the_machines_is(sent: Sent, trainer: Trainer) -> None:
    run = sent.ended("fill")
    assert run["state"] == "FAILED"
    for found in sent.printed("fill"):
        refused = {"/tmp", "/work", "/dev/shm"}  # noqa: S108 - in the container
        if found["place"] in refused:
            assert found["outcome"] == "ENOSPC", found
            assert found["number"] <= 256 * MB, found
        else:
            assert (found["number"], found["outcome"]) in {(0, "EROFS"), (0, "EACCES"), (0, "ENOENT")}, found
    assert len(sent.printed("fill")) == 20
    assert sent.free_before - free_bytes(trainer.node) < 1000 * MB


def test_t03_nothing_is_left_of_any(sent: Sent, trainer: Trainer) -> None:
    """Neither a process in a control group of theirs, nor a container or a volume."""
    for name in sent.runs:
        sent.ended(name)
        assert len(sent.containers[name]) >= 1
    everyone = [identity for identities in sent.containers.values() for identity in identities]
    wait_until(lambda: not processes_of(everyone), 30, "the end of all processes")
    for name, run_id in sent.runs.items():
        wait_until(lambda run_id=run_id: not left_of(trainer.node, run_id), 30, name)  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["much", "line"])
def test_t07_a_log_is_cut(trainer: Trainer, kind: str) -> None:
    before = resident_bytes(trainer.pid)
    run_id = trainer.asking.submit(
        "flood.py", kind=kind, parameters={"megabytes": 1000 if SOAK else 100}, timeout_s=300
    )
    most = [before]

    def over() -> bool:
        most.append(resident_bytes(trainer.pid))
        return bool(trainer.asking.show(run_id)["state"] == "FAILED")

    wait_until(over, 300 if SOAK else 60, "the run")
    run = trainer.asking.show(run_id)
    assert run["reason"] == "NO_MODEL", run
    printed = trainer.asking.printed(run_id)
    assert len(printed) <= trainer.log_bytes + 200
    assert printed.endswith(b"bytes\n")
    assert b"cut here" in printed[-200:]
    assert run["resources"]["log_truncated"]
    assert max(most) - before < 16 * MB


def test_t07_an_engine_is_given_no_more_than_is_kept(trainer: Trainer) -> None:
    """Whatever a script prints: so a flood costs the engine nothing. What it is given, it gives back whole."""
    node, name = trainer.node, f"flood-{secrets.token_hex(4)}"
    script = f"import os, sys\nfor _ in range({1000 if SOAK else 200}): os.write(2, bytes(10**6))\nsys.exit(7)"
    options = ["--detach", f"--name={name}", "--network=none", "--log-driver=local", f"--user={spec.USER}"]
    command = ["python3", "-I", "-c", spec.START, "100000", "python3", "-c", script]
    node.docker("run", *options, trainer.image, *command)
    try:
        assert node.docker("wait", name) == "7"
        logged = node.docker("logs", name).encode()
    finally:
        node.docker("rm", "--force", name)
    assert len(logged) < 140_000
    assert b"".join(printed(piece for piece in [logged])) == bytes(100_000)


def test_t07_what_is_printed_is_no_record(trainer: Trainer) -> None:
    run_id = trainer.asking.submit("flood.py", kind="strange")
    trainer.asking.ended(run_id)
    printed = trainer.asking.printed(run_id)
    assert bytes(range(256)) * 64 in printed, "as it is"
    assert b"\x1b[2J" in printed
    assert b"forged" not in trainer.log.read_bytes()
    assert b"\x1b" not in trainer.log.read_bytes()
    shown = trainer.asking.get(f"runs/{run_id}/logs")
    assert shown.headers["content-type"].startswith("text/plain")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert trainer.asking.get(f"runs/{run_id}/metrics").json()["metrics"] == []
