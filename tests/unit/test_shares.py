"""Counts of connections that processes share: who is ahead, and who is not asked."""

import multiprocessing

from mlbuffet.chassis.shares import Share, Shares


def pair(mine: int, others: int) -> Share:
    """The first of two processes with so many connections."""
    shares = Shares(2)
    first, second = shares.take(), shares.take()
    first.tell(mine)
    second.tell(others)
    return first


def test_who_has_two_more_than_another_is_ahead() -> None:
    assert pair(2, 0).is_ahead()
    assert not pair(1, 0).is_ahead()
    assert not pair(0, 9).is_ahead()


def test_among_many_a_few_more_do_not_matter() -> None:
    assert not pair(110, 100).is_ahead()
    assert pair(112, 100).is_ahead()


def test_only_those_that_take_connections_count() -> None:
    shares = Shares(3)
    first, second = shares.take(), shares.take()
    first.tell(9)
    assert not first.is_ahead()  # the second has told nothing yet, the third is nobody
    second.tell(0)
    assert first.is_ahead()
    second.leave()
    assert not first.is_ahead()
    second.tell(1)  # of its last ones; it takes no more
    assert not first.is_ahead()


def test_a_place_is_had_again_and_who_finds_none_counts_alone() -> None:
    shares = Shares(1)
    first = shares.take()
    alone = shares.take()
    alone.tell(9)
    assert not alone.is_ahead()
    first.tell(3)
    first.free()
    again = shares.take()
    again.tell(0)
    alone.tell(9)
    assert not alone.is_ahead()


def test_forked_processes_share_them() -> None:
    shares = Shares(2)
    mine, other = shares.take(), shares.take()
    mine.tell(5)
    child = multiprocessing.get_context("fork").Process(target=other.tell, args=(1,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert mine.is_ahead()
