"""Heads that were parsed before: a client on a kept connection sends the same one again and again.

What the parser and the reader's checks make of a head depends on its bytes alone, but for the API key in it: the gate
is asked again whether that still counts. So a request that comes in one piece, whose head is byte for byte one that the
lane took before, and whose body is exactly as long as that head says, is taken without parsing it again. Everything
else is parsed.
"""

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.chassis.request import Request

_MOST = 512
_LONGEST_BYTES = 1024
_END = b"\r\n\r\n"


class KnownHeads:
    """Heads of requests for the lane, for all connections of a process."""

    def __init__(self) -> None:
        self._known: dict[bytes, Request] = {}

    def find(self, data: bytes) -> Request | None:
        """The one whole request that `data` is, if its head is known; nothing may have come before it."""
        start = data.find(_END) + len(_END)
        known = self._known.get(data[:start])
        if known is None or len(data) - start != known.content_length:
            return None
        request = _copy(known)
        request.body = [data[start:]]
        request.request_id = known.request_id or request_id_of(b"")
        return request

    def learn(self, request: Request, data: bytes) -> bool:
        """Keep the head of a request for the lane, if `data` is nothing but this one request."""
        head = data[: len(data) - request.received]
        if (
            request.received != request.content_length
            or head.find(_END) != len(head) - len(_END)
            or not head.startswith(request.method)
            or request.expects
            or b"traceparent" in request.fields  # hardly ever the same again
            or not request.keep_alive
        ):
            return False
        known = self._known.get(head)
        if len(head) <= _LONGEST_BYTES and (known is None or known.grant is not request.grant):
            if known is None and len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[head] = known = _copy(request)
            known.body, known.peer = [], ""  # another client may send it
            if known.request_id.encode() != request.header(b"x-request-id"):
                known.request_id = ""  # it was ours
        return True


def _copy(request: Request) -> Request:
    copy = Request.__new__(Request)
    copy.__dict__.update(request.__dict__)
    return copy
