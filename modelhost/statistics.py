"""What has become of the requests of one version since it was loaded, in the words of Triton's statistics extension.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md. Pure.
"""

from collections import Counter

from modelhost.progress import Counts


class Statistics:
    """Counted here, in the server process; what runners count for themselves is added when it is asked for."""

    def __init__(self) -> None:
        self.restarts: Counter[str] = Counter()  # runners replaced, by reason
        self.refusals: Counter[str] = Counter(QUEUE_FULL=0)  # requests not run, by error code
        self.succeeded = 0
        self.succeeded_ns = 0  # from arrival to answer, all together
        self.failed = 0
        self.failed_ns = 0
        self.answered_at_ns = 0  # by the monotonic clock; 0 before the first
        self.ended = Counts()  # of runners that are no more

    def fail(self, took_ns: int) -> None:
        """Count a request that was answered with an error."""
        self.failed += 1
        self.failed_ns += took_ns

    def describe(self, counts: Counts, queued: int, queued_ns: int, clock_ms: int, now_ns: int) -> dict[str, object]:
        """Everything but the version's name; `clock_ms` is the time of day at `now_ns`.

        `counts` are those of all runners, and `queued` requests have waited `queued_ns` for one.
        """
        answered_at_ns = max(self.answered_at_ns, counts.answered_at_ns)
        last_ms = clock_ms - (now_ns - answered_at_ns) // 1_000_000 if answered_at_ns else 0
        succeeded = self.succeeded + counts.direct
        return {
            "inference_count": counts.rows,
            "execution_count": counts.batches,
            "last_inference_ms": last_ms,
            "success": {"count": succeeded, "ns": self.succeeded_ns + counts.direct_ns},
            "fail": {"count": self.failed, "ns": self.failed_ns},
            "queue": {"count": queued + counts.direct, "ns": queued_ns},
            "compute_input": {"count": succeeded, "ns": counts.decode_ns},
            "compute_infer": {"count": succeeded, "ns": counts.run_ns},
            "compute_output": {"count": succeeded, "ns": counts.encode_ns},
        }
