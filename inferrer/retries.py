"""How many requests may be sent once more. Pure: no clock."""

_KEPT = 10  # seconds' worth of allowance


class RetryBudget:
    """Retries are a share of recent requests, so that they never multiply an overload; a few are always allowed.

    The allowance of the last ten seconds or so can be used at once, as when a modelhost is lost with all it had.
    """

    def __init__(self, share: float = 0.2, floor: float = 10) -> None:
        self._share = share
        self._floor = floor
        self._tokens = floor

    def request(self) -> None:
        """Count a request."""
        self._tokens += self._share

    def take(self) -> bool:
        """Tell whether one more retry may be sent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def age(self, seconds: float) -> None:
        """Let time pass: what was earned long ago counts no more."""
        if self._tokens > self._floor:
            self._tokens = max(self._tokens * (1 - min(seconds / _KEPT, 1)), self._floor)
