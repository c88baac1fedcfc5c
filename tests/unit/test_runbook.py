"""The runbook's commands are commands: each line that begins with `mlbuffet` is understood as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlbuffet.cli import main
from tests.harness.platform import ROOT

RUNBOOK = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
LINES = sorted(
    {found for block in BLOCKS for found in re.findall(r"^(?:\w+=\S+ )?(mlbuffet .*)$", block, re.MULTILINE)}
)


def understood(words: list[str]) -> str:
    """The path of the command that is called; what click cannot parse is an error."""
    command: click.Command = main
    context, path = None, []
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        path.append(words[0])
        if not isinstance(command, click.Group):
            return " ".join(path)
        words = [*context._protected_args, *context.args]
        _, found, _ = command.resolve_command(context, words)
        assert found is not None
        command = found


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_runbook_is_a_command(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mlbuffet-2026-11-21.tar", "edge.pem"):
        (tmp_path / name).touch()
    assert understood(shlex.split(re.sub(r"\$\(.*?\)", "today", line))).startswith("mlbuffet ")


def test_the_runbook_has_every_command_of_deploy() -> None:
    group = main.get_command(click.Context(main), "deploy")
    assert isinstance(group, click.Group)
    missing = [name for name in group.commands if not any(f"mlbuffet deploy {name}" in line for line in LINES)]
    assert not missing


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["scale", "mirror=2"], 2, "SERVICE is inferrer or modelhost"),
        (["scale", "inferrer=many"], 2, "SERVICE is inferrer or modelhost"),
        (["status"], 1, "docker is not installed here"),
        (["update"], 2, "--tag"),
        (["restore", "nowhere.tar"], 2, "does not exist"),
        (["certificates", "edge", "nowhere.pem"], 2, "does not exist"),
        (["certificates", "edge", os.devnull], 2, "does not hold a certificate chain and its key"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words: list[str], status: int, said: str, tmp_path: Path) -> None:
    """Without an engine, as on a machine that is no manager."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "mlbuffet.cli", "deploy", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert said in done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr
