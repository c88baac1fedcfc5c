"""A real browser without a driver: Chromium's DevTools protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/ (messages are JSON, each ended by a zero byte)
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Self

from tests.harness.platform import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root it cannot sandbox itself, and it is to ask nobody but the page's server for anything.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium reads its descriptor 3 and writes its descriptor 4.
_START = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
_BEYOND_FD = 10
_ANSWER_S = 60.0
_VIOLATIONS = "addEventListener('securitypolicyviolation', e => (window.refused ??= []).push(e.violatedDirective))"


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser with an empty profile."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="mlbuffet-browser-")
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, _BEYOND_FD) for fd in (theirs_in, theirs_out)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, theirs), program, *FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs_in, theirs_out, *theirs):
            os.close(fd)
        self._rest = b""
        self._session: str | None = None
        self._sent = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Make a page, and listen to what it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_VIOLATIONS)
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and remove its profile."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask the browser to do something; its answer. What else it tells meanwhile is kept in `events`."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        ends_at = time.monotonic() + _ANSWER_S
        while True:
            told = self._receive(ends_at)
            if told.get("id") == self._sent:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _receive(self, ends_at: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends_at - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        return told

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - any JSON
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def click(self, selector: str) -> None:
        """Click an element once it is there."""
        found = f"document.querySelector({json.dumps(selector)})"
        wait_until(lambda: self.evaluate(f"!!{found}"), 30, selector)
        self.evaluate(f"{found}.click()")

    def text(self, selector: str) -> str:
        """An element's text once it is there."""
        found = f"document.querySelector({json.dumps(selector)})"
        text: str = wait_until(lambda: self.evaluate(f"{found}?.textContent"), 30, selector)
        return text

    def requested(self) -> list[str]:
        """Every address that the page has asked for."""
        return [
            told["params"]["request"]["url"] for told in self.events if told["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[Any]:
        """What the page was refused by its policy, what it threw, and what the browser warned of."""
        refused: list[Any] = self.evaluate("window.refused ?? []")
        kinds = {"Log.entryAdded", "Runtime.exceptionThrown"}
        return refused + [told["params"] for told in self.events if told["method"] in kinds]
