"""The page to try the API, in a real browser."""

import json
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from tests.harness.browser import Browser, chromium
from tests.harness.platform import RunningPlatform


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser; on a machine without one nothing is tested, but in CI there is one."""
    program = chromium()
    if program is None:
        assert os.environ.get("CI") != "true", "CI installs a browser"
        pytest.skip("there is no Chromium")
    with Browser(program) as found:
        yield found


def try_out(browser: Browser, operation: str) -> tuple[str, str]:
    """Open an operation, try it with its example, and give the status and the body that the page shows."""
    browser.click(f"#{operation} .opblock-summary-control")
    browser.click(f"#{operation} .try-out__btn")
    browser.click(f"#{operation} .execute")
    status = browser.text(f"#{operation} .live-responses-table .response .response-col_status")
    return status, browser.text(f"#{operation} .live-responses-table .response .highlight-code code")


def harmless(browser: Browser, url: str) -> None:
    """Nothing was asked of another host, and nothing was refused."""
    hosts = {urlsplit(asked).netloc for asked in browser.requested() if not asked.startswith("data:")}
    assert hosts == {urlsplit(url).netloc}
    assert browser.complaints() == []


def test_page_predicts(browser: Browser, shared_platform: RunningPlatform) -> None:
    url = shared_platform.url
    browser.call("Page.navigate", url=f"{url}/docs")
    status, body = try_out(browser, "operations-predictions-predict_post")
    assert status.startswith("200")
    assert json.loads(body)["values"] == [1]
    harmless(browser, url)


def test_page_is_strict(shared_platform: RunningPlatform) -> None:
    page = requests.get(f"{shared_platform.url}/docs", timeout=10)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "://" not in page.text
    assert requests.get(f"{shared_platform.url}/docs/..%2fapp.py", timeout=10).status_code == 404
