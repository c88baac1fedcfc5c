"""pyzmq, ROUTER and DEALER over ipc://, each in a plain blocking loop: the least it can cost, without an event loop."""

import zmq

from benchmarks.echo.exchange import Task, Window, run
from benchmarks.echo.zmq_messages import body_bytes, driving, receive, receive_routed, reply, request, send, serving


def _serve(task: Task) -> None:
    sock = serving(zmq.Context(), task)
    while True:
        send(sock, reply(receive_routed(sock, task)))


def _drive(task: Task, window: Window) -> None:
    sock = driving(zmq.Context(), task)
    body = bytes(task.body_bytes)
    number = 0
    while number < task.in_flight:
        number += 1
        send(sock, request(task, number, body))
    while window.answered(body_bytes(receive(sock, task))):
        number += 1
        send(sock, request(task, number, body))
    sock.close()


if __name__ == "__main__":
    run(_serve, _drive)
