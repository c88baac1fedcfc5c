"""Runs as people send them (ACCEPTANCE T01, T19 to T21): from a script to predictions, and all that can be asked."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from tests.harness.platform import SAMPLES, wait_until
from tests.harness.swarm import Lab
from tests.training.asking import Asking
from tests.training.conftest import Trainer, running_trainer
from tests.training.host import left_of

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
WAITS = b"""
import time
for number in range(1000):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""
COPIES = b"""
import os, shutil
shutil.copy(os.environ["MLBUFFET_DATASET"], os.environ["MLBUFFET_MODEL_PATH"])
"""
MEASURES = (
    COPIES
    + b"""
for step, loss in ((1, 0.5), (2, 0.25)):
    print(f"mlbuffet: metric loss={loss} step={step}")
with open(os.environ["MLBUFFET_METRICS_PATH"], "w") as file:
    file.write('{"name": "rmse", "value": 3}')
"""
)
SECOND_S = 3
BUSY = 5  # how many times as slow a machine may be that does other things meanwhile


def _seconds(run: dict[str, Any], began: str, ended: str) -> float:
    return (datetime.fromisoformat(run[ended]) - datetime.fromisoformat(run[began])).total_seconds()


def test_t01_from_a_script_to_a_prediction(trainer: Trainer) -> None:
    """The README's script, with packages from the index; a second time they are there already."""
    asking = trainer.asking
    sample = SAMPLES / "training"
    files = {"requirements": (sample / "requirements.txt").read_bytes(), "dataset": (sample / "wine.csv").read_bytes()}
    script = (sample / "train.py").read_bytes()
    wishes: list[dict[str, Any]] = [{}, {"description": "Which cultivar", "memory_bytes": 1 << 29}]
    first, second = (
        asking.ended(asking.submit(script, model="cultivar.onnx", parameters={"iterations": 300}, **files, **wish), 600)
        for wish in wishes
    )
    assert first["state"] == "FINISHED", trainer.asking.printed(first["run_id"]).decode()
    assert (second["state"], second["model_version"]) == ("FINISHED", 1), "the same bytes are the same version"
    assert _seconds(second, "created", "training_started") < SECOND_S * BUSY
    measured = [14.2, 1.7, 2.4, 15.6, 127, 2.8, 3.1, 0.28, 2.3, 5.6, 1.0, 3.9, 1065]
    assert trainer.platform.predict("cultivar.onnx", measured).json()["values"] == [0]
    (accuracy,) = asking.get(f"runs/{first['run_id']}/metrics").json()["metrics"]
    assert (accuracy["name"], accuracy["value"] > 0.95) == ("accuracy", True)
    assert first["resources"]["cpu_s"] > 0
    assert first["image_digest"].startswith("sha256:")
    wait_until(lambda: not left_of(trainer.node, second["run_id"]), 30, "nothing of it")


def test_metrics_are_printed_or_written(trainer: Trainer) -> None:
    asking = trainer.asking
    run_id = asking.submit(MEASURES, model="measured.onnx")
    assert asking.ended(run_id)["state"] == "FINISHED"
    assert asking.get(f"runs/{run_id}/metrics").json()["metrics"] == [
        {"name": "loss", "value": 0.5, "step": 1},
        {"name": "loss", "value": 0.25, "step": 2},
        {"name": "rmse", "value": 3.0, "step": None},
    ]


def _events(asking: Asking, run_id: str, last: int = 0) -> Iterator[tuple[str, int, Any]]:
    """What a follower is told: kind, id and data of each event."""
    headers = {"Last-Event-ID": str(last)}
    url = f"{asking.url}/api/v1/runs/{run_id}/logs?follow=1"
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind, place = "message", last
        for line in answer.iter_lines():
            name, _, value = line.decode().partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                place = int(value)
            elif name == "data":
                yield kind, place, json.loads(value)
                kind = "message"


def test_a_log_is_followed_and_taken_up_again(trainer: Trainer) -> None:
    asking = trainer.asking
    run_id = asking.submit(b"import time\nfor n in range(30): print('line', n, flush=True); time.sleep(0.05)")
    told, place = "", 0
    for kind, place, data in _events(asking, run_id):  # noqa: B007 - the last place counts
        assert kind == "message"
        told += data
        if "line 5\n" in told:
            break
    rest = list(_events(asking, run_id, place))
    told += "".join(data for kind, _, data in rest if kind == "message")
    assert told.encode() == asking.printed(run_id)
    assert [told.count(f"line {number}\n") for number in range(30)] == [1] * 30
    assert (rest[-1][0], rest[-1][2]["reason"]) == ("end", "NO_MODEL")
    tail = asking.get(f"runs/{run_id}/logs?offset={len(told) - 8}")
    assert (tail.content, tail.headers["x-log-size"]) == (b"line 29\n", str(len(told)))
    assert asking.get(f"runs/{run_id}/logs?offset={len(told) + 1}").status_code == 400


def _post(asking: Asking, path: str, **headers: str) -> requests.Response:
    return requests.post(f"{asking.url}/api/v1/{path}", headers=headers, timeout=60)


def test_t20_cancel_retry_and_delete(trainer: Trainer) -> None:
    asking = trainer.asking
    run_id = asking.submit(WAITS, model="cancelled.onnx")
    asking.training(run_id)
    wait_until(lambda: b"tick 1\n" in asking.printed(run_id), 30, "its output")
    assert requests.delete(f"{asking.url}/api/v1/runs/{run_id}", timeout=60).status_code == 409
    assert _post(asking, f"runs/{run_id}/retry").json()["error"]["code"] == "RUN_ACTIVE"
    for _ in range(2):
        assert _post(asking, f"runs/{run_id}/cancel").status_code == 200
    assert (asking.ended(run_id)["state"], asking.show(run_id)["reason"]) == ("KILLED", "CANCELLED")
    wait_until(lambda: not left_of(trainer.node, run_id), 30, "nothing of it")
    assert _post(asking, f"runs/{run_id}/cancel").status_code == 200
    again = _post(asking, f"runs/{run_id}/retry")
    assert again.status_code == 202
    assert (again.json()["retry_of"], again.json()["inputs"]) == (run_id, asking.show(run_id)["inputs"])
    assert _post(asking, f"runs/{again.json()['run_id']}/cancel").status_code == 200
    asking.ended(again.json()["run_id"])
    assert requests.delete(f"{asking.url}/api/v1/runs/{run_id}", timeout=60).json()["deleted"] == run_id
    assert asking.get(f"runs/{run_id}").json()["error"]["code"] == "RUN_NOT_FOUND"
    good = asking.submit(COPIES, model="good.onnx")
    assert asking.ended(good)["state"] == "FINISHED"
    assert _post(asking, f"runs/{good}/cancel").json()["error"]["code"] == "RUN_ENDED"


def test_t21_scripts_that_are_none(trainer: Trainer) -> None:
    asking = trainer.asking
    odd = {b"": "NO_MODEL", b"\xff\xfe": "SCRIPT_FAILED", b"#!/bin/sh\r\nprint(1)\r\n": "NO_MODEL"}
    sent = {
        asking.submit(script, model=f"odd{number}.onnx"): reason for number, (script, reason) in enumerate(odd.items())
    }
    for run_id, reason in sent.items():
        assert asking.ended(run_id)["reason"] == reason
    files = [("script", ("../../x.py", b"")), ("requirements", ("r", b"")), ("dataset", ("d", b""))]
    refused = requests.post(f"{asking.url}/api/v1/train/odd.onnx", files=files, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "BAD_MULTIPART")
    assert asking.send(bytes(2 << 20)).status_code == 413


def test_t19_many_at_once_begin_in_order(trainer: Trainer) -> None:
    """200 on two slots; without a soak most are called off when the first have shown the order."""
    asking = trainer.asking
    sent = [asking.submit(COPIES, model=f"many{number % 10}.onnx") for number in range(200)]
    assert sent == sorted(sent)
    looked_at = sent if SOAK else sent[:8]
    for run_id in looked_at:
        assert asking.ended(run_id, 900)["state"] == "FINISHED"
    for run_id in sent[len(looked_at) :]:
        _post(asking, f"runs/{run_id}/cancel")
    ended = [asking.ended(run_id) for run_id in sent]
    assert {run["state"] for run in ended} <= {"FINISHED", "KILLED"}
    began = [run["started"] for run in ended if run["started"]]
    assert began == sorted(began)
    listed = asking.get("runs?limit=3").json()
    assert [run["run_id"] for run in listed["runs"]] == sent[:-4:-1]
    assert asking.get(f"runs?limit=1&after={listed['next']}").json()["runs"][0]["run_id"] == sent[-4]


def test_runs_are_shared_among_engines(lab: Lab, tmp_path: Path) -> None:
    """One slot on each of both nodes: two runs at once, each somewhere else, and a third one after them."""
    first, second = lab.engines
    with running_trainer(tmp_path, lab.first, f"{first}=1,{second}=1") as trainer:
        asking = trainer.asking
        metrics = f"http://127.0.0.1:{trainer.port}/metrics"
        reached = {f'trainer_engine_reachable{{engine="{engine}"}} 1.0' for engine in lab.engines}
        wait_until(lambda: reached <= set(requests.get(metrics, timeout=10).text.splitlines()), 60, "both engines")
        sent = [asking.submit(WAITS) for _ in range(2)]
        third = asking.submit(COPIES, model="third.onnx")
        assert {asking.training(run_id)["engine"] for run_id in sent} == {first, second}
        assert asking.show(third)["state"] == "SCHEDULED"
        for run_id in sent:
            assert _post(asking, f"runs/{run_id}/cancel").status_code == 200
        assert asking.ended(third)["state"] == "FINISHED"
        for run_id in sent:
            assert asking.ended(run_id)["state"] == "KILLED"
        wait_until(
            lambda: not any(left_of(node, run_id) for node in lab.nodes for run_id in sent), 60, "nothing of them"
        )
