"""Modelhosts that do not share the repository's volume: what they are told, what they fetch, what they survive."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.harness.mirrors import add_mirror, cached
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, copy_samples
from tests.harness.tls import INFERRER, MODELHOST, write_certificate

MIRROR = "modelhost-mirror"


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """Certificates of one authority."""
    authority = trustme.CA()
    roles = {"inferrer": INFERRER, "modelhost": MODELHOST}
    return {name: write_certificate(tmp_path / "tls" / name, authority, role) for name, role in roles.items()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The mirror's folder."""
    return tmp_path / "cache"


@pytest.fixture
def mirrored(tmp_path: Path, cache: Path, tls: dict[str, Path]) -> Iterator[RunningPlatform]:
    """A platform with the repository's one modelhost, and a mirror over TCP with TLS."""
    copy_samples(tmp_path / "repository")
    platform = RunningPlatform(tmp_path / "repository", modelhosts=1)
    add_mirror(platform, MIRROR, cache, tls)
    with platform:
        yield platform


def values(platform: RunningPlatform, name: str) -> object:
    """The answer of a constant model, or the error's code."""
    answer = platform.predict(name, [[1]]).json()
    return answer["values"][0][0] if "values" in answer else answer["error"]["code"]


def test_a_mirror_answers_what_was_uploaded(mirrored: RunningPlatform, cache: Path) -> None:
    assert mirrored.put("five", constant(5, padding_bytes=3_000_000)).status_code == 201
    mirrored.stop("modelhost-1")
    assert values(mirrored, "five") == 5
    assert mirrored.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    assert len(cached(cache)) > 1
