"""Says before a body is parsed whether what it describes fits into memory: else the parser would end the process.

A text of 64 MiB can describe objects of 3 GiB. Numbers are counted by what stands between them, so a tensor of ordinary
numbers is far below every bound (docs/adr/0016-strict-json.md).
"""

import mmap

from mlbuffet.errors import ResourceLimitError
from mlbuffet.strict_json import count_strings, without_strings

# orjson takes room for its own tree at once, 12 bytes a character, and a copy; then come the objects: measured were 37
# bytes for each character of "[[[[0]]]]", 33 for a float and its comma. The array later fits where the tree was.
_CHARACTER_BYTES, _WIDE_CHARACTER_BYTES = 14, 18
_STRUCTURE_BYTES = 40
_STRIPPED_BYTES = 256  # for each string that is taken out
_ALWAYS_BYTES = 1 << 16  # of text
_NUMBERS = b"0123456789.+- \t\r\n"
_MOST_BYTES = 1 << 30


def check_memory(text: bytes) -> None:
    """Refuse a JSON text whose objects could take more memory than this process may have.

    Raises:
        ResourceLimitError: they could.
    """
    if len(text) <= _ALWAYS_BYTES:
        return
    structure = text.translate(None, _NUMBERS)
    objects_bytes = _STRUCTURE_BYTES * len(structure)
    text_bytes = len(text) * (_CHARACTER_BYTES if text.isascii() else _WIDE_CHARACTER_BYTES)
    if _fits(objects_bytes, text_bytes):
        return
    # What stands in strings is no structure; it is taken out if that fits.
    if _fits(_STRIPPED_BYTES * count_strings(structure)):
        objects_bytes = _STRUCTURE_BYTES * len(without_strings(structure))
        if _fits(objects_bytes, text_bytes):
            return
    msg = "the values would take more memory as objects than there is; send them in several requests"
    raise ResourceLimitError(msg)


def _fits(objects_bytes: int, more_bytes: int = 0) -> bool:
    """Ask the kernel for as much memory and give it back untouched; a runner may not read what it has left."""
    if objects_bytes > _MOST_BYTES:
        return False
    try:
        mmap.mmap(-1, objects_bytes + more_bytes + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True
