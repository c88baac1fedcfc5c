"""What an inferrer sends of the repository's files, and to whom it does not."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.mirrors import MOST_BYTES, MOST_PIECES, Mirrors, read_piece
from inferrer.replica import Replica
from inferrer.repository import Repository
from mlbuffet.channel import FrameError, Kind
from mlbuffet.errors import NotFoundError
from mlbuffet.index import Index, model_file
from tests.harness.platform import copy_samples


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A repository with the sample models."""
    root = tmp_path_factory.mktemp("repository")
    copy_samples(root)
    return Index(Repository(root).root)


def test_pieces_of_versions_and_of_staged_uploads(index: Index) -> None:
    manifest = index.model("iris.onnx").manifest
    data = model_file(index.root, manifest).read_bytes()
    assert read_piece(index.root, manifest.key, 10, 20) == data[10:30]
    assert read_piece(index.root, manifest.key, len(data) - 5, 20) == data[-5:]
    assert read_piece(index.root, manifest.key, len(data) + 5, 20) == b""
    with Repository(index.root).stage() as staged:
        staged.write(b"staged")
        assert read_piece(index.root, staged.folder.name.encode(), 1, 3) == b"tag"
    with pytest.raises(NotFoundError):
        read_piece(index.root, staged.folder.name.encode(), 1, 3)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"none:1@00",
        b"iris.onnx:1@0000000000000000",
        b"iris.onnx:2@",
        b"../x:1@",
        b".mlbuffet:1@",
        b"staging",
        b"0" * 31,
    ],
)
def test_s15_what_is_no_version_is_not_found(key: bytes, index: Index) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_piece(index.root, key, 0, 10)
    assert str(index.root) not in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_no_key(index: Index, key: bytes) -> None:
    with pytest.raises(NotFoundError):
        read_piece(index.root, key, 0, 10)


class Modelhost:
    """One that keeps what it is sent."""

    id = "m"
    full = False

    def __init__(self) -> None:
        self.kinds: list[int] = []

    def send(self, kind: int, *_: Any) -> None:  # noqa: ANN401
        """Keep its kind."""
        self.kinds.append(kind)


def test_no_more_is_read_at_once_than_a_sound_modelhost_asks_for(index: Index) -> None:
    async def scenario() -> None:
        mirrors, host = Mirrors(index), Modelhost()
        replica = cast("Replica", host)
        key = index.model("iris.onnx").manifest.key
        with pytest.raises(FrameError):
            mirrors.fetch(replica, key, 1, 0, MOST_BYTES + 1)
        for number in range(MOST_PIECES):
            mirrors.fetch(replica, key, number, 0, 10)
        with pytest.raises(FrameError):
            mirrors.fetch(replica, key, MOST_PIECES, 0, 10)
        async with asyncio.timeout(10):
            while len(host.kinds) < MOST_PIECES:
                await asyncio.sleep(0.01)
        mirrors.fetch(replica, b"none", 9, 0, 10)
        async with asyncio.timeout(10):
            while host.kinds != [Kind.REPLY] * MOST_PIECES + [Kind.ERROR]:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
