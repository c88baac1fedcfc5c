"""Shared memory: what a segment allows to whom, and when one is used again."""

import fcntl
import gc
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferrer.segments import MOST_SEGMENTS, Lease, Recipient, SegmentPool
from mlbuffet.channel import FrameError
from mlbuffet.segments import Reference, hand_over, is_sound, make_segment, map_segment, take_over
from modelhost.mappings import Mappings

SIZE = 1 << 17
MOST_BYTES = 1 << 20


@pytest.fixture
def segment() -> Iterator[tuple[int, memoryview]]:
    fd, view = make_segment(SIZE)
    yield fd, view
    os.close(fd)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


def test_nobody_can_cut_a_segment_off_or_let_it_grow(segment: tuple[int, memoryview]) -> None:
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment[0], size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment[0], fcntl.F_ADD_SEALS, 0)


def test_nobody_but_its_maker_can_write_to_a_segment(segment: tuple[int, memoryview]) -> None:
    fd, view = segment
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, SIZE)  # shared and writable
    seen = map_segment(fd, SIZE)
    assert seen.readonly
    view[:5] = b"hello"
    assert bytes(seen[:5]) == b"hello"


def test_a_segment_stays_mapped_as_long_as_anything_is_made_of_it(segment: tuple[int, memoryview]) -> None:
    seen = map_segment(segment[0], SIZE)
    piece = seen[10:20]
    before = maps()
    del seen
    assert maps() == before
    del piece
    gc.collect()
    assert maps() == before - 1


def maps() -> int:
    """How many segments this process has mapped."""
    return Path("/proc/self/maps").read_text().count("/memfd:segment")


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_only_what_is_sealed_and_as_large_as_it_says_is_sound(segment: tuple[int, memoryview]) -> None:
    assert is_sound(segment[0], SIZE)
    assert not is_sound(segment[0], SIZE * 2)
    bare = os.memfd_create("bare", os.MFD_ALLOW_SEALING)
    os.ftruncate(bare, SIZE)
    assert not is_sound(bare, SIZE)
    fcntl.fcntl(bare, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert not is_sound(bare, SIZE)
    os.close(bare)
    with Path(os.devnull).open("rb") as other:
        assert not is_sound(other.fileno(), 0)


def test_a_segment_is_handed_over_whole_or_not_at_all(
    segment: tuple[int, memoryview], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    assert hand_over(ours, 7, SIZE, segment[0])
    handed = take_over(theirs)
    assert handed is not None
    assert handed[:2] == (7, SIZE)
    assert is_sound(handed.fd, SIZE)
    os.close(handed.fd)
    with pytest.raises(BlockingIOError):
        take_over(theirs)
    for data, fds in ((b"short", [segment[0]]), (bytes(16), []), (bytes(17), [segment[0]])):
        socket.send_fds(ours, [data], fds)
        with pytest.raises(OSError, match="whole"):
            take_over(theirs)
    count = 0
    while hand_over(ours, 1, SIZE, segment[0]):  # until it takes no more
        count += 1
    assert 0 < count < 10_000
    theirs.close()
    assert not hand_over(ours, 1, SIZE, segment[0])


def test_a_runner_maps_what_it_was_handed_until_it_is_released(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    before, fds = maps(), descriptors()
    mappings = Mappings(theirs)
    for number in (1, 2):
        fd, view = make_segment(SIZE)
        view[:3] = b"%03d" % number
        hand_over(ours, number, SIZE, fd)
        os.close(fd)
        del view
    assert bytes(mappings.body(memoryview(Reference(2, 0, 3).pack()))) == b"002"
    assert bytes(mappings.body(memoryview(Reference(1, 1, 2).pack()))) == b"01"
    assert (maps(), descriptors()) == (before + 2, fds)
    mappings.release(1)
    mappings.release(3)
    assert maps() == before + 1
    mappings.release(2)
    assert maps() == before


def test_a_reference_is_read_whole() -> None:
    assert Reference.unpack(Reference(1 << 63, 5, 9).pack()) == (1 << 63, 5, 9)
    with pytest.raises(ValueError, match="reference of 3 bytes"):
        Reference.unpack(b"abc")
    assert issubclass(FrameError, ValueError)


# The pool ------------------------------------------------------------------------------------------------------------


class Pool:
    """A pool, its time, and what it has closed."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.closed: list[int] = []
        self.pool = SegmentPool(most_bytes, self.closed.append)
        self.now = 0.0

    def lease(self, key: bytes = b"a", size: int = SIZE, split: int = 0) -> Lease:
        """Room for a body."""
        lease = self.pool.lease(key, size, split, self.now)
        assert lease is not None
        return lease

    def number(self, key: bytes = b"a", size: int = SIZE) -> int:
        """The number of the segment that a body would go into."""
        return self.lease(key, size)._segment.number


def test_a_segment_is_used_again_for_its_own_version_only() -> None:
    pool = Pool()
    first = pool.number()
    assert pool.number() == first
    assert pool.number(b"b") != first
    assert pool.number() == first
    assert pool.number(size=SIZE + 1) != first
    held = pool.lease()
    assert pool.number() != first
    del held
    assert not pool.closed


def test_a_segment_that_may_still_be_read_is_never_used_again() -> None:
    pool = Pool()
    lease = pool.lease()
    number = lease._segment.number
    lease.spoil()
    del lease
    assert pool.number() != number
    assert pool.closed == [number]


def test_the_pool_is_bounded_in_bytes_and_in_segments() -> None:
    pool = Pool()
    held = [pool.lease() for _ in range(MOST_BYTES // SIZE)]
    assert pool.pool.lease(b"a", SIZE, 0, 0) is None
    assert pool.pool.held_bytes == MOST_BYTES
    number = held.pop()._segment.number
    assert pool.number(b"b") != number  # what nobody uses makes way
    assert pool.closed == [number]
    many = Pool(1 << 40)
    held = [many.lease() for _ in range(MOST_SEGMENTS)]
    assert many.pool.lease(b"a", SIZE, 0, 0) is None


def test_what_is_not_used_for_a_while_is_given_back() -> None:
    pool = Pool()
    before = descriptors(), maps()
    number = pool.number()
    pool.pool.age(4)
    pool.pool.age(8)
    assert pool.closed == []
    pool.pool.age(9.1)
    assert pool.closed == [number]
    assert pool.pool.held_bytes == 0
    assert (descriptors(), maps()) == before


def test_tensors_behind_their_json_begin_on_a_cache_line() -> None:
    pool = Pool()
    for split in (0, 1, 63, 64, 65, 191):
        lease = pool.lease(size=100_000, split=split)
        lease.view[:] = bytes(99_999) + b"!"
        assert bytes(lease)[-1:] == b"!"
        number, offset, size = Reference.unpack(lease.refer(Everybody(), b"a") or b"")
        assert ((offset + split) % 64, size, number) == (0, 100_000, lease._segment.number)


class Everybody(Recipient):
    """One that has every segment already."""

    def __init__(self) -> None:
        super().__init__("")

    def offer(self, segment: object) -> bool:  # noqa: ARG002
        """Have it."""
        return True


def test_a_version_never_sees_memory_of_another() -> None:
    lease = Pool().lease(b"a")
    assert lease.refer(Everybody(), b"b") is None
    assert lease.refer(Everybody(), b"a") is not None
    assert lease.refer(Recipient(""), b"a") is None
