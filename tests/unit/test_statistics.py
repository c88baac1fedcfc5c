"""What is counted of a version's requests, and the page on which its runners count for themselves."""

from modelhost.progress import MOST_ROWS, Counts, Progress, new_page
from modelhost.statistics import Statistics


def test_the_page_says_what_runs_and_what_was_done() -> None:
    page = Progress(new_page())
    assert (page.read_running(), page.read_counts()) == ((), Counts())
    page.run_together(range(1, MOST_ROWS + 1))
    assert page.read_running() == tuple(range(1, MOST_ROWS + 1)), "as many as may ever run together"
    page.rest(Counts(1, MOST_ROWS, 2, 3, 4))
    assert (page.read_running(), page.read_counts()) == ((), Counts(1, MOST_ROWS, 2, 3, 4))
    page.run_one(7)
    assert (page.read_running(), page.read_counts()) == ((7,), Counts(1, MOST_ROWS, 2, 3, 4))
    page.close()


def test_several_runners_add_up() -> None:
    assert Counts(1, 2, 3, 4, 5).plus(Counts(10, 20, 30, 40, 50)) == Counts(11, 22, 33, 44, 55)


def test_the_last_prediction_has_its_time_of_day() -> None:
    statistics = Statistics()
    counts = Counts(2, 3, 10, 20, 30)
    assert statistics.describe(counts, 5, 50, 1_700_000_000_000, 9_000_000)["last_inference_ms"] == 0, "none yet"
    statistics.succeeded, statistics.succeeded_ns, statistics.answered_at_ns = 4, 400, 5_000_000
    statistics.fail(7)
    assert statistics.describe(counts, 5, 50, 1_700_000_000_000, 9_000_000) == {
        "inference_count": 3,
        "execution_count": 2,
        "last_inference_ms": 1_699_999_999_996,
        "success": {"count": 4, "ns": 400},
        "fail": {"count": 1, "ns": 7},
        "queue": {"count": 5, "ns": 50},
        "compute_input": {"count": 4, "ns": 10},
        "compute_infer": {"count": 4, "ns": 20},
        "compute_output": {"count": 4, "ns": 30},
    }
