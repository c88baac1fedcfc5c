"""A service starts only where the container leaves it nothing that it does not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlbuffet.chassis import entry

SOUND = {"Uid": "10001\t10001\t10001\t10001", "CapEff": "0" * 16, "CapPrm": "0" * 16, "NoNewPrivs": "1"}


def test_d05_a_process_that_may_do_nothing_special_is_sound() -> None:
    assert entry.fault(SOUND) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Uid": "0\t0\t0\t0"}, "root"),
        ({"Uid": "10001\t0\t10001\t10001"}, "root"),
        ({"Uid": "10001\t10001\t0\t10001"}, "root"),
        ({"CapEff": "0000000000000400"}, "capabilities"),
        ({"CapPrm": "00000000a80425fb"}, "capabilities"),
        ({"NoNewPrivs": "0"}, "privileges"),
    ],
)
def test_d05_anything_more_is_a_fault(change: dict[str, str], reason: str) -> None:
    assert reason in entry.fault(SOUND | change)


# As root reads it: where Python and this file are, somebody else may not look.
_AS_SOMEBODY_ELSE = """
import collections.abc, ctypes, encodings.ascii, os, pathlib, runpy, signal, sys
source = pathlib.Path(sys.argv.pop(1)).read_text()
os.setresuid(10001, 10001, 10001)
exec(source, {"__name__": "__main__"})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_d05_the_program_takes_the_entry_s_place_and_its_rights_are_gone() -> None:
    command = [sys.executable, "-ISc", _AS_SOMEBODY_ELSE, entry.__file__, "cat", "/proc/self/status"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"Pid:\t{process.pid}\n" in printed
    assert "NoNewPrivs:\t1\n" in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_d08_a_module_that_is_stopped_while_it_starts_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import sys, time\nprint('begun', *sys.argv, flush=True)\ntime.sleep(60)\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001:
            break
        folder.chmod(0o755)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{_AS_SOMEBODY_ELSE}"
    command = [sys.executable, "-ISc", code, entry.__file__, "-m", "slow", "more"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().split()[-1] == "more"
    process.terminate()
    assert process.wait(10) == 0  # and not by the signal, which would not end a container's first process
    process.stdout.close()


def test_d05_root_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    done = subprocess.run(
        [sys.executable, "-IS", entry.__file__, "true"], capture_output=True, text=True, timeout=10, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("not started: it would run as root")
    assert Path(entry.__file__).name not in done.stderr  # a word, no traceback
