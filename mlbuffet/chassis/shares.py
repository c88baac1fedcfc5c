"""How many connections each process of a service has, so that each takes its share of the new ones.

The kernel wakes all of them for a new connection, and whoever runs first takes it: of 32 that came at once, one of two
processes often took nearly all, and one core idled while the other had the work. A process that has more than another
leaves the next connection to it for a moment. The counts lie in memory that the processes share.
"""

import mmap

_FREE, _ABSENT = -2, -1
_BYTES = 8
_AHEAD, _SHARE_AHEAD = 2, 8  # how many more than another one has, at least and as a share of those, are too many


class Share:
    """One process's count among those of its siblings; by itself it has none."""

    def __init__(self, counts: memoryview | None = None, own: int = 0) -> None:
        self._counts = _nobody() if counts is None else counts
        self._own = own

    def tell(self, count: int) -> None:
        """Say how many connections this process has now."""
        self._counts[self._own] = count

    def leave(self) -> None:
        """Say that this process takes no more connections; what it tells from now on nobody hears."""
        self._counts[self._own] = _ABSENT
        self._counts, self._own = _nobody(), 0

    def free(self) -> None:
        """Let another process have this place; called by whoever made it, when this process has ended."""
        self._counts[self._own] = _FREE

    def is_ahead(self) -> bool:
        """Tell whether this process has more connections than another one that takes some."""
        counts = self._counts.tolist()
        least = min(count for count in counts if count >= 0)
        return counts[self._own] >= least + max(least // _SHARE_AHEAD, _AHEAD)


class Shares:
    """The counts of all processes, made by the one that forks them."""

    def __init__(self, processes: int) -> None:
        """Have room for so many at the same time."""
        self._counts = memoryview(mmap.mmap(-1, processes * _BYTES)).cast("q")
        for place in range(processes):
            self._counts[place] = _FREE

    def take(self) -> Share:
        """A place for a process that is about to be forked; one for which there is no room counts for itself."""
        counts = self._counts.tolist()
        if _FREE not in counts:
            return Share()
        place = counts.index(_FREE)
        self._counts[place] = _ABSENT  # until it takes connections
        return Share(self._counts, place)


def _nobody() -> memoryview:
    """Counts of a process that has no siblings."""
    return memoryview(bytearray(_BYTES)).cast("q")
