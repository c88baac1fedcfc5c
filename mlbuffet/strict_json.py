"""Reads JSON as strictly as it is defined, and says what the parser does not.

orjson refuses NaN, infinities, text that is no UTF-8, half a surrogate pair and more than 1,024 levels. It lets two
things through: a whole number beyond 64 bits, which becomes a rounded float, and a name that stands twice in an object,
of which it keeps the last (docs/adr/0016-strict-json.md).
"""

import re
from typing import Any

import orjson

from mlbuffet.errors import InvalidJSONError, InvalidNumberError

# A whole number that may be too long has twenty characters or more, as both ends of the range have.
_LEAST, _MOST = b"-9223372036854775808", b"18446744073709551615"
_LONG = re.compile(rb"[\[,:\s]([-0-9][0-9]{19,}+)(?![.eE])")
# The same as a plain search: every digit and sign as 0, and whatever may stand before a number as a comma.
_ALIGNED = bytes.maketrans(b"-123456789[: \t\r\n", b"0000000000,,,,,,")
_ALIGNED_LONG = b"," + b"0" * 20
_SHORT_BYTES = len(_ALIGNED_LONG) - 1
_STRING = re.compile(rb'"[^"]*"?')


def parse(text: bytes) -> Any:  # noqa: ANN401 - any JSON
    """What a JSON text says.

    Raises:
        InvalidNumberError: a number that JSON does not have, that no float64 holds, or a whole one beyond 64 bits.
        InvalidJSONError: anything else that is not JSON.
    """
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        refusal = InvalidNumberError if _stops_in_number(error) else InvalidJSONError
        msg = f"the body is not JSON: {error}"
        raise refusal(msg) from None
    if (len(text) > _SHORT_BYTES and _ALIGNED_LONG in text.translate(_ALIGNED)) or type(data) is float:
        _refuse_rounded(text)
    return data


def _stops_in_number(error: orjson.JSONDecodeError) -> bool:
    """Tell whether it is a number that the parser refused; `-Infinity` is none."""
    before, here = error.doc[error.pos - 1 : error.pos], error.doc[error.pos : error.pos + 1]
    if error.msg.startswith(("number", "no digit")):
        return here != "I"
    return before.isdecimal() and (here.isalnum() or here in {".", "_"})


def _refuse_rounded(text: bytes) -> None:
    for found in _LONG.finditer(b" " + without_strings(text)):
        number = found[1]
        if len(number) > len(_MOST) or number > (_LEAST if number.startswith(b"-") else _MOST):
            msg = f"a whole number has at most 64 bits; received one of {len(number)} characters"
            raise InvalidNumberError(msg)


def without_strings(text: bytes) -> bytes:
    """A JSON text with every string empty; takes time in proportion to its length, whatever it is."""
    return _STRING.sub(b'""', _without_escaped_quotes(text))


def count_strings(text: bytes) -> int:
    """How many strings a JSON text has, names among them.

    What was parsed has as many, unless a name stood twice in an object.
    """
    return _without_escaped_quotes(text).count(b'"') // 2


def _without_escaped_quotes(text: bytes) -> bytes:
    return text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
