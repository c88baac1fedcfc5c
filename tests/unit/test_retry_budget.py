from hypothesis import given, settings
from hypothesis import strategies as st

from inferrer.retries import RetryBudget


@given(st.lists(st.booleans(), max_size=2000))
def test_retries_never_exceed_their_share_of_the_requests(turns: list[bool]) -> None:
    budget, requests, retries = RetryBudget(share=0.2, floor=10), 0, 0
    for is_request in turns:
        if is_request:
            budget.request()
            requests += 1
        else:
            retries += budget.take()
    assert retries <= 10 + 0.2 * requests + 1e-6


def test_a_quiet_start_allows_a_few() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]


def taken(budget: RetryBudget) -> int:
    """How many retries there are to take now."""
    return sum(budget.take() for _ in range(100_000))


def test_what_was_not_used_fades_to_what_is_always_allowed() -> None:
    budget = RetryBudget(share=0.5, floor=2)
    for _ in range(10_000):
        budget.request()
    for _ in range(6000):
        budget.age(0.02)
    assert taken(budget) == 2


@given(st.integers(10, 2000))
@settings(max_examples=20, deadline=None)
def test_at_a_steady_rate_ten_seconds_of_it_are_kept(per_second: int) -> None:
    budget = RetryBudget(share=0.2, floor=10)
    for _ in range(60 * 50):
        for _ in range(per_second // 50):
            budget.request()
        budget.age(0.02)
    kept = 0.2 * (per_second // 50 * 50) * 10
    assert taken(budget) <= max(kept, 10)
    assert kept < 20 or taken(budget) == 0
