"""Row Z02: much of everything at once, and faults in between; no process grows and no request fails."""

from pathlib import Path

from tests.harness.soak import SMALL, run_soak


def test_z02_memory_stays_while_all_is_used_and_things_fail(tmp_path: Path) -> None:
    """The full size is `make soak`'s; the size here is enough to show 1 KB a prediction (row Z03)."""
    soak = run_soak(tmp_path / "repository", SMALL)
    assert not soak.failures
    assert soak.faults
