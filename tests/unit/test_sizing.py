"""How many runners and threads a version gets."""

from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.manifest import ServingSettings
from modelhost.sizing import Ceilings, most_threads, pays_off, runners_for, threads_for

MEASURED = ServingSettings()
counts = st.integers(1, 64)
runs = st.one_of(st.none(), st.floats(0, 100))


def test_a_fast_model_has_one_runner_of_one_thread() -> None:
    assert runners_for(MEASURED, Ceilings(8), 1, 0.0005) == 1
    assert runners_for(MEASURED, Ceilings(8), 1, None) == 1, "nobody knows how long it runs"


def test_a_slow_model_has_a_runner_for_each_core_or_one_with_all_threads() -> None:
    assert runners_for(MEASURED, Ceilings(8), 1, 0.01) == 8
    assert runners_for(MEASURED, Ceilings(8), 8, 0.01) == 1
    assert runners_for(MEASURED, Ceilings(8, threads=4), 4, 0.01) == 2
    assert runners_for(MEASURED, Ceilings(1), 1, 10) == 1, "the cores are taken"


def test_threads_are_worth_it_where_a_run_becomes_nearly_as_many_times_faster() -> None:
    assert pays_off(1.0, 0.26, 4)
    assert not pays_off(1.0, 0.3, 4)


def test_threads_are_measured_unless_somebody_says_or_there_is_no_choice() -> None:
    assert threads_for(MEASURED, Ceilings(4)) == 0
    assert threads_for(MEASURED, Ceilings(1)) == 1
    assert threads_for(MEASURED, Ceilings(4, threads=1)) == 1
    assert threads_for(ServingSettings(threads=3), Ceilings(1)) == 3, "the operator's word counts more than the cores"
    assert threads_for(ServingSettings(threads=3), Ceilings(4, threads=2)) == 2
    assert most_threads(Ceilings(4)) == 4
    assert most_threads(Ceilings(4, threads=2)) == 2


def test_runners_are_those_asked_for_below_the_ceiling() -> None:
    asked = ServingSettings(runners=3)
    assert runners_for(asked, Ceilings(1), 1, 0.0001) == 3
    assert runners_for(asked, Ceilings(1, runners=2), 1, 0.0001) == 2
    assert runners_for(MEASURED, Ceilings(8, runners=2), 1, 1.0) == 2


@given(counts, counts, runs, st.integers(0, 8))
def test_measured_runners_never_need_more_than_the_cores(
    cores: int, threads: int, run_s: float | None, most: int
) -> None:
    ceilings = Ceilings(cores, most)
    runners = runners_for(MEASURED, ceilings, min(threads, cores), run_s)
    assert runners >= 1
    assert runners == 1 or runners * min(threads, cores) <= cores
    assert not most or runners <= most
