"""An HTTP server that echoes, as lean as ASGI allows: uvicorn with httptools on uvloop."""

from typing import Any

import uvicorn

from benchmarks.echo.exchange import KEY, TIME_NS, Task

REQUEST_HEADERS = {"X-Key": KEY.decode(), "X-Time": str(TIME_NS), "X-Codec": "1"}


async def _echo(_: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message["body"])
        more = message["more_body"]
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(task: Task) -> None:
    """Serve at a unix socket's path or at host:port."""
    host, _, port = task.address.rpartition(":")
    where: dict[str, Any] = {"host": host, "port": int(port)} if port.isdecimal() else {"uds": task.address}
    uvicorn.run(_echo, loop="uvloop", http="httptools", lifespan="off", log_level="warning", access_log=False, **where)
