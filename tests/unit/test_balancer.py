import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.balancer import choose_replica
from mlbuffet.errors import UnavailableError


@dataclass
class Host:
    """A candidate: what the real one shares with it is what is in flight, and how long that takes."""

    in_flight: int
    took_s: float = 0.001
    held_bytes: int = 0


def chance(seed: int) -> Callable[[], float]:
    return random.Random(seed).random  # noqa: S311 - chance, not secrecy


loads = st.lists(st.integers(0, 1000), min_size=1, max_size=20)
seeds = st.integers(0, 2**32)


@given(loads, seeds)
def test_the_choice_is_a_candidate_and_never_the_only_busiest_of_several(numbers: list[int], seed: int) -> None:
    hosts = [Host(number) for number in numbers]
    chosen = choose_replica(hosts, chance(seed))
    assert any(chosen is host for host in hosts)
    if len(hosts) > 1 and numbers.count(max(numbers)) == 1:
        assert chosen.in_flight < max(numbers)


@given(st.integers(0, 1000), st.integers(0, 1000), seeds)
def test_of_two_the_less_busy_is_chosen(one: int, other: int, seed: int) -> None:
    assert choose_replica([Host(one), Host(other)], chance(seed)).in_flight == min(one, other)


@given(loads, st.integers(1, 64), st.floats(0, 1e6), seeds)
def test_whose_turn_it_is_gets_requests_while_it_is_not_much_busier(
    numbers: list[int], together: int, now: float, seed: int
) -> None:
    hosts = [Host(number) for number in numbers]
    turn = hosts[int(now / 0.05) % len(hosts)]
    chosen = choose_replica(hosts, chance(seed), together, now)
    assert chosen is turn or turn.in_flight >= min(numbers) + together
    assert chosen is turn or numbers.count(max(numbers)) > 1 or chosen.in_flight < max(numbers)


def test_one_that_is_slow_has_no_turns() -> None:
    hosts, rng = [Host(0, 0.01), Host(0), Host(0)], chance(1)
    chosen = []
    for number in range(6000):
        host = choose_replica(hosts, rng, 8, (number + 0.5) / 1000)
        chosen.append(host is hosts[0])
        host.in_flight = 1 if host is hosts[0] else 0  # it never answers
    assert sum(chosen) < 900


@given(seeds)
def test_one_that_has_much_to_read_has_no_turn_where_another_has_less(seed: int) -> None:
    now = 0.01
    full, free = Host(8, held_bytes=70_000), Host(6)
    chosen = {id(choose_replica([full, free], rng, 32, now)) for rng in [chance(seed)] for _ in range(64)}
    assert chosen == {id(full), id(free)}
    free.held_bytes = 10_000
    assert choose_replica([full, free], chance(seed), 32, now) is full


@pytest.mark.parametrize("count", [2, 3, 7])
def test_turns_come_equally_often(count: int) -> None:
    hosts, rng = [Host(0) for _ in range(count)], chance(1)
    chosen = Counter(id(choose_replica(hosts, rng, 8, (number + 0.5) / 1000)) for number in range(50 * count * 40))
    assert set(chosen.values()) == {2000}


def test_nobody_to_choose_from_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        choose_replica([], chance(1))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_equal_candidates_are_chosen_equally_often(count: int) -> None:
    hosts, rng = [Host(0) for _ in range(count)], chance(7)
    chosen = Counter(id(choose_replica(hosts, rng)) for _ in range(20_000))
    assert all(abs(chosen[id(host)] / 20_000 - 1 / count) < 0.02 for host in hosts)


def test_what_is_finished_at_different_speeds_spreads_by_speed() -> None:
    """Three modelhosts of which one takes five times as long: it gets the least, and none runs away."""
    hosts, rng = [Host(0) for _ in range(3)], chance(3)
    steps, served, most = (1, 1, 5), Counter[int](), 0
    for turn in range(20_000):
        for number, host in enumerate(hosts):
            if turn % steps[number] == 0:
                host.in_flight = max(host.in_flight - 1, 0)
        chosen = choose_replica(hosts, rng)
        chosen.in_flight += 1
        served[hosts.index(chosen)] += 1
        most = max(most, *(host.in_flight for host in hosts))
    assert served[2] < min(served[0], served[1]) / 1.5
    assert most < 20
