"""Which training run made a version: only the trainer says so, with and without API keys, and everybody can read it."""

import json
from collections.abc import Iterator

import pytest
import requests

from mlbuffet.keys import SCOPES, Wish
from tests.harness.keyed import FirstKeys, bearer
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, running_platform

TRAINERS = "the-trainers-own-key-of-forty-characters"
RUN = {"run_id": "20261129t131405-3f9c01aa", "script": "sha256:" + "0" * 64}


@pytest.fixture(scope="module", params=["with keys", "without keys"])
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningPlatform, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("lineage")
    keys = FirstKeys(folder, {"all": Wish("all", list(SCOPES))})
    environment = {"INFERRER_TRAINER_KEY": TRAINERS}
    asked = request.param == "with keys"
    options = {"key": keys.texts["all"], "environment": environment | keys.environment} if asked else {}
    with running_platform(
        folder / "repository", modelhosts=1, workers=1, **{"environment": environment, **options}
    ) as running:
        yield running, running.headers()


def upload(platform: RunningPlatform, value: int, run: object, headers: dict[str, str]) -> requests.Response:
    data, files = {"run": json.dumps(run), "activate": "false"}, {"path": constant(value)}
    return requests.put(platform.path("trained.onnx"), data=data, files=files, headers=headers, timeout=60)


def test_a_version_names_its_run(platform: tuple[RunningPlatform, dict[str, str]]) -> None:
    running, anybody = platform
    trainer = bearer(TRAINERS) | {"Idempotency-Key": RUN["run_id"]}
    assert running.put("trained.onnx", constant(1)).json()["run"] is None
    made = upload(running, 2, RUN, trainer)
    assert (made.status_code, made.json()["version"], made.json()["run"]) == (201, 2, RUN)
    assert upload(running, 2, RUN, trainer).json()["version"] == 2, "at most one version a run"
    shown = requests.get(running.path("trained.onnx:2"), headers=anybody, timeout=10).json()
    assert (shown["run"], shown["source"], shown["default"]) == (RUN, "training", 1)
    assert [version["run"] for version in shown["versions"]] == [None, RUN]
    audits = [record for record in running.records() if record["event"] == "audit" and record.get("version") == 2]
    assert {record["who"] for record in audits} == {"trainer"}


def test_nobody_else_says_which_run_it_was(platform: tuple[RunningPlatform, dict[str, str]]) -> None:
    running, anybody = platform
    refused = upload(running, 3, RUN, anybody)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN")
    wrong: list[object] = [3, [], "text", None]
    for run in wrong:
        assert upload(running, 3, run, bearer(TRAINERS)).status_code == 422
    assert upload(running, 4, RUN, bearer(TRAINERS[:-1])).status_code in {401, 403}
