"""Who may ask a modelhost for its metrics from elsewhere: Prometheus, by its certificate, and for nothing else."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter

from mlbuffet.certificates import read_context
from tests.harness.platform import RunningPlatform, free_port, running_platform, wait_until
from tests.harness.tls import INFERRER, METRICS, MODELHOST, write_certificate


class ByContext(HTTPAdapter):
    """Connects by a TLS context of ours, and takes the other end for a modelhost."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        """Have the pool use it."""
        options |= {"ssl_context": self._context, "server_hostname": MODELHOST, "assert_hostname": MODELHOST}
        super().init_poolmanager(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def scraped(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    folder = tmp_path_factory.mktemp("scraped")
    environment = {
        "MODELHOST_TLS_FOLDER": str(write_certificate(folder / "tls", authority, MODELHOST)),
        "MODELHOST_METRICS_PORT": str(free_port()),
    }
    with running_platform(folder / "repository", modelhosts=1, workers=1, environment=environment) as platform:
        yield platform


def ask(platform: RunningPlatform, folder: Path, path: str = "/metrics") -> requests.Response:
    with requests.Session() as session:
        session.verify = str(folder / "ca.pem")
        session.mount("https://", ByContext(read_context(folder, server=False)))
        port = platform.environment["MODELHOST_METRICS_PORT"]
        return session.get(f"https://127.0.0.1:{port}{path}", headers={"Host": f"10.0.13.7:{port}"}, timeout=10)


def test_prometheus_gets_the_metrics_and_nothing_else(
    scraped: RunningPlatform, authority: trustme.CA, tmp_path: Path
) -> None:
    folder = write_certificate(tmp_path, authority, METRICS)
    page = ask(scraped, folder)
    assert (page.status_code, page.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert 'modelhost_version_ready{model="iris.onnx",version="1"} 1.0' in page.text
    assert ask(scraped, folder, "/health/ready").status_code == 200
    assert ask(scraped, folder, "/").status_code == 404, "what is loaded is the operator's to see"


@pytest.mark.parametrize("name", [INFERRER, MODELHOST, "elsewhere"])
def test_s15_nobody_else_of_our_authority_is_answered(
    name: str, scraped: RunningPlatform, authority: trustme.CA, tmp_path: Path
) -> None:
    with pytest.raises(requests.ConnectionError):
        ask(scraped, write_certificate(tmp_path, authority, name))
    refused = [record for record in scraped.records("modelhost-1") if record["event"] == "client refused"]
    wait_until(lambda: refused[-1]["names"] == [name], what="a record of it")


def test_s15_foreign_certificates_and_plain_http_are_not_answered(
    scraped: RunningPlatform, authority: trustme.CA, tmp_path: Path
) -> None:
    foreign = write_certificate(tmp_path, trustme.CA(), METRICS, trusted=authority)
    with pytest.raises(requests.ConnectionError):
        ask(scraped, foreign)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{scraped.environment['MODELHOST_METRICS_PORT']}/metrics", timeout=10)
