"""What a process tells of itself, also when it can hardly look."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from mlbuffet.chassis.tally import Family, Tally
from mlbuffet.chassis.vitals import Vitals

CPU = Family("process_cpu_seconds", "")
OPEN = Family("process_open_fds", "", gauge=True)


@contextmanager
def nothing_can_be_opened() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_is_measured() -> None:
    tally = Tally()
    vitals = Vitals(tally)
    before = tally.get(CPU)
    sum(range(1_000_000))
    vitals.measure()
    assert tally.get(CPU) > before
    assert tally.get(OPEN) > 2


def test_l14_a_process_without_a_free_descriptor_goes_on() -> None:
    tally = Tally()
    vitals = Vitals(tally)
    before = tally.get(OPEN)
    with nothing_can_be_opened():
        vitals.measure()
    assert tally.get(OPEN) == before
