"""Which requests run together, and how many rows are best."""

from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhost.batching import batches, best_limit


@dataclass(frozen=True)
class Request:
    """A request as batching sees it."""

    number: int
    fits: Hashable
    rows: int


requests = st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.integers(1, 20))).map(
    lambda kinds: [Request(number, fits, rows) for number, (fits, rows) in enumerate(kinds)]
)


@given(requests, st.integers(1, 64))
def test_every_request_is_in_one_batch_in_its_order_with_those_it_fits(jobs: list[Request], limit: int) -> None:
    made = list(batches(jobs, limit))
    assert [job for batch in made for job in batch] == jobs
    for batch in made:
        assert len({job.fits for job in batch}) == 1
        assert len(batch) == 1 or sum(job.rows for job in batch) <= limit
        assert len(batch) == 1 or batch[0].fits is not None


def test_a_batch_is_filled_before_the_next_begins() -> None:
    jobs = [Request(number, "a", rows) for number, rows in enumerate((3, 3, 3, 1, 9, 1))]
    assert [[job.rows for job in batch] for batch in batches(jobs, 8)] == [[3, 3], [3, 1], [9], [1]]


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "best"),
    [
        (1e-5, 1e-7, 64),  # a small model: nearly all is the call itself
        (0, 1e-4, 1),  # no gain: one row is answered soonest
        (1e-4, 1e-4, 16),  # little is left to gain beyond
    ],
)
def test_the_limit_is_where_a_larger_batch_gains_no_more(fixed_s: float, row_s: float, best: int) -> None:
    assert best_limit(lambda rows: fixed_s + rows * row_s, 10) == best


def test_a_network_that_is_slower_in_a_batch_runs_row_by_row() -> None:
    assert best_limit(lambda rows: rows * (1e-3 if rows == 1 else 1.2e-3), 10) == 1


def test_trying_takes_no_longer_than_it_may() -> None:
    spent: list[float] = []

    def time_of(rows: int) -> float:
        spent.append(0.02 + rows * 1e-5)
        return spent[-1]

    assert best_limit(time_of, 0.05) == 2
    assert sum(spent) < 0.05
