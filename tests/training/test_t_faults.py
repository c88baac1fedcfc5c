"""Engines that are away, silent, stopped or without an image (ACCEPTANCE T16, T17, T22, T23); a killed trainer."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.faults import volume
from tests.harness.platform import wait_until
from tests.harness.swarm import Lab
from tests.training.conftest import MB, Trainer, running_trainer
from tests.training.host import left_of
from tests.training.registry import Large, Refusing, Registry, serving
from tests.training.wire import Wire

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
AWAY_S = 120 if SOAK else 4
MOMENTS = 10 if SOAK else 3
SLOW = b"""
import os, shutil, time
time.sleep(%d)
shutil.copy(os.environ["MLBUFFET_DATASET"], os.environ["MLBUFFET_MODEL_PATH"])
"""


@pytest.fixture(scope="module")
def wire(lab: Lab) -> Iterator[Wire]:
    """What a trainer's connections to its engine go through."""
    with Wire(lab.engines[0].removeprefix("tcp://")) as between:
        yield between


@pytest.fixture(scope="module")
def beside(lab: Lab, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """Another trainer on the same engine, over the wire."""
    with running_trainer(tmp_path_factory.mktemp("beside"), lab.first, f"tcp://{wire.address}=2") as own:
        yield own


@pytest.mark.parametrize("fault", ["silent", "dropping", "refusing", "cut"])
def test_t17_an_engine_that_is_away(beside: Trainer, wire: Wire, fault: str) -> None:
    """New runs are refused at once; one that runs goes on, and ends as if nothing had been."""
    asking = beside.asking
    running = asking.submit(SLOW % 6, model=f"away-{fault}.onnx")
    assert asking.training(running)["phase"] == "TRAINING"
    wire.fault = fault
    wait_until(lambda: beside.metric("trainer_engine_reachable") == 0, 30, "the trainer's knowing")
    ends_at = time.monotonic() + AWAY_S
    while time.monotonic() < ends_at:
        began = time.monotonic()
        refused = asking.send("spin.py")
        assert time.monotonic() - began < 3
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "ENGINE_UNAVAILABLE"
        assert beside.platform.predict("iris.onnx", [2, 5, 1, 4]).json()["values"] == [1]
    wire.fault = ""
    run = asking.ended(running)
    assert (run["state"], run["model_version"]) == ("FINISHED", 1), run
    wait_until(lambda: beside.metric("trainer_engine_reachable") == 1, 30, "the trainer's knowing")
    assert asking.send("spin.py", timeout_s=1).status_code == 202


def test_t16_an_engine_that_is_stopped(trainer: Trainer) -> None:
    """At any moment: each run ends in a right state, is tried once more if asked, and leaves nothing."""
    asking, node = trainer.asking, trainer.node
    for moment in range(MOMENTS):
        names = {retries: f"stopped-{moment}-{retries}.onnx" for retries in (0, 1)}
        sent = {
            retries: asking.submit(SLOW % 2, model=name, retries=retries, requirements=b"")
            for retries, name in names.items()
        }
        if moment:
            asking.training(sent[0])
        time.sleep(0.7 * max(0, moment - 1))  # what is to be hit is a moment
        node.kill()
        node.start()
        ended = {retries: asking.ended(run_id) for retries, run_id in sent.items()}
        assert ended[1]["state"] == "FINISHED", ended[1]
        assert (ended[0]["state"], ended[0]["reason"]) in {("FINISHED", None), ("FAILED", "INTERRUPTED")}, ended[0]
        for retries, run_id in sent.items():
            versions = asking.get(f"models/{names[retries]}").json().get("versions", [])
            assert len(versions) == (ended[retries]["state"] == "FINISHED")
            wait_until(lambda run_id=run_id: not left_of(node, run_id), 60, "nothing of it")  # type: ignore[misc]


def test_a_trainer_that_is_killed(trainer: Trainer) -> None:
    """In each phase: the run ends well, once, and nothing is left."""
    asking = trainer.asking
    sent = {}
    for moment in range(MOMENTS):
        name = f"killed-{moment}.onnx"
        sent[name] = asking.submit(SLOW % 1, model=name)
        if moment:
            asking.training(sent[name])
        time.sleep(0.5 * max(0, moment - 1))  # as above
        trainer.kill()
        trainer.start()
    for name, run_id in sent.items():
        run = asking.ended(run_id)
        assert (run["state"], run["model_version"]) == ("FINISHED", 1), run
        assert len(asking.get(f"models/{name}").json()["versions"]) == 1
        wait_until(lambda run_id=run_id: not left_of(trainer.node, run_id), 30, "nothing of it")  # type: ignore[misc]


def test_t23_an_image_that_cannot_be_had(lab: Lab, tmp_path: Path) -> None:
    image = "nowhere.invalid/none:1"
    with running_trainer(tmp_path, lab.first, lab.engines[0], TRAINER_IMAGE=image) as own:
        run = own.asking.ended(own.asking.submit("spin.py"))
    assert (run["state"], run["reason"]) == ("FAILED", "IMAGE_UNAVAILABLE"), run
    assert run["retryable"]
    assert image in run["message"]


def test_t23_an_image_that_the_registry_denies(lab: Lab, tmp_path: Path) -> None:
    run = run_with(Refusing, lab, tmp_path)
    assert (run["state"], run["reason"], run["retryable"]) == ("FAILED", "IMAGE_UNAVAILABLE", True), run
    assert "denied" in run["message"]


def test_t23_an_image_that_there_is_no_room_for(lab: Lab, tmp_path: Path) -> None:
    """Where the engine keeps what it pulls is a volume that is smaller than the image."""
    with volume(lab.first.folder / "data/tmp", MB):
        run = run_with(Large, lab, tmp_path)
    assert (run["state"], run["reason"], run["retryable"]) == ("FAILED", "IMAGE_UNAVAILABLE", True), run
    assert "no space left on device" in run["message"]


def run_with(registry: type[Registry], lab: Lab, folder: Path) -> dict[str, Any]:
    """What becomes of a run whose image is at this registry."""
    with serving(registry) as image, running_trainer(folder, lab.first, lab.engines[0], TRAINER_IMAGE=image) as own:
        run = own.asking.ended(own.asking.submit("spin.py"))
    assert image in run["message"]
    return run


def test_t22_predictions_do_not_notice(trainer: Trainer) -> None:
    """Beside four scripts at their worst: none fails. How long they take is looked at on the Swarm, with its limits."""
    asking = trainer.asking
    failed: list[Any] = []
    stopped = threading.Event()

    def predict() -> None:
        while not stopped.is_set():
            answered = trainer.platform.predict("iris.onnx", [2, 5, 1, 4])
            if answered.status_code != 200:
                failed.append(answered.text)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        worst: list[tuple[str, dict[str, Any]]] = [
            ("hog.py", {}),
            ("many.py", {"kind": "bomb"}),
            ("fill.py", {}),
            ("flood.py", {"kind": "much", "parameters": {"megabytes": 100}}),
        ]
        runs = [asking.submit(script, timeout_s=5, **fields) for script, fields in worst]
        assert {asking.ended(run_id)["state"] for run_id in runs} == {"FAILED"}
    finally:
        stopped.set()
        thread.join()
    assert not failed
