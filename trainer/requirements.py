"""Which requirements are taken: names and versions as in PEP 508, no options, and addresses only where that is allowed.

An option in a requirements file could name another index, another file, or a program to run.
"""

import re
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement

from mlbuffet.errors import InvalidRequirementsError

REQUIREMENTS_BYTES = 1 << 16
_COMMENT = re.compile(r"(^|\s+)#.*$")


def check_requirements(data: bytes, *, urls: bool) -> None:
    """Look at each line.

    Raises:
        InvalidRequirementsError: one of them is not taken.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        msg = "the requirements are not UTF-8"
        raise InvalidRequirementsError(msg) from None
    for number, wanted in wanted_lines(text):
        _check_line(wanted, number, urls=urls)


def wanted_lines(text: str) -> Iterator[tuple[int, str]]:
    """What is asked for, each with the number of its line, without comments and empty lines."""
    for number, line in enumerate(text.splitlines(), 1):
        wanted = _COMMENT.sub("", line).strip()
        if wanted:
            yield number, wanted


def _check_line(wanted: str, number: int, *, urls: bool) -> None:
    where = f"line {number} of the requirements"
    if wanted.startswith("-"):
        msg = f"{where} is an option, which is not taken: {wanted[:80]!a}"
        raise InvalidRequirementsError(msg)
    try:
        requirement = Requirement(wanted)
    except InvalidRequirement:
        msg = f"{where} is to be a requirement as 'scikit-learn==1.7.2'; received {wanted[:80]!a}"
        raise InvalidRequirementsError(msg) from None
    if requirement.url is not None and not urls:
        msg = f"{where} names an address, which is not taken here: {wanted[:80]!a}"
        raise InvalidRequirementsError(msg)
