"""Large bodies in memory that both ends of a data channel share: how it is made, handed over, mapped and referred to.

A *segment* is a memfd. It is sealed: nobody can cut it off under a reader, and nobody can write to it but through the
mapping that its maker had before. It is handed over once to each process that is to read it, with SCM_RIGHTS on a
SOCK_SEQPACKET socket beside the stream of frames; from then on a frame with the bit SHARED in its codec has for a body
only a reference to where the real one stands (docs/adr/0020-shared-memory.md).
"""

import ctypes
import fcntl
import os
import socket
import struct
import weakref
from typing import NamedTuple

_REFERENCE = struct.Struct("<QQQ")
SIDE_SUFFIX = ".fds"
_NOTE = struct.Struct("<QQ")  # number and size, beside the descriptor
_FD = struct.Struct("i")
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; the standard library does not name it
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _F_SEAL_FUTURE_WRITE
_PROT_READ, _PROT_WRITE, _MAP_SHARED = 1, 2, 1
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Reference(NamedTuple):
    """Where a body stands: the segment's number, and the bytes in it."""

    number: int
    offset: int
    size: int

    def pack(self) -> bytes:
        """The reference as a frame's body."""
        return _REFERENCE.pack(*self)

    @classmethod
    def unpack(cls, body: bytes | memoryview) -> "Reference":
        """Read a frame's body.

        Raises:
            ValueError: it is none.
        """
        if len(body) != _REFERENCE.size:
            msg = f"a reference of {len(body)} bytes"
            raise ValueError(msg)
        return cls(*_REFERENCE.unpack(body))


class Handed(NamedTuple):
    """A segment as it comes out of a socket; the descriptor is the receiver's to close."""

    number: int
    size: int
    fd: int


def side_path(path: str) -> str:
    """Where descriptors are handed over to who listens for frames on a unix socket at `path`."""
    return path + SIDE_SUFFIX


def make_segment(size: int) -> tuple[int, memoryview]:
    """Make a sealed segment; returns its descriptor and the one mapping that can be written to.

    Raises:
        OSError: there is no descriptor or no memory left, or the kernel is older than 5.1.
    """
    fd = os.memfd_create("segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        view = map_segment(fd, size, writable=True)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd, view


def is_sound(fd: int, size: int) -> bool:
    """Tell whether a descriptor is that of a sealed segment of this size: then no access to it can fail."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS and os.fstat(fd).st_size == size
    except OSError:
        return False


def map_segment(fd: int, size: int, *, writable: bool = False) -> memoryview:
    """Map a segment until the view and all that was made of it are gone; the descriptor may be closed before.

    By way of ctypes, because `mmap.mmap` keeps a copy of the descriptor, with a call that a sealed runner may not make.

    Raises:
        OSError: it cannot be mapped.
    """
    address = _libc.mmap(None, size, _PROT_READ | (_PROT_WRITE if writable else 0), _MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    view = memoryview(memory).cast("B")
    return view if writable else view.toreadonly()


def hand_over(sock: socket.socket, number: int, size: int, fd: int) -> bool:
    """Give a segment to the other end of a non-blocking socket; false when it cannot take it now, or is gone."""
    try:
        socket.send_fds(sock, [_NOTE.pack(number, size)], [fd])
    except OSError:
        return False
    return True


def take_over(sock: socket.socket) -> Handed | None:
    """Receive a segment without waiting; None when the other end has hung up.

    Raises:
        BlockingIOError: there is none now.
        OSError: what came is no segment, or there was no descriptor left for it.
    """
    # Not `socket.recv_fds`: it takes flags and does not use them before Python 3.12.
    how = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    note, ancillary, flags, _ = sock.recvmsg(_NOTE.size, socket.CMSG_SPACE(_FD.size), how)
    fds = [fd for _, kind, data in ancillary if kind == socket.SCM_RIGHTS for (fd,) in _FD.iter_unpack(data)]
    if not note and not fds:
        return None
    if len(note) != _NOTE.size or len(fds) != 1 or flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        for fd in fds:
            os.close(fd)
        msg = "a segment that did not come whole"
        raise OSError(msg)
    number, size = _NOTE.unpack(note)
    return Handed(number, size, fds[0])
