"""What Prometheus is told of the repository's volume."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from inferrer.volume import VolumeMetrics
from tests.harness.faults import filled, read_only, volume

SIZE = 1 << 20


def figures(root: Path) -> list[float | None]:
    registry = CollectorRegistry()
    registry.register(VolumeMetrics(root))
    return [registry.get_sample_value(f"repository_{name}") for name in ("size_bytes", "free_bytes", "writable")]


def test_a_volume_is_measured_filled_and_closed(tmp_path: Path) -> None:
    with volume(tmp_path / "volume", SIZE) as root:
        (root / ".mlbuffet").mkdir()
        assert figures(root) == [SIZE, SIZE, 1]
        with filled(root):
            assert figures(root) == [SIZE, 0, 1], "full is not unwritable"
        with read_only(root):
            assert figures(root) == [SIZE, SIZE, 0]
        assert figures(root) == [SIZE, SIZE, 1]
        assert not list((root / ".mlbuffet").iterdir())


def test_a_volume_that_is_gone_has_no_size(tmp_path: Path) -> None:
    assert figures(tmp_path / "none") == [None, None, 0]
