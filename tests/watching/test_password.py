"""Prometheus on the Swarm answers nobody without the password, which its own health check has."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mlbuffet.chassis import probe
from mlbuffet.deploying.credentials import metrics_secrets
from tests.harness.platform import free_port, wait_until
from tests.harness.programs import required


def test_s15_prometheus_asks_for_the_password_and_the_probe_has_it(tmp_path: Path) -> None:
    (plain, web), password = metrics_secrets()
    for secret in (plain, web):
        (tmp_path / secret.name).write_bytes(secret.content)
    (tmp_path / "prometheus.yml").write_text("")
    (tmp_path / "wrong").write_text("guess")
    port = free_port()
    options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    options += [f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={tmp_path / web.name}"]

    def is_well(file: Path) -> bool:
        return probe.is_well(port, "/-/ready", probe.authorization("metrics", str(file)))

    with subprocess.Popen([required("prometheus"), *options], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_well(tmp_path / plain.name), 30, "Prometheus being ready")
            assert not is_well(tmp_path / "wrong")
            for path in ("/", "/-/ready", "/metrics", "/api/v1/query?query=up", "/federate"):
                url = f"http://127.0.0.1:{port}{path}"
                assert requests.get(url, timeout=10).status_code == 401
                assert requests.get(url, auth=("metrics", "guess"), timeout=10).status_code == 401
            asked = requests.get(
                f"http://127.0.0.1:{port}/api/v1/query?query=up", auth=("metrics", password), timeout=10
            )
            assert asked.json()["status"] == "success"
        finally:
            process.kill()


def test_the_probe_takes_user_and_file_as_the_image_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, str]] = []

    def is_well(port: int, path: str, fields: str) -> bool:
        asked.append((port, path, fields))
        return True

    monkeypatch.setattr(probe, "is_well", is_well)
    monkeypatch.setattr(probe, "_WAS_READY", tmp_path / "was-ready")
    (tmp_path / "password").write_text("open sesame")
    monkeypatch.setattr(sys, "argv", ["probe.py", "9090", "/r", "/l", "metrics", str(tmp_path / "password")])
    probe.main()
    assert asked == [(9090, "/r", "Authorization: Basic bWV0cmljczpvcGVuIHNlc2FtZQ==\r\n")]
