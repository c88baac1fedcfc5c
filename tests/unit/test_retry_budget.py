from hypothesis import given
from hypothesis import strategies as st

from inferrer.dataplane import RetryBudget


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


def test_what_was_not_used_is_kept_only_up_to_a_ceiling() -> None:
    budget = RetryBudget(share=0.5, floor=2)
    for _ in range(10_000):
        budget.request()
    assert sum(budget.take() for _ in range(1000)) == 20
