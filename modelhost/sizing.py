"""How many runners and threads a version gets, from the cores and from how long it runs. Pure.

A fast model has one runner of one thread: requests that pile up run together there, and more processes would only cost
memory. A slow one gets a thread for every core: all in one runner where a single run becomes nearly as many times
faster, else in a runner each, for what the threads of one run lose among themselves is lost for everybody
(docs/adr/0021-runners-and-threads.md).
"""

from dataclasses import dataclass

from mlbuffet.manifest import ServingSettings

FAST_S = 0.002
_WORTH = 0.9  # of a core that a further thread brings: less, and a runner of its own brings more


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What one version may have on this modelhost; 0 for any number."""

    cores: int  # to count on
    runners: int = 0
    threads: int = 0


def threads_for(serving: ServingSettings, ceilings: Ceilings) -> int:
    """How many threads a run gets by the operator's word; 0 where it is to be measured."""
    if serving.threads is None:
        return 1 if ceilings.cores == 1 or ceilings.threads == 1 else 0
    return min(serving.threads, ceilings.threads or serving.threads)


def most_threads(ceilings: Ceilings) -> int:
    """How many threads a runner may choose."""
    return min(ceilings.cores, ceilings.threads or ceilings.cores)


def pays_off(one_s: float, many_s: float, threads: int) -> bool:
    """Tell whether a run of `many_s` on so many threads is worth them, when it takes `one_s` on one."""
    return one_s >= many_s * threads * _WORTH


def runners_for(serving: ServingSettings, ceilings: Ceilings, threads: int, run_s: float | None) -> int:
    """How many runners a version has whose runs use so many threads and take so long."""
    most = ceilings.runners or serving.runners or ceilings.cores
    if serving.runners is not None:
        return min(serving.runners, most)
    if run_s is None or run_s < FAST_S:
        return 1
    return min(max(ceilings.cores // threads, 1), most)
