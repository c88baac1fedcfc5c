"""Row P08: a small text never becomes more objects than a process may have, because its parser would end it."""

import os
import subprocess
import sys

import pytest

from mlbuffet.errors import ResourceLimitError
from modelhost.codecs.buffet import decode
from tests.harness.json_bombs import PIECES, bomb, served_for
from tests.harness.platform import ROOT

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"


@pytest.mark.parametrize(
    ("memory_mib", "size_mib"), [(60, 1), (60, 3), (60, 6), (150, 7), (150, 12)] if SOAK else [(60, 3)]
)
def test_p08_no_text_ends_a_process_with_little_memory(memory_mib: int, size_mib: int) -> None:
    command = [sys.executable, "-m", "tests.harness.json_bombs", str(memory_mib), str(size_mib)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [f"{protocol} {kind}: 0" for kind in PIECES for protocol in ("v1", "v2")]


@pytest.mark.parametrize("kind", ["lists", "quotes"])
def test_p08_the_largest_texts_of_little_are_refused_unread(kind: str) -> None:
    with pytest.raises(ResourceLimitError, match="several requests"):
        decode(memoryview(bomb(kind, (1 << 26) - 64)), 0, served_for(kind))


def test_a_long_string_is_no_bomb() -> None:
    text = b'{"values":["' + b"[[,,::{{" * (5 << 20) + b'"]}'
    feeds = decode(memoryview(text), 0, served_for("strings")).feeds
    assert len(feeds["x"][0]) == 40 << 20
