"""Training by `mlbuffet up` without an engine: the routes, the client and the command line, with a real trainer."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from inferrer.openapi.training import TRAINING
from mlbuffet import Client, errors
from mlbuffet.answers import Run
from tests.harness.described import Document
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, free_port, wait_until
from tests.process.test_up import Up, running_up

COPY = """
import os, shutil, sys
print("arguments", sys.argv[1:], "größer\\t\\x1b[2J")
print("mlbuffet: metric loss=0.25 step=1")
shutil.copyfile("model.onnx", os.environ["MLBUFFET_MODEL_PATH"])
"""
FAIL = "import sys; print('about to fail'); sys.exit(3)"
WAIT = "import time; print('waiting', flush=True); time.sleep(600)"
NO_RUN = "20200101t000000-00000000"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    options = ("--modelhosts", 1, "--workers", 1, "--allow-unisolated-training", "--runs", "kept")
    with running_up(tmp_path_factory.mktemp("training"), *options) as running:
        wait_until(lambda: "trainer started" in running.log, 30, "the trainer")
        yield running


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.url) as made:
        yield made


def train(client: Client, name: str, script: str, value: int = 7, **more: Any) -> Run:  # noqa: ANN401 - as train takes them
    """Submit a script that finds a model among its data."""
    dataset = {"model.onnx": constant(value)}
    return client.train(name, script=script.encode(), requirements=b"# nothing\n", dataset=dataset, **more)


def ended(client: Client, run: Run) -> Run:
    """A run when it has ended."""
    wait_until(lambda: client.run(run["run_id"])["ended"], 60, "the run's end")
    return client.run(run["run_id"])


def test_t01_a_script_becomes_a_served_model(client: Client, up: Up) -> None:
    begun = train(
        client, "trained.onnx", COPY, parameters={"c": 0.5, "kind": "a b", "deep": True}, description="Sieben"
    )
    assert begun["state"] in {"SCHEDULED", "RUNNING"}
    text = "".join(client.run_logs(begun["run_id"], follow=True))
    run = client.run(begun["run_id"])
    assert (run["state"], run["model_version"], run["exit_code"]) == ("FINISHED", 1, 0), (run, text)
    assert "arguments ['--c', '0.5', '--kind', 'a b', '--deep', 'true'] größer\t\x1b[2J" in text
    assert "NOT isolated" in text
    assert "not isolated" in str(run["image"])
    assert "".join(client.run_logs(run["run_id"])) == text
    size = len(text.encode())
    assert "".join(client.run_logs(run["run_id"], offset=size - 20)) == text.encode()[-20:].decode()
    assert client.run_metrics(run["run_id"]) == [{"name": "loss", "value": 0.25, "step": 1}]
    assert client.predict("trained.onnx", [[0]])["values"] == [[7]]
    version = client.show("trained.onnx")
    assert version["run"] is not None
    assert (version["run"]["run_id"], version["source"], version["description"]) == (
        run["run_id"],
        "training",
        "Sieben",
    )
    assert version["run"]["script"] == run["inputs"]["script"]["sha256"]
    assert next(client.runs(model="trained.onnx"))["run_id"] == run["run_id"]
    assert (up.folder / "kept" / "runs" / run["run_id"] / "run.json").is_file()
    audit = [line for line in up.log.splitlines() if " audit " in line and run["run_id"] in line]
    assert "/api/v1/train/<name>" in audit[0]


def test_the_same_inputs_make_the_same_version(client: Client) -> None:
    first = ended(client, train(client, "again.onnx", COPY, 8))
    again = ended(client, client.retry_run(first["run_id"]))
    assert (again["state"], again["retry_of"], again["model_version"]) == ("FINISHED", first["run_id"], 1)
    assert again["inputs"] == first["inputs"]
    other = ended(client, train(client, "again.onnx", COPY, 9, activate=False))
    assert (other["model_version"], client.show("again.onnx")["default"]) == (2, 1)
    assert client.predict("again.onnx:2", [[0]])["values"] == [[9]]
    client.delete_run(first["run_id"])
    with pytest.raises(errors.RunNotFoundError):
        client.run(first["run_id"])
    assert client.predict("again.onnx:1", [[0]])["values"] == [[8]], "its model stays"


@pytest.mark.parametrize(
    ("script", "reason", "message"),
    [
        (FAIL, "SCRIPT_FAILED", "status 3"),
        ("pass", "NO_MODEL", "failed.onnx"),
        ("open('failed.onnx', 'w').write('text')", "INVALID_MODEL", ""),
    ],
)
def test_t08_what_comes_to_nothing_says_why(client: Client, script: str, reason: str, message: str) -> None:
    run = ended(client, train(client, "failed.onnx", script))
    assert (run["state"], run["reason"], run["model_version"]) == ("FAILED", reason, None)
    assert message in str(run["message"])
    assert "failed.onnx" not in set(client.models())


def test_t02_t20_runs_end_when_they_are_to(client: Client, up: Up) -> None:
    late = ended(client, train(client, "late.onnx", WAIT, timeout_s=1))
    assert (late["state"], late["reason"]) == ("FAILED", "TIMED_OUT")
    running, waiting = (train(client, "cancelled.onnx", WAIT) for _ in range(2))
    with pytest.raises(errors.RunActiveError):
        client.delete_run(waiting["run_id"])
    for run in (waiting, running):
        client.cancel_run(run["run_id"])
        assert ended(client, run)["state"] == "KILLED"
        assert client.cancel_run(run["run_id"])["state"] == "KILLED", "twice is the same"
    with pytest.raises(errors.RunEndedError):
        client.cancel_run(late["run_id"])
    assert not [line for line in _commands(up) if "train.py" in line]


def _commands(up: Up) -> list[str]:
    """What runs below the platform."""
    found = []
    for pid in up.family():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_t16_who_follows_goes_on_when_the_trainer_has_died(client: Client, up: Up) -> None:
    run = train(client, "lost.onnx", WAIT)
    pieces = client.run_logs(run["run_id"], follow=True)
    text = ""
    while "waiting" not in text:
        text += next(pieces, "waiting, and ended")
    assert "ended" not in text, (text, client.run(run["run_id"]), up.log[-3000:])
    os.kill(min(up.children("trainer")), signal.SIGKILL)
    assert "".join(pieces) is not None, "it ends by itself"
    lost = ended(client, run)
    assert (lost["state"], lost["reason"], lost["retryable"]) == ("FAILED", "INTERRUPTED", True)
    wait_until(lambda: not [line for line in _commands(up) if "train.py" in line], 30, "the script having ended")
    assert ended(client, train(client, "found.onnx", COPY))["state"] == "FINISHED"


def test_every_route_answers_as_described(client: Client, up: Up) -> None:
    document = Document(requests.get(f"{up.url}/openapi.json", timeout=10).json())

    def ask(method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
        answer = requests.request(method, up.url + path, timeout=60, **options)
        document.check(method, path.partition("?")[0], answer.status_code, answer.headers, answer.content)
        return answer

    files = {"script": ("a.py", COPY), "requirements": ("b", ""), "dataset": ("model.onnx", constant(5))}
    for missing in files:
        answer = ask("POST", "/api/v1/train/m", files={name: file for name, file in files.items() if name != missing})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, f"MISSING_{missing.upper()}")
    for data in ({"privileged": "true"}, {"image": "evil"}, {"timeout_s": "1e9"}, {"parameters": "["}):
        assert ask("POST", "/api/v1/train/m", files=files, data=data).status_code in {400, 422}
    key = {"Idempotency-Key": "described"}
    made = [ask("POST", "/api/v1/train/described.onnx", files=files, headers=key) for _ in range(2)]
    assert {answer.status_code for answer in made} == {202}
    path = made[0].headers["Location"]
    assert made[1].headers["Location"] == path, "the same request is the same run"
    ended(client, made[0].json())
    for below in ("", "/logs", "/logs?follow=1", "/metrics"):
        assert ask("GET", path + below).status_code == 200
    assert ask("GET", "/api/v1/runs?limit=1&state=FINISHED").json()["runs"][0]["model"] == "described.onnx"
    assert ask("POST", f"{path}/cancel").status_code == 409
    again = ask("POST", f"{path}/retry")
    ended(client, again.json())
    for run in (path, again.headers["Location"]):
        assert ask("DELETE", run).status_code == 200
        assert ask("GET", run).status_code == 404
    waiting = train(client, "described.onnx", WAIT)
    assert ask("DELETE", f"/api/v1/runs/{waiting['run_id']}").status_code == 409
    assert ask("POST", f"/api/v1/runs/{waiting['run_id']}/cancel").status_code == 200
    assert document.succeeded >= set(TRAINING)


# The command line ----------------------------------------------------------------------------------------------------


def cli(up: Up, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mlbuffet.cli", *map(str, words), "--url", up.url],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a training."""
    for name, text in (("good.py", COPY), ("bad.py", FAIL), ("long.py", WAIT), ("requirements.txt", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "model.onnx").write_bytes(constant(3))
    return tmp_path


def words(script: str, *more: object) -> list[object]:
    files = ("--script", script, "--requirements", "requirements.txt", "--dataset", "model.onnx")
    return ["train", "cli.onnx", *files, *more]


def test_train_follows_and_ends_as_the_run_does(up: Up, folder: Path) -> None:
    (folder / "slow.py").write_text(f"import time; time.sleep(2)\n{COPY}")
    done = cli(up, folder, *words("slow.py", "--param", "c=0.5", "--param", "name=x", "--timeout", 60, "--follow"))
    assert done.returncode == 0, done.stderr
    assert "arguments ['--c', '0.5', '--name', 'x'] größer\t\\x1b[2J\n" in done.stdout, "it cannot steer the terminal"
    assert re.search(r"^\S+ RUNNING", done.stderr, re.MULTILINE)
    assert re.search(r"^\S+ FINISHED after [\d.]+ s: cli.onnx version 1$", done.stderr, re.MULTILINE)
    failed = cli(up, folder, *words("bad.py", "--follow"))
    assert (failed.returncode, "about to fail" in failed.stdout) == (1, True)
    assert "SCRIPT_FAILED" in failed.stderr
    as_json = cli(up, folder, *words("good.py", "--follow", "--json"))
    assert (as_json.returncode, json.loads(as_json.stdout)["state"]) == (0, "FINISHED")
    assert "arguments" in as_json.stderr
    refused = cli(up, folder, *words("good.py", "--timeout", 1e9))
    assert (refused.returncode, "INVALID_FIELD" in refused.stderr) == (1, True)
    for wrong in (["--param", "nothing"], ["--script", "missing.py"]):
        assert cli(up, folder, *words("good.py", *wrong)).returncode == 2


def test_runs_are_looked_at_and_managed(up: Up, folder: Path) -> None:
    run = json.loads(cli(up, folder, *words("long.py", "--json")).stdout)["run_id"]
    assert run in cli(up, folder, "runs", "list", "--model", "cli.onnx").stdout
    assert cli(up, folder, "runs", "rm", run).returncode == 1
    printed: list[str] = []
    follower = threading.Thread(target=lambda: printed.append(cli(up, folder, "runs", "logs", run, "--follow").stdout))
    follower.start()
    wait_until(lambda: "waiting" in cli(up, folder, "runs", "logs", run).stdout, 60, "the script's first words")
    assert cli(up, folder, "runs", "cancel", run).stdout == f"{run} is cancelled\n"
    follower.join()
    assert "waiting" in printed[0]
    shown = cli(up, folder, "runs", "show", run).stdout
    assert "KILLED" in shown
    assert re.search(r"model.onnx +\d+ B +[0-9a-f]{64}", shown)
    assert json.loads(cli(up, folder, "runs", "show", run, "--json").stdout)["state"] == "KILLED"
    again = cli(up, folder, "runs", "retry", run).stdout.split()[0]
    assert json.loads(cli(up, folder, "runs", "cancel", again, "--json").stdout)["retry_of"] == run
    assert cli(up, folder, "runs", "rm", run).stdout == f"{run} is deleted\n"
    assert run not in {item["run_id"] for item in json.loads(cli(up, folder, "runs", "list", "--json").stdout)}
    for verb in ("show", "logs", "cancel", "retry", "rm"):
        missing = cli(up, folder, "runs", verb, NO_RUN)
        assert (missing.returncode, "RUN_NOT_FOUND" in missing.stderr) == (1, True), verb


def test_no_script_outlives_the_platform(tmp_path: Path) -> None:
    options = ("--modelhosts", 1, "--workers", 1, "--grpc-port", 0, "--allow-unisolated-training")
    with running_up(tmp_path, *options) as up, Client(up.url) as client:
        pieces = client.run_logs(_submitted(client)["run_id"], follow=True)
        while "waiting" not in next(pieces):
            continue
        assert [line for line in _commands(up) if "train.py" in line]


def _submitted(client: Client) -> Run:
    """A run that waits, taken as soon as the trainer is there."""

    def submitted() -> Run | None:
        try:
            return train(client, "waiting.onnx", WAIT)
        except errors.UnavailableError:
            return None

    found = wait_until(submitted, 30, "the trainer")
    assert found is not None
    return found


def test_nobody_elsewhere_is_let_in_without_isolation(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlbuffet.cli", "up", "--host", "0.0.0.0", "--allow-unisolated-training"]  # noqa: S104 - to be refused
    command += ["--port", str(free_port()), "--grpc-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///none"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, "loopback only" in done.stderr) == (2, True)
