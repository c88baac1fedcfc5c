"""What the pages say is what the product does: commands run as printed, tables equal to the code, links lead somewhere.

A command is run as it stands; only the port is another one, because 8002 may be taken.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client import CollectorRegistry

from mlbuffet.chassis.telemetry import exposition
from tests.harness import readme
from tests.harness.platform import ROOT, SAMPLES, RunningPlatform, free_port, wait_until
from trainer.store import RunStore
from trainer.telemetry import TrainerMetrics

PORT = ":8002"
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:home|mnt|opt|private|root|tmp|Users|usr|work)/")
INSTALLED_S = 300.0  # for a training's requirements to be there
FAMILY = re.compile(r"^# TYPE (\w+) ", re.MULTILINE)


def page(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the repository as far as commands need it."""
    root = tmp_path / "mlbuffet"
    shutil.copytree(SAMPLES, root / "models")
    (root / ".venv").symlink_to(sys.prefix)
    return root


@pytest.fixture
def started(folder: Path) -> Iterator[int]:
    """The platform as `make run` starts it, which may train; its port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlbuffet.cli",
        "up",
        "--no-metrics",
        "--port",
        str(port),
        "--grpc-port",
        str(free_port()),
        "--samples",
        "models",
        "--allow-unisolated-training",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///none"}  # not by whatever is here
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment)
    try:
        wait_until(lambda: "MLBuffet is ready" in log.read_text(encoding="utf-8"), 30, "mlbuffet up being ready")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def test_readme_does_what_it_says(folder: Path, started: int) -> None:
    examples = list(readme.examples(page("README.md").replace(PORT, f":{started}")))
    assert len(examples) > 10  # the reading of the page is not broken
    for example in examples:
        environment = {"MLBUFFET_URL": f"http://127.0.0.1:{started}"}
        printed = readme.run(example, folder, environment, INSTALLED_S)
        if example.output is not None:
            assert readme.is_as_shown(example.output, printed), (
                f"README.md, line {example.line}:\n{example.code}\nshown:\n{example.output}\nprinted:\n{printed}"
            )


def test_the_page_on_keys_does_what_it_says(folder: Path, started: int) -> None:
    examples = list(readme.examples(page("docs/keys.md").replace(PORT, f":{started}")))
    assert len(examples) > 4
    environment = {"MLBUFFET_URL": f"http://127.0.0.1:{started}", "PYTHONPATH": str(ROOT)}
    for example in examples:
        printed = readme.run(example, folder, environment)
        assert example.output is not None
        assert readme.is_as_shown(example.output, printed), f"keys.md, line {example.line}:\n{printed}"


def ask(line: str, folder: Path, platform: RunningPlatform) -> str:
    """Run a curl line against the platform; returns the status."""
    code = line.replace(PORT, f":{platform.port}") + " --silent --write-out '\\n%{http_code}'"
    return readme.run(readme.Example(0, "sh", code, None), folder, {}).rpartition("\n")[2]


def in_working_order(lines: list[str]) -> list[str]:
    """Uploads before what needs them, deletes last."""
    return sorted(lines, key=lambda line: (line.count("-X DELETE"), -line.count("-X PUT")))


TRAINING = ("/api/v1/train/", "/api/v1/runs")  # they take a trainer, and the second kind a run of one's own


def test_help_can_be_followed(folder: Path, platform: RunningPlatform) -> None:
    text = requests.get(f"{platform.url}/help", timeout=10).text
    others = ("/api/v1/keys", *TRAINING)  # keys.md has those, in order
    lines = [line for line in readme.curl_lines(text) if not any(path in line for path in others)]
    assert len(lines) > 10
    answers = {line: ask(line, folder, platform) for line in in_working_order(lines)}
    assert {line: status for line, status in answers.items() if not status.startswith("2")} == {}


def test_api_examples_can_be_followed(folder: Path, platform: RunningPlatform) -> None:
    lines = [line for line in readme.curl_lines(page("docs/api.md")) if not any(path in line for path in TRAINING)]
    assert len(lines) > 8
    answers = {line: ask(line, folder, platform) for line in lines}
    assert {line: status for line, status in answers.items() if not status.startswith("2")} == {}


def test_api_has_every_route_and_no_other(shared_platform: RunningPlatform) -> None:
    text = requests.get(f"{shared_platform.url}/help", timeout=10).text
    rules = re.findall(r"^([A-Z]+(?: [A-Z]+)*) (/\S*)$", text, re.MULTILINE)
    routes = {f"{method} {rule}" for methods, rule in rules for method in methods.split()}
    described = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^\s`]*)`", page("docs/api.md")))
    assert routes
    assert described == routes


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_metrics_page_has_every_metric_and_no_other(platform: RunningPlatform, tmp_path: Path) -> None:
    started = next(record for record in platform.records("modelhost-1") if record["event"] == "modelhost started")
    requests.post(platform.path("iris.onnx"), json={"serving": {"cache": True}}, timeout=30).raise_for_status()

    requests.post(f"{platform.url}/api/v1/train/iris.onnx", timeout=10)

    def is_known() -> bool:
        answer = platform.predict("iris.onnx", [2, 5, 1, 4])
        return answer.headers.get("X-Cache") == "HIT"

    wait_until(is_known, 10, "an answer from the cache")

    def exposed(url: str) -> set[str]:
        return set(FAMILY.findall(requests.get(f"{url}/metrics", timeout=10).text))

    last = {"prediction_cache_hits_total", "model_training_operations_total"}
    wait_until(lambda: last <= exposed(platform.url), 10, "the requests' counts")
    registry = CollectorRegistry()
    registry.register(TrainerMetrics(RunStore(tmp_path / "training"), []))
    of_trainer = set(FAMILY.findall(exposition(registry).decode()))
    found = exposed(platform.url) | exposed(f"http://127.0.0.1:{started['port']}") | of_trainer
    shown = {name for name in readme.table_names(page("docs/metrics.md")) if name != "Name"}
    assert shown == found


def test_dependencies_page_has_every_dependency_with_its_floor() -> None:
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    wanted = {re.sub(r"\[.*?\]", "", entry) for entries in extras.values() for entry in entries}
    named = {tuple(entry.split(">=")) for entry in wanted if ">=" in entry}
    assert {entry for entry in wanted if ">=" not in entry} == {"mlbuffet"}
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", page("docs/dependencies.md"), re.MULTILINE)
    assert set(rows) == named


@pytest.mark.parametrize("path", readme.markdown_files(), ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    missing = []
    for link in readme.links(page(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        found = (ROOT / path).parent / target if target else ROOT / path
        if not found.exists() or (anchor and anchor not in readme.anchors(found.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("path", readme.markdown_files(), ids=str)
def test_pages_hold_no_path_of_a_machine(path: Path) -> None:
    assert MACHINE_PATH.findall(page(path)) == []


def test_records_are_listed_and_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert readme.links(page("docs/adr/README.md")) == names
    for name in names:
        assert page(f"docs/adr/{name}").startswith(f"# {int(name[:4])}. ")


# The harness itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ('{"values":[1]}', '{"values":[1]}\n', True),
        ('{"values":[1]}', '{"values":[2]}', False),
        ('{…"values":[1]}', '{"http_status":{"code":200},"values":[1]}', True),
        ('{…"values":[1]}', '{"http_status":{"code":200},"values":[1],"more":1}', False),
        ("one\n…\nthree", "one  \ntwo\ntwo\nthree", True),
        ("a.c", "abc", False),
    ],
)
def test_output_is_compared_to_the_letter_but_for_the_wildcard(shown: str, printed: str, *, same: bool) -> None:
    assert readme.is_as_shown(shown, printed) is same


def test_examples_are_read_with_their_output() -> None:
    text = (
        "```sh\necho a\n```\n\n```text\na\n```\n\n<!-- not run by the tests: it runs on -->\n```sh\nmake run\n```\n\n"
        "```python\nprint(1)\n```\n\nIt prints:\n\n```text\n1\n```\n\n"
        "<!-- run on a Swarm by the tests -->\n```sh\nps\n```\n"
    )
    assert list(readme.examples(text)) == [
        readme.Example(1, "sh", "echo a\n", "a\n"),
        readme.Example(14, "python", "print(1)\n", None),
    ]
    assert list(readme.examples(text, on_swarm=True)) == [readme.Example(25, "sh", "ps\n", None)]


def test_a_failing_command_fails_the_example(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 7"):
        readme.run(readme.Example(7, "sh", "false\necho on", None), tmp_path, {})
