"""Why a script has failed, by what its engine has seen and what it printed last. Pure."""

from trainer.engine import Seen, Usage
from trainer.runs import Limits, Reason

_FULL = ("No space left on device", "[Errno 28]", "Disk quota exceeded")
_CROWDED = ("can't start new thread", "Resource temporarily unavailable", "[Errno 11]")
_KILLED = 137


def verdict(seen: Seen, limits: Limits, most: Usage, pids: int, tail: str) -> tuple[Reason, str]:
    """Reason and message for a script that ended with another status than 0."""
    if seen.lost:
        return Reason.INTERRUPTED, "the engine was stopped while the script ran"
    if seen.out_of_memory or (seen.exit_code == _KILLED and most.memory_bytes >= limits.memory_bytes):
        return Reason.OOM_KILLED, f"the script took more than its {limits.memory_bytes} bytes of memory"
    if any(words in tail for words in _FULL):
        return Reason.DISK_LIMIT, "the script wrote more, or more files, than its disk takes"
    if most.pids >= pids or any(words in tail for words in _CROWDED):
        return Reason.PIDS_LIMIT, f"the script wanted more than its {pids} processes and threads"
    if seen.exit_code > 128:  # noqa: PLR2004 - as the shell counts
        return Reason.SCRIPT_FAILED, f"the script was ended by signal {seen.exit_code - 128}"
    return Reason.SCRIPT_FAILED, f"the script ended with status {seen.exit_code}"
