"""Who is left out, for how long, and with which share it comes back; time is an argument."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.balancer import choose_replica
from inferrer.ejection import FULL, LONGEST_S, RAMP_S, Standing, by_share

seconds = st.floats(0, 1e6)


@dataclass
class Host:
    """A candidate."""

    tenths: int
    in_flight: int = 0
    held_bytes: int = 0
    took_s: float = 0.0


def test_five_faults_in_a_row_eject() -> None:
    standing = Standing()
    assert [standing.fault() for _ in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize(("every", "ejects"), [(2, True), (10, True), (19, True), (22, False), (100, False)])
def test_failing_more_than_one_in_twenty_for_long_ejects(every: int, ejects: bool) -> None:  # noqa: FBT001 - a column
    standing, out = Standing(), False
    for number in range(1, 20_000):
        if number % every:
            standing.pardon()
        else:
            out = out or standing.fault()
    assert out is ejects


def test_each_ejection_lasts_twice_as_long_up_to_a_bound() -> None:
    standing, now, lasted = Standing(), 0.0, []
    for _ in range(8):
        lasted.append(standing.eject("faulty", now))
        assert standing.ejected
        assert not standing.may_return(now + lasted[-1] - 0.01)
        now += lasted[-1]
        assert standing.may_return(now)
        standing.readmit(now)
        assert not standing.ejected
    assert lasted == [1, 2, 4, 8, 16, LONGEST_S, LONGEST_S, LONGEST_S]
    assert standing.eject("faulty", now + 61) == 1, "a minute without is a new beginning"


def test_who_comes_back_from_faults_is_on_probation() -> None:
    standing = Standing()
    while not standing.fault():
        pass
    standing.eject("faulty", 0)
    standing.readmit(1)
    assert standing.fault()
    standing = Standing()
    standing.eject("silent", 0)
    standing.readmit(1)
    assert not standing.fault(), "silence is no fault that answers would have to make good"


@given(seconds, seconds)
def test_a_share_only_grows_from_a_tenth_to_the_whole(one: float, other: float) -> None:
    standing = Standing()
    assert standing.tenths(one) == FULL, "nothing is held against who has just come"
    standing.eject("silent", 0)
    standing.readmit(0)
    early, late = sorted((one, other))
    assert 1 <= standing.tenths(early) <= standing.tenths(late) <= FULL
    assert standing.tenths(0) == 1
    assert standing.tenths(RAMP_S) == FULL


def test_only_who_had_served_begins_with_a_small_share_after_a_loss() -> None:
    standing = Standing()
    standing.lose()
    standing.greet(5)
    assert standing.tenths(5) == FULL
    standing.lose()
    standing.greet(7)
    assert standing.tenths(7) == 1


@given(st.lists(st.integers(1, FULL), min_size=1, max_size=8))
def test_nobody_is_left_out_and_equals_stand_once(tenths: list[int]) -> None:
    hosts = [Host(share) for share in tenths]
    listed = by_share(hosts)
    assert all(any(entry is host for entry in listed) for host in hosts)
    if len(set(tenths)) == 1:
        assert len(listed) == len(hosts)


def test_a_small_share_gets_little_and_not_nothing() -> None:
    hosts, rng = [Host(FULL), Host(FULL), Host(1)], random.Random(5)  # noqa: S311 - chance, not secrecy
    listed = by_share(hosts)
    chosen = Counter(id(choose_replica(listed, rng.random)) for _ in range(20_000))
    assert 0.01 < chosen[id(hosts[2])] / 20_000 < 0.12
