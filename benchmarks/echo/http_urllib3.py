"""Pooled HTTP: a urllib3 pool, what `requests` stands on, over loopback; one thread per request in flight."""

import threading

import urllib3

from benchmarks.echo.exchange import Task, Window, run
from benchmarks.echo.http_server import REQUEST_HEADERS, serve


def _drive(task: Task, window: Window) -> None:
    host, _, port = task.address.rpartition(":")
    pool = urllib3.HTTPConnectionPool(host, int(port), maxsize=task.in_flight)
    body = bytes(task.body_bytes)
    lock = threading.Lock()

    def ask() -> None:
        going = True
        while going:
            answer = pool.request("POST", "/", body=body, headers=REQUEST_HEADERS)
            with lock:
                going = window.answered(len(answer.data))

    threads = [threading.Thread(target=ask) for _ in range(task.in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    run(serve, _drive)
