"""Where Prometheus on one machine finds the services, and what it is told to ask."""

from pathlib import Path

import orjson
import pytest

from mlbuffet.watching import RULES, Watch, configuration, note_start

STARTED = b'{"time":"2026-11-29T13:00:00+00:00","level":"INFO","event":"modelhost started","port":4001}'


def test_a_service_is_where_its_log_says_and_later_where_it_says_then(tmp_path: Path) -> None:
    for line in (STARTED, STARTED.replace(b"4001", b"4002")):
        note_start("modelhost-1", tmp_path, line)
    (file,) = tmp_path.iterdir()
    assert orjson.loads(file.read_bytes()) == [{"targets": ["127.0.0.1:4002"], "labels": {"instance": "modelhost-1"}}]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"modelhost started",
        b'"modelhost started"',
        b'["modelhost started"]',
        STARTED[:-1],
        STARTED.replace(b"4001", b'"evil:1"'),
        STARTED.replace(b'"modelhost started"', b'"trainer started"'),
        STARTED.replace(b'"port"', b'"gate"'),
    ],
)
def test_other_lines_say_nothing(line: bytes, tmp_path: Path) -> None:
    note_start("modelhost-1", tmp_path, line)
    assert not list(tmp_path.iterdir())


def test_where_there_are_keys_the_inferrer_is_asked_with_one(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    asking = configuration(Watch(tmp_path, key=tmp_path / "key"), "127.0.0.1:8002", tmp_path)["scrape_configs"][0]
    assert asking["authorization"] == {"credentials_file": str(tmp_path / "key")}
    assert "authorization" not in configuration(Watch(tmp_path), "127.0.0.1:8002", tmp_path)["scrape_configs"][0]


def test_the_rules_are_the_repositorys(tmp_path: Path) -> None:
    assert {path.name for path in RULES.glob("*.yml")} == {"alerts.yml", "recording.yml"}
    assert configuration(Watch(tmp_path), "", tmp_path)["rule_files"] == [f"{RULES}/*.yml"]
