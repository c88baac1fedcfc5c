"""A wire between a trainer and an engine that can be cut: bytes go through as they are, TLS among them."""

import contextlib
import select
import socket
import threading
from typing import Self

_PIECE = 1 << 16
_LOOK_S = 0.1
_WAITING = 128


class Wire:
    """What is wrong with it is its `fault`.

    "" passes on, `silent` takes connections and says nothing, `dropping` lets nobody connect and says nothing, as does
    a packet filter; `refusing` takes none, `cut` takes them and ends all.
    """

    def __init__(self, target: str) -> None:
        """`target` is host:port."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._ended = threading.Event()
        self._listening = self._listen(0)
        self._port: int = self._listening.getsockname()[1]
        self._fault = ""
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """Where to connect to, as host:port; a name of the engine's certificate has to lead here."""
        return f"127.0.0.1:{self._port}"

    @property
    def fault(self) -> str:
        """What is wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: str) -> None:
        self._fault = fault
        if fault == "refusing":
            self._listening.close()
        elif self._listening.fileno() < 0:
            self._listening = self._listen(self._port)
            self._begin(self._accept)
        else:
            self._listening.listen(0 if fault == "dropping" else _WAITING)

    def __enter__(self) -> Self:
        """Begin."""
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def _begin(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listening = self._listening
        while not self._ended.is_set() and listening.fileno() >= 0:
            if self._fault == "dropping":  # who waits to be taken keeps the others out
                self._ended.wait(_LOOK_S)
                continue
            with contextlib.suppress(OSError, ValueError):
                if select.select([listening], [], [], _LOOK_S)[0]:
                    self._begin(self._link, listening.accept()[0])

    def _link(self, near: socket.socket) -> None:
        """Pass on what comes from either side, as long as nothing is wrong."""
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            ends = {near: far, far: near}
            while not self._ended.is_set() and self._fault not in {"cut", "refusing"}:
                if self._fault in {"silent", "dropping"}:
                    self._ended.wait(_LOOK_S)
                    continue
                for end in select.select(list(ends), [], [], _LOOK_S)[0]:
                    data = end.recv(_PIECE)
                    if not data:
                        return
                    ends[end].sendall(data)
