"""What must hold after every row of the acceptance tables, whatever was done to the platform.

`with unharmed(platform): …` takes the baseline, runs the row, and looks afterwards: health, the golden prediction byte
for byte, the model list, every stored file's digest, staging, descriptors, threads, children and memory of every
process, and the logs.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import requests

from mlbuffet.index import read_default, read_versions
from mlbuffet.manifest import MODEL_FILE
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.sockets import all_connections, link_of, links

BACK_S = 30.0
SWEPT_S = 60.0
RSS_BYTES = 8 << 20
GOLDEN = {"values": [7.0, 3.2, 4.7, 1.4]}
# The pools for Flask fill as they are needed and never shrink; beside them stand a few threads of each service's own.
POOL_THREADS = {"inferrer": 32 + 4, "modelhost main": 4 + 5}
_warmed: WeakSet[RunningPlatform] = WeakSet()


@dataclass(frozen=True)
class Usage:
    """What one process holds."""

    role: str
    fds: tuple[str, ...]
    threads: int
    rss_bytes: int


def usage(platform: RunningPlatform) -> dict[int, Usage]:
    """Every process of the platform; one that ends meanwhile is left out."""
    found = {}
    ours = _our_connections(platform.port)
    for name, process in platform.processes.items():
        if process.poll() is not None:
            continue
        service = name.partition("-")[0]
        for pid in (process.pid, *platform.children(name)):
            try:
                found[pid] = _usage_of(pid, f"{service} main" if pid == process.pid else service, ours)
            except (FileNotFoundError, ProcessLookupError, KeyError):
                continue
    return found


def _our_connections(port: int) -> set[str]:
    """The server's ends of what this test has open itself: requests keeps a connection as long as its response."""
    mine, known = links("self"), all_connections()
    clients = {item.port for item in known if item.link in mine}
    return {item.link for item in known if item.port == port and item.peer in clients}


def _usage_of(pid: int, service: str, ours: set[str]) -> Usage:
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    name = status["Name"].strip()
    kind = name.partition(" ")[0] if service == "modelhost" else ""
    rss_bytes = int(status["VmRSS"].split()[0]) * 1024
    # One that is closed meanwhile leaves no link, and must not make the whole process pass for gone.
    fds = tuple(sorted(link for item in (folder / "fd").iterdir() if (link := link_of(item)) and link not in ours))
    return Usage(f"{service} {kind}".strip(), fds, int(status["Threads"]), rss_bytes)


def pss_bytes(platform: RunningPlatform) -> int:
    """Memory of the whole platform, what is shared counted once."""
    total = 0
    for pid in usage(platform):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def modelhost_url(platform: RunningPlatform, name: str) -> str:
    """A modelhost's own address, from its last start's log record."""
    started = [record for record in platform.records(name) if record["event"] == "modelhost started"]
    return f"http://127.0.0.1:{started[-1]['port']}"


def hosted(platform: RunningPlatform, name: str) -> list[dict[str, Any]]:
    """What a modelhost says of the versions it has."""
    versions: list[dict[str, Any]] = requests.get(modelhost_url(platform, name), timeout=10).json()["versions"]
    return versions


def golden(platform: RunningPlatform) -> bytes:
    """The golden model's answer."""
    response = requests.post(
        f"{platform.path('iris.onnx')}/prediction", json=GOLDEN, headers=platform.headers(), timeout=10
    )
    assert response.status_code == 200, response.text
    return response.content


def warm_up(platform: RunningPlatform) -> None:
    """Fill thread pools and buffers, once for each platform, so that what comes later is no first time."""
    if platform in _warmed:
        return
    _warmed.add(platform)

    def ask(number: int) -> None:
        platform.put(f"warm-{number}.onnx", b"no model" * 20_000)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(192)))


def check_health(platform: RunningPlatform) -> None:
    """Live and ready on every inferrer process, within a second each."""
    for route in ("/health/live", "/health/ready") * 2:
        response = requests.get(platform.url + route, timeout=1)
        assert response.status_code == 200, (route, response.text)


def check_repository(repository: Path, *, corrupt: Collection[str] = ()) -> None:
    """Every stored version has its manifest's SHA-256, and every model a default that exists."""
    for folder in repository.iterdir():
        if folder.name.startswith(".") or not folder.is_dir() or folder.name in corrupt:
            continue
        versions = read_versions(folder)
        assert read_default(folder) in versions, f"{folder.name} has no default version"
        for number, manifest in versions.items():
            data = (folder / str(number) / MODEL_FILE).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == manifest.digest, f"{folder.name}:{number}"
            assert len(data) == manifest.size_bytes


def leftovers(repository: Path) -> list[str]:
    """Temporary files anywhere in the repository."""
    private = repository / ".mlbuffet"
    found = [f"staging/{item.name}" for item in (private / "staging").iterdir()]
    found += [f"locks/{item.name}" for item in (private / "locks").iterdir()]
    known = {"default", "last"}
    for model in repository.iterdir():
        if model.is_dir() and model.name != private.name:
            strange = [item for item in model.iterdir() if not item.name.isdecimal() and item.name not in known]
            found += [f"{model.name}/{item.name}" for item in strange]
    return found


def _log_sizes(platform: RunningPlatform) -> dict[Path, int]:
    return {path: path.stat().st_size for path in platform.folder.glob("*.log")}


def bad_records(platform: RunningPlatform, since: dict[Path, int]) -> list[str]:
    """What a log must never hold: failures that nobody foresaw, and lines that are no record."""
    found = []
    for path in platform.folder.glob("*.log"):
        with path.open("rb") as file:
            file.seek(since.get(path, 0))
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                found.append(f"{path.name}: {line}")
                continue
            if "traceback" in record or record.get("code") == "INTERNAL" or "unforeseen" in record.get("event", ""):
                found.append(f"{path.name}: {line}")
    return found


def excess(before: dict[int, Usage], now: dict[int, Usage], rss_bytes: int = RSS_BYTES) -> list[str]:
    """What processes hold beyond the baseline; a process that is new is measured by the most of its role."""
    found = []
    for pid, usage_now in now.items():
        peers = [before[pid]] if pid in before else [item for item in before.values() if item.role == usage_now.role]
        if not peers:
            found.append(f"{usage_now.role} {pid} is new")
            continue
        threads = max(POOL_THREADS.get(usage_now.role, 0), *(item.threads for item in peers))
        if len(usage_now.fds) > max(len(item.fds) for item in peers):
            new = [fd for fd in usage_now.fds if fd not in peers[0].fds]
            found.append(f"{usage_now.role} {pid}: {len(usage_now.fds)} descriptors, new {new}")
        if usage_now.threads > threads:
            found.append(f"{usage_now.role} {pid}: {usage_now.threads} threads, {threads} before")
        if usage_now.rss_bytes > max(item.rss_bytes for item in peers) + rss_bytes:
            most = max(item.rss_bytes for item in peers)
            found.append(f"{usage_now.role} {pid}: {usage_now.rss_bytes >> 20} MiB, {most >> 20} before")
    for role in {item.role for item in (*before.values(), *now.values())}:
        counts = [sum(item.role == role for item in taken.values()) for taken in (before, now)]
        if counts[0] != counts[1]:
            found.append(f"{counts[1]} processes {role!r}, {counts[0]} before")
    return found


def _has_unloaded(platform: RunningPlatform) -> bool:
    """Tell whether modelhosts hold no version that is no more, and have no runner beyond those that they name."""
    url = f"{platform.url}/api/v1/models/information"
    listed = requests.get(url, headers=platform.headers(), timeout=10).json()["model_list"]
    versions = {(model["model"], number) for model in listed for number in model["versions"]}
    alive = [name for name, process in platform.processes.items() if process.poll() is None and "modelhost" in name]
    held = [version for name in alive for version in hosted(platform, name)]
    runners = sum(item.role == "modelhost runner" for item in usage(platform).values())
    known = all((version["model"], version["version"]) in versions for version in held)
    return known and runners <= sum(len(version["pids"]) for version in held)


@contextmanager
def unharmed(
    platform: RunningPlatform,
    *,
    models: Collection[str] | None = None,
    corrupt: Collection[str] = (),
    resources: bool = True,
    rss_bytes: int = RSS_BYTES,
) -> Iterator[None]:
    """Run a row; afterwards everything holds.

    `models` is the list expected then, None: as before; `rss_bytes` is how much more memory each process may have.
    """
    warm_up(platform)
    expected = sorted(platform.names() if models is None else models)
    answer = golden(platform)
    wait_until(lambda: not any(item.role == "modelhost check" for item in usage(platform).values()))
    wait_until(lambda: _has_unloaded(platform), what="what earlier tests deleted being unloaded")
    before, logs = usage(platform), _log_sizes(platform)
    yield
    check_health(platform)
    assert golden(platform) == answer
    assert platform.names() == expected
    check_repository(platform.repository, corrupt=corrupt)
    ends_at = time.monotonic() + BACK_S
    wait_until(lambda: not leftovers(platform.repository), SWEPT_S, f"staging: {leftovers(platform.repository)}")
    while resources and (found := excess(before, usage(platform), rss_bytes)):
        assert time.monotonic() < ends_at, found
        time.sleep(0.1)
    assert not bad_records(platform, logs)
