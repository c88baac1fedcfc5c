"""Replays a power cut: of all that a process wrote, only what it had fsynced is left.

Killing a process proves nothing here, because the kernel still writes what it had. So a recorder inside the process
keeps a journal: an fsync of a file makes its content durable, an fsync of a folder its entries (names and inodes).
`materialise` builds the tree that a disk without power would show: from the root's durable entries down, each file with
its last durable content. That is the least a file system guarantees; a real one keeps more, so what survives here
survives there.

The recorder runs in the services before their own code, see `planted`. It writes nothing into the repository.
"""

import base64
import json
from pathlib import Path

from tests.harness.faults import planted

Entries = dict[str, tuple[int, bool]]  # a folder's: name to inode, and whether that is a folder

_RECORDER = '''
"""Records what fsync makes durable (tests/harness/power_cut.py)."""
import base64, json, os, stat, threading

_root = os.environ["PYTHON_POWER_CUT_ROOT"]
_fsync = os.fsync
_lock = threading.Lock()


def _record(fd):
    """What this fsync makes durable; descriptors outside the repository are of no interest."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path != _root and not path.startswith(_root + "/"):
        return None
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):
        entries = {item.name: [item.inode(), item.is_dir()] for item in os.scandir(fd)}
        return {"inode": info.st_ino, "entries": entries}
    return {"inode": info.st_ino, "data": base64.b64encode(os.pread(fd, info.st_size, 0)).decode()}


def fsync(fd):
    _fsync(fd)
    record = None
    try:
        number = fd if isinstance(fd, int) else fd.fileno()
        # A second descriptor: the first may be open for writing only.
        twin = os.open(f"/proc/self/fd/{number}", os.O_RDONLY)
        try:
            record = _record(twin)
        finally:
            os.close(twin)
    except OSError:
        pass
    if record is not None:
        line = json.dumps(record).encode() + b"\\n"
        with _lock:
            journal = os.open(os.environ["PYTHON_POWER_CUT_JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(journal, line)  # one write, so that processes do not mix
            finally:
                os.close(journal)


os.fsync = fsync
'''


def recording(folder: Path, repository: Path, *, defect: str = "") -> dict[str, str]:
    """Environment of an inferrer that keeps a journal; `defect` is code that plants a fault into it."""
    return planted(folder, _RECORDER, defect) | {
        "PYTHON_POWER_CUT_ROOT": str(repository.resolve()),
        "PYTHON_POWER_CUT_JOURNAL": str(folder / "journal"),
    }


def materialise(folder: Path, repository: Path, target: Path) -> None:
    """Build what a power cut at this moment would leave of `repository` in `target`.

    What stood there before the recorder began, and was never touched since, counts as durable.
    """
    contents: dict[int, bytes] = {}
    entries: dict[int, Entries] = {}
    journal = folder / "journal"
    for line in journal.read_text().splitlines() if journal.exists() else ():
        record = json.loads(line)
        if "data" in record:
            contents[record["inode"]] = base64.b64decode(record["data"])
            entries.pop(record["inode"], None)  # the inode's number was used again
        else:
            entries[record["inode"]] = record["entries"]
            contents.pop(record["inode"], None)
    target.mkdir(parents=True)
    _restore(repository.stat().st_ino, target, contents, entries)


def _restore(inode: int, target: Path, contents: dict[int, bytes], entries: dict[int, Entries]) -> None:
    """A name whose content was not made durable is an empty file or folder: that is what an fsync too few leaves."""
    for name, (child, is_folder) in entries.get(inode, {}).items():
        if is_folder:
            (target / name).mkdir()
            _restore(child, target / name, contents, entries)
        else:
            (target / name).write_bytes(contents.get(child, b""))


def record_all(folder: Path, repository: Path) -> None:
    """Take everything that is in a repository for durable: what a test begins with."""
    lines = []
    for path in [repository, *repository.rglob("*")]:
        record: dict[str, object] = {"inode": path.stat().st_ino}
        if path.is_dir():
            record["entries"] = {item.name: [item.stat().st_ino, item.is_dir()] for item in path.iterdir()}
        else:
            record["data"] = base64.b64encode(path.read_bytes()).decode()
        lines.append(json.dumps(record) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "journal").open("a") as file:
        file.writelines(lines)
