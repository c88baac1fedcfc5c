"""What a modelhost tells others of one of its versions."""

import time

from modelhost.hosting import HostedVersion


def describe(version: HostedVersion) -> list[object]:
    """State, error code, reason and how it is run, as the inferrers are told."""
    code, reason = (version.error.code, version.error.message) if version.error else ("", "")
    return [version.state, code, reason, _serving(version), version.offers_line]


def _serving(version: HostedVersion) -> dict[str, object]:
    tuning = version.tuning
    if tuning is None:
        return {}
    run = {"threads": tuning.threads, "batch_rows": tuning.batch_rows, "run_s": tuning.run_s}
    return {"runners": version.runners, **run}


def show_statistics(version: HostedVersion) -> dict[str, object]:
    """What has become of its requests."""
    clock_ms, now_ns = time.time_ns() // 1_000_000, time.monotonic_ns()
    name = {"model": version.manifest.model, "version": version.manifest.version}
    requests = version.requests
    told = version.statistics.describe(version.counts, requests.queued, requests.queued_ns, clock_ms, now_ns)
    return name | told


def predictions(version: HostedVersion) -> int:
    """Requests that were given to its runners, those that came by lines when they were answered."""
    return version.requests.given + version.counts.direct


def pids(version: HostedVersion) -> list[int]:
    """The process ids of its runners."""
    return [runner.child.pid for runner in version.living]
