"""Reads Markdown as a reader does: commands to run, the output printed under them, links, headings."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.platform import ROOT

NOT_RUN = "<!-- not run by the tests"
ON_SWARM = "<!-- run on a Swarm by the tests"
ANYTHING = "…"

_RUN = frozenset({"sh", "python"})
_SHOWN = frozenset({"json", "text"})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!\w)!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)$", re.MULTILINE)
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Example:
    """Commands on a page, and what the page says they print; None where it says nothing."""

    line: int
    language: str
    code: str
    output: str | None


def examples(page: str, *, on_swarm: bool = False) -> Iterator[Example]:
    """The shell and Python blocks of a page in order, but for those marked as not run; those for a Swarm apart.

    A block of json or text that follows directly, with nothing but empty lines between, is the output.
    """
    blocks = list(_FENCE.finditer(page))
    for number, block in enumerate(blocks):
        before = page[: block.start()]
        remark = before.rstrip().rpartition("\n")[2]
        if block[1] not in _RUN or remark.startswith(NOT_RUN) or remark.startswith(ON_SWARM) is not on_swarm:
            continue
        follower = blocks[number + 1] if number + 1 < len(blocks) else None
        shown = follower is not None and follower[1] in _SHOWN and not page[block.end() : follower.start()].strip()
        output = follower[2] if follower is not None and shown else None
        yield Example(before.count("\n") + 1, block[1], block[2], output)


def run(example: Example, folder: Path, environment: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> str:
    """Run an example in a folder, with this Python's commands on the path; returns what it prints.

    Raises:
        AssertionError: it fails.
    """
    command = [sys.executable, "-c"] if example.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, example.code],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"line {example.line}: {example.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def is_as_shown(shown: str, printed: str) -> bool:
    """Tell whether a command printed what the page shows, where `…` stands for anything."""
    pattern = ".*?".join(map(re.escape, _tidy(shown).split(ANYTHING)))
    return re.fullmatch(pattern, _tidy(printed), re.DOTALL) is not None


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def curl_lines(page: str) -> list[str]:
    """Every line of a page that asks curl for something."""
    return [line.strip() for line in page.splitlines() if line.strip().startswith("curl ")]


def markdown_files() -> list[Path]:
    """Every page of the project."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))


def links(page: str) -> list[str]:
    """Where a page's links lead, those in its code left out."""
    return _LINK.findall(_FENCE.sub("", page))


def anchors(page: str) -> set[str]:
    """What a link can name behind `#`: the headings, as GitHub writes them."""
    headings = _HEADING.findall(_FENCE.sub("", page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_names(page: str) -> list[str]:
    """The first cell of every table row, without its backticks."""
    rows = re.findall(r"^\| `?([^|`]+?)`? \|", page, re.MULTILINE)
    return [name for name in rows if set(name) != {"-"}]
