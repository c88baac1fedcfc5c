"""What a pyzmq message looks like, whichever loop moves it: one part where it is small, head and body where not.

A part costs more than joining 200 bytes; copying 3 MiB costs more than a part. Large bodies are sent and received
without a copy, as pyzmq's documentation advises. Small ones go through bare `send` and `recv`, part by part: twice as
fast as the `_multipart` forms. Sockets are `Any`: those for asyncio have the same methods, awaitable.
"""

from typing import Any

import zmq

from benchmarks.echo.exchange import HEAD, KEY, LARGE, TIME_NS, Task

Parts = list[Any]  # bytes, or zmq.Frame where nothing is copied


def request(task: Task, number: int, body: bytes) -> Parts:
    """The parts of a request."""
    head = HEAD.pack(1, 1, len(KEY), number, TIME_NS) + KEY
    return [head, body] if task.is_large else [head + body]


def reply(parts: Parts) -> Parts:
    """The parts that echo a request, as a ROUTER got it: the peer's identity in front."""
    identity, head = parts[0], parts[1]
    data = head if isinstance(head, bytes) else head.bytes
    _, codec, key_size, number, _ = HEAD.unpack_from(data)
    answer = HEAD.pack(2, codec, 0, number, 0)
    rest = parts[2:]
    return [identity, answer, *rest] if rest else [identity, answer + data[HEAD.size + key_size :]]


def body_bytes(parts: Parts) -> int:
    """The size of an answer's body, as a DEALER got it."""
    return len(parts[1]) if len(parts) > 1 else len(parts[0]) - HEAD.size


def send(sock: Any, parts: Parts) -> None:  # noqa: ANN401
    """Send a message from a socket that is not asyncio's."""
    for part in parts[:-1]:
        sock.send(part, zmq.SNDMORE)
    last = parts[-1]
    if len(last) > LARGE:
        sock.send(last, copy=False)
    else:
        sock.send(last)


def receive_routed(sock: Any, task: Task, flags: int = 0) -> Parts:  # noqa: ANN401
    """Take a message from a ROUTER that is not asyncio's, the peer's identity in front.

    Raises:
        zmq.Again: none is there, and the flags say not to wait.
    """
    return list(sock.recv_multipart(flags, copy=False)) if task.is_large else [sock.recv(flags), sock.recv()]


def receive(sock: Any, task: Task, flags: int = 0) -> Parts:  # noqa: ANN401
    """Take a message from a DEALER that is not asyncio's.

    Raises:
        zmq.Again: none is there, and the flags say not to wait.
    """
    return list(sock.recv_multipart(flags, copy=False)) if task.is_large else [sock.recv(flags)]


def serving(context: Any, task: Task) -> Any:  # noqa: ANN401
    """A bound ROUTER."""
    sock = context.socket(zmq.ROUTER)
    sock.bind(f"ipc://{task.address}")
    return sock


def driving(context: Any, task: Task) -> Any:  # noqa: ANN401
    """A connected DEALER that drops at once what is unsent when it is closed."""
    sock = context.socket(zmq.DEALER)
    sock.linger = 0
    sock.connect(f"ipc://{task.address}")
    return sock
