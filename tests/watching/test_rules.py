"""Prometheus' configuration and rules, by its own checks; what the pages say of the alerts."""

import re
import subprocess
from pathlib import Path

import orjson
import pytest

from mlbuffet.watching import Watch, configuration
from tests.harness.platform import ROOT
from tests.harness.programs import required

RULES = ROOT / "metrics" / "rules"
ALERT = re.compile(r"alert: (\w+)(.*?)(?=- alert|\Z)", re.DOTALL)
ALERTS = dict(ALERT.findall((RULES / "alerts.yml").read_text(encoding="utf-8")))


def promtool(*words: str | Path) -> str:
    done = subprocess.run([required("promtool"), *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules_and_the_configurations(tmp_path: Path) -> None:
    promtool("check", "rules", *sorted(RULES.glob("*.yml")))
    promtool("check", "config", "--syntax-only", "metrics/prometheus.yml")
    local = tmp_path / "prometheus.json"
    local.write_bytes(orjson.dumps(configuration(Watch(tmp_path / "data", 9091), "127.0.0.1:8002", tmp_path)))
    promtool("check", "config", "--lint-fatal", local)


def test_each_alert_fires_and_clears_on_made_up_series() -> None:
    assert "SUCCESS" in promtool("test", "rules", "metrics/tests/alerts.yml")
    tested = (ROOT / "metrics/tests/alerts.yml").read_text(encoding="utf-8")
    assert set(ALERTS) == set(re.findall(r"alertname: (\w+)", tested))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_a_way_on(alert: str) -> None:
    text = ALERTS[alert]
    assert re.search(r"severity: (warning|critical)", text)
    assert "summary: " in text
    assert f"runbook: docs/alerts.md#{alert.lower()}\n" in text
    page = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
    assert f"\n## {alert}\n" in page
