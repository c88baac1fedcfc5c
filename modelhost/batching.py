"""Which requests run together: those that fit, up to as many rows as the model runs best at once. Pure.

While a runner is busy, requests pile up; when it is free it takes what is there. Nobody waits for a batch to fill.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Protocol, TypeVar

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_WORTH = 0.95  # a larger batch is taken when a row in it costs less than this share
_VAIN = 2  # sizes in a row that gain nothing end the search: one may have been disturbed


class Job(Protocol):
    """A request as batching sees it."""

    @property
    def fits(self) -> Hashable:
        """Equal for requests that may run together; None for one that runs alone."""

    @property
    def rows(self) -> int:
        """How many observations it has."""


J = TypeVar("J", bound=Job)


def batches(jobs: Sequence[J], limit: int) -> Iterator[Sequence[J]]:
    """Cut requests into batches of at most `limit` rows, in the order in which they came."""
    if len(jobs) == 1:  # as most often
        yield jobs
        return
    for fits, group in groupby(jobs, key=lambda job: job.fits):
        batch: list[J] = []
        rows = 0
        for job in group:
            if batch and (fits is None or rows + job.rows > limit):
                yield batch
                batch, rows = [], 0
            batch.append(job)
            rows += job.rows
        yield batch


def best_limit(time_of: Callable[[int], float], budget_s: float) -> int:
    """How many rows run best at once: the size at which a row costs least, as far as the time for trying allows.

    `time_of` runs so many rows and says how many seconds that took. A convolutional network is often slower per row in
    a batch on a CPU, a small model much faster.
    """
    best, best_row_s, spent_s, vain = 1, float("inf"), 0.0, 0
    for size in _SIZES:
        took_s = time_of(size)
        spent_s += took_s
        if took_s / size <= best_row_s * _WORTH:
            best, best_row_s, vain = size, took_s / size, 0
        else:
            vain += 1
        if vain == _VAIN or spent_s + took_s > budget_s:
            break
    return best
