"""Row Z03: the suite finds bugs that are planted on purpose, and finds none where none is planted."""

from pathlib import Path

import pytest

from tests.harness import invariants
from tests.harness.acknowledged import lost_by_power_cuts
from tests.harness.faults import planted
from tests.harness.platform import running_platform
from tests.harness.soak import SMALL, run_soak
from tests.harness.truth import mixed_answers

PLANTED = Path(__file__).with_name("planted")


def _planted(folder: Path, bug: str) -> dict[str, str]:
    return planted(folder / "planted", (PLANTED / f"{bug}.py").read_text())


def test_z03_the_soak_finds_a_leak_of_1_kb_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control without the leak is row Z02 (test_soak.py): the same check at the same size."""
    monkeypatch.setattr(invariants, "BACK_S", 2.0)  # it does not come back
    with pytest.raises(AssertionError, match=r"inferrer \d+: \d+ MiB, \d+ before"):
        run_soak(tmp_path / "repository", SMALL, environment=_planted(tmp_path, "leak"))


def test_z03_the_readers_find_a_race(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", environment=_planted(tmp_path, "race")) as platform:
        assert mixed_answers(platform, "moving.onnx", versions=200, clients=12)


@pytest.mark.parametrize("bug", ["no_fsync_of_files", "no_fsync_of_folders"])
def test_z03_the_power_cut_finds_a_missing_fsync(tmp_path: Path, bug: str) -> None:
    assert lost_by_power_cuts(tmp_path, defect=(PLANTED / f"{bug}.py").read_text())
