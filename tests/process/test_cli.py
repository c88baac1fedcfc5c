"""The command line as a user or a script runs it: every command, its JSON, its exit status."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlbuffet import Client
from tests.harness import onnx_models
from tests.harness.platform import ROOT, SAMPLES, RunningPlatform, free_port

IRIS = [[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]
SCRIPT = Path(sys.executable).with_name("mlbuffet")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """Standard output, which is one JSON document."""
        assert self.status == 0, self.err
        assert self.err == "", "no progress where nobody watches"
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """Runs commands against one server."""

    url: str
    folder: Path

    def __call__(self, *words: object, given: bytes = b"") -> Ended:
        """Run one command to its end; a traceback is never an answer."""
        done = subprocess.run(
            [sys.executable, "-m", "mlbuffet.cli", *map(str, words)],
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MLBUFFET_URL": self.url},
        )
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ended.out + ended.err
        return ended


@pytest.fixture
def cli(shared_platform: RunningPlatform, tmp_path: Path) -> Cli:
    return Cli(shared_platform.url, tmp_path)


@pytest.fixture
def name(shared_platform: RunningPlatform) -> Iterator[str]:
    """A model name of this test's own; what it uploads there is removed."""
    own = f"cli-{uuid4().hex[:12]}.onnx"
    yield own
    with Client(shared_platform.url) as client:
        if own in client.models():
            client.delete(own)


# Commands ------------------------------------------------------------------------------------------------------------


def test_help_and_version(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.status == 0
    assert re.search(r"^ +3 +no server answers", shown.out, re.MULTILINE), "the exit statuses are documented"
    for words in (["up"], ["models"], ["predict"], *(["models", verb] for verb in ("list", "push", "rm"))):
        assert cli(*words, "--help").status == 0
    assert re.fullmatch(r"mlbuffet \d+\.\d+\.\d+\n", cli("--version").out)
    by_script = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True, timeout=30)
    assert by_script.stdout == cli("--version").out
    assert cli().status == 2


def test_list_for_programs_and_people(cli: Cli) -> None:
    found = cli("models", "list", "--json").json
    assert "iris.onnx" in [model["model"] for model in found]
    assert cli("models", "list", "--json", "--limit", 1, "--after", "iris.onnx").json[0]["model"] > "iris.onnx"
    lines = cli("models", "list").out.splitlines()
    assert lines[0].split() == ["model", "default", "versions", "size", "created", "description"]
    assert len(lines) == 1 + len(found), "one line a model where the output is no terminal"


def test_show_for_programs_and_people(cli: Cli) -> None:
    assert cli("models", "show", "iris.onnx", "--json").json["inputs"][0]["shape"] == [None, 4]
    shown = cli("models", "show", "iris.onnx:1").out
    assert shown.startswith("iris.onnx:1  sha256:")
    for expected in (r"input +input +FP32 +\[any, 4\]", r"1 +default +817 B", r"modelhost-1 +READY"):
        assert re.search(expected, shown)


def test_model_lives_its_life(cli: Cli, name: str) -> None:
    (cli.folder / "one.onnx").write_bytes(onnx_models.constant(1))
    pushed = cli("models", "push", name, "one.onnx", "--description", "größer", "--json").json
    assert (pushed["version"], pushed["description"]) == (1, "größer")
    second = cli("models", "push", name, "-", "--if-match", pushed["digest"], given=onnx_models.constant(2))
    assert (second.status, second.err) == (0, "")
    assert second.out.startswith(f"{name}: version 2 is the default, sha256:")
    third = cli("models", "push", name, "-", "--no-activate", given=onnx_models.constant(3))
    assert third.out.startswith(f"{name}: version 3 is there, sha256:")
    assert cli("predict", f"{name}:3", "--values", "[[0]]", "--json").json["values"] == [[3]]
    assert cli("predict", name, "--values", "[[0]]", "--json").json["values"] == [[2]]
    assert cli("models", "rollback", name, "--json").json == {"model": name, "default": 1}
    assert cli("predict", name, "--values", "[[0]]", "--json").json["values"] == [[1]]
    assert "version 2 is the default" in cli("models", "rollback", name, "--to", 2).out
    assert re.search(r"modelhost-1 +READY", cli("models", "load", f"{name}:1").out)
    assert cli("models", "unload", name).out == f"{name}: version 2 is unloaded\n"
    assert "unloaded" in cli("predict", name, "--values", "[[0]]").err
    assert re.search(r"2 +default unloaded", cli("models", "show", name).out)
    assert cli("models", "unload", name, "--json").json["unloaded"] is True
    assert cli("models", "load", name, "--json").json["version"] == 2
    described = cli("models", "describe", f"{name}:1", "--pin", "--image", '{"scale": 0.5}', "--json").json
    assert (described["version"], described["pinned"]) == (1, True)
    assert "described" in cli("models", "describe", f"{name}:1", "--unpin", "--description", "other").out
    pulled = cli("models", "pull", name, "--json").json
    assert pulled["path"] == name
    assert (cli.folder / name).read_bytes() == onnx_models.constant(2)
    assert cli("models", "pull", f"{name}:1", "first").out.startswith("first: version 1, sha256:")
    assert (cli.folder / "first").read_bytes() == onnx_models.constant(1)
    assert cli("models", "rm", f"{name}:1", "--yes", "--json").json == {"deleted": f"{name}:1"}
    assert cli("models", "rm", f"{name}:3", "--yes").status == 0
    assert [version["version"] for version in cli("models", "show", name, "--json").json["versions"]] == [2]


def test_removal_is_asked_for(cli: Cli, name: str) -> None:
    cli("models", "push", name, "-", given=onnx_models.constant(1))
    for answer in (b"n\n", b""):
        refused = cli("models", "rm", name, given=answer)
        assert (refused.status, refused.out) == (1, "")
        assert "for good?" in refused.err
    removed = cli("models", "rm", name, "--json", given=b"y\n")
    assert (removed.status, json.loads(removed.out)) == (0, {"deleted": name})
    assert cli("models", "show", name).status == 1


def test_values_come_as_text_file_or_input(cli: Cli) -> None:
    (cli.folder / "rows.json").write_text(json.dumps(IRIS), encoding="utf-8")
    by_text = cli("predict", "iris.onnx", "--json", "--values", json.dumps(IRIS)).json
    assert by_text == {"values": [0, 2]}
    assert cli("predict", "iris.onnx", "--json", "--values", "@rows.json").json == by_text
    assert cli("predict", "iris.onnx", "--json", "--values", "-", given=json.dumps(IRIS).encode()).json == by_text
    named = cli("predict", "iris.onnx", "--json", "--values", json.dumps({"input": IRIS}), "--timeout", 20).json
    assert named == by_text


def test_outputs_and_images(cli: Cli) -> None:
    rows = json.dumps(IRIS)
    everything = cli("predict", "iris.onnx", "--json", "--values", rows, "--outputs", "all").json["outputs"]
    assert list(everything) == ["label", "probabilities"]
    picked = cli("predict", "iris.onnx", "--json", "--values", rows, "--outputs", "probabilities,label").json["outputs"]
    assert picked == everything
    table = cli("predict", "iris.onnx", "--values", rows, "--outputs", "all").out.splitlines()
    assert [line.split()[0] for line in table] == ["label", "0", "2"]
    image = cli(
        "predict", "digits.onnx", "--image", SAMPLES / "images" / "seven.png", "--outputs", "label", "--json"
    ).json
    assert image == {"values": [7], "outputs": {"label": [7]}, "labels": ["7"]}


def test_description_cannot_steer_the_terminal(cli: Cli, name: str) -> None:
    cli("models", "push", name, "-", "--description", "\x1b[2J[red]gone[/red]", given=onnx_models.constant(1))
    for words in (["list"], ["show", name]):
        shown = cli("models", *words).out
        assert "\x1b" not in shown
        assert "\\x1b[2J[red]gone[/red]" in shown


def test_output_in_a_poor_encoding_is_no_failure(cli: Cli, name: str) -> None:
    cli("models", "push", name, "-", "--description", "größer ☃", given=onnx_models.constant(1))
    done = subprocess.run(
        [sys.executable, "-m", "mlbuffet.cli", "models", "list", "--url", cli.url],
        capture_output=True,
        timeout=30,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert "größer \\u2603" in done.stdout.decode("latin-1")


def test_reader_that_has_enough_is_no_failure(cli: Cli) -> None:
    command = f"{sys.executable} -m mlbuffet.cli models list --url {cli.url} | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=True, cwd=ROOT)
    assert done.stderr == b""


def test_terminal_sees_a_bar_and_the_program_only_json(cli: Cli, name: str) -> None:
    (cli.folder / "model.onnx").write_bytes(onnx_models.constant(1, padding_bytes=1_000_000))
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "mlbuffet.cli", "models", "push", name, "model.onnx", "--json", "--url", cli.url],
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=True,
        cwd=cli.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    assert json.loads(done.stdout)["version"] == 1
    assert f"sending {name}".encode() in os.read(ours, 1 << 16)
    os.close(ours)


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["models", "show", "nobody.onnx"], "MODEL_NOT_FOUND"),
        (["models", "show", "iris.onnx:99"], "VERSION_NOT_FOUND"),
        (["models", "pull", "nobody.onnx"], "MODEL_NOT_FOUND"),
        (["models", "rm", "nobody.onnx", "--yes"], "MODEL_NOT_FOUND"),
        (["models", "push", "nobody.onnx", "-"], "INVALID_MODEL"),
        (["predict", "nobody.onnx", "--values", "[1]"], "MODEL_NOT_FOUND"),
        (["predict", "iris.onnx", "--values", "[1]"], "INVALID_SHAPE"),
        (["predict", "iris.onnx", "--values", "[[1, 2, 3, 4]]", "--outputs", "none"], "INVALID_OUTPUT"),
        (["models", "describe", "iris.onnx", "--image", "3"], "INVALID_FIELD"),
    ],
)
def test_server_refuses(cli: Cli, words: list[str], code: str) -> None:
    ended = cli(*words, "--json")
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch(rf"{code}: .+ \(request id [\w.:-]+\)\n", ended.err)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models", "rollback", "iris.onnx"], "VERSION_NOT_FOUND: iris.onnx has no version below its default"),
        (["models", "show", "../secret"], "INVALID_NAME: "),
        (["predict", "iris.onnx", "--values", "[1e999]"], "INVALID_JSON: "),
    ],
)
def test_client_refuses_in_the_servers_place(cli: Cli, words: list[str], says: str) -> None:
    ended = cli(*words)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(says)


@pytest.mark.parametrize(
    "words",
    [
        ["models", "push", "x.onnx", "missing.onnx"],
        ["models", "push", "x.onnx", "."],
        ["models", "pull", "iris.onnx", "no/such/folder/x"],
        ["models", "describe", "iris.onnx"],
        ["models", "rollback", "iris.onnx", "--to", "0"],
        ["models", "list", "--limit", "0"],
        ["models", "list", "--url", "nowhere"],
        ["models", "list", "--url", "http://["],
        ["models", "list", "--key-file", "missing"],
        ["models", "list", "--key-file", "/dev/null"],
        ["predict", "iris.onnx"],
        ["predict", "iris.onnx", "--values", "[1", "--json"],
        ["predict", "iris.onnx", "--values", "[NaN]"],
        ["predict", "iris.onnx", "--values", "@missing.json"],
        ["predict", "iris.onnx", "--values", "-"],
        ["predict", "iris.onnx", "--values", "[" * 100_000],
        ["predict", "iris.onnx", "--image", "missing.png"],
        ["predict", "iris.onnx", "--image", ".", "--values", "[1]"],
        ["models", "eat"],
        ["up", "--port", "0"],
        ["up", "--samples", "missing"],
    ],
)
def test_usage(cli: Cli, words: list[str]) -> None:
    ended = cli(*words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.strip()


@pytest.mark.parametrize(
    "words", [["models", "list"], ["models", "push", "x.onnx", "-"], ["predict", "a", "--values", "[]"]]
)
def test_nobody_there(cli: Cli, words: list[str]) -> None:
    ended = cli(*words, "--json", "--url", f"http://127.0.0.1:{free_port()}")
    assert (ended.status, ended.out) == (3, "")
    assert re.fullmatch(r"CONNECTION_FAILED: no answer from http://127\.0\.0\.1:\d+: Connection refused\n", ended.err)


def test_key_is_sent_and_tampering_noticed(cli: Cli) -> None:
    digest = hashlib.sha256(b"true").hexdigest()
    reply = f'HTTP/1.1 200 OK\r\nETag: "sha256:{digest}"\r\nX-Model-Version: 1\r\nContent-Length: 5\r\n\r\nfalse'
    (cli.folder / "key").write_text("a-key\n", encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "mlbuffet.cli",
            "models",
            "pull",
            "iris.onnx",
            "--url",
            url,
            "--key-file",
            "key",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=cli.folder, env=environment) as process:
            listener.settimeout(30)
            connection, _ = listener.accept()
            with connection:
                asked = connection.recv(1 << 16)
                connection.sendall(reply.encode())
                _, said = process.communicate(timeout=30)
    assert b"\r\nAuthorization: Bearer a-key\r\n" in asked
    assert process.returncode == 1
    assert said.startswith(b"DIGEST_MISMATCH: ")
    assert [item.name for item in cli.folder.iterdir()] == ["key"]


def test_taken_port_is_said_at_once(cli: Cli, shared_platform: RunningPlatform) -> None:
    ended = cli("up", "--port", shared_platform.port)
    assert ended.status == 2
    assert f"port {shared_platform.port} cannot be listened on" in ended.err
    assert not list(cli.folder.iterdir())
