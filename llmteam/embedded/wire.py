"""Local sockets of the embedded servers: how owners and guardian talk, and how a server is asked whether it answers.

Messages are JSON, one a line. Nothing here leaves the machine: Unix sockets and the loopback address only.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from llmteam import codec
from llmteam.codec import JSON

LOOPBACK = "127.0.0.1"
_MESSAGE_LIMIT = 1 << 20


class Line:
    """One end of a conversation. ``peer_gone`` is set once the other side has closed it, by will or by its death."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.peer_gone = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, message: JSON, timeout: float = 5.0) -> None:
        """Write ``message``. Raises OSError when the other side is gone or does not read for ``timeout`` seconds."""
        self._sock.settimeout(timeout)
        self._sock.sendall(codec.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> JSON | None:
        """The next message within ``timeout`` seconds; None when the other side closed. Raises OSError kinds."""
        until = time.monotonic() + timeout
        while b"\n" not in self._buffer and not self.peer_gone:
            self._sock.settimeout(max(until - time.monotonic(), 0.001))
            self._take(self._sock.recv(65536))
        return self._next()

    def arrived(self) -> Iterator[JSON]:
        """Every message that is here already, without waiting."""
        self._sock.setblocking(False)
        try:
            while not self.peer_gone:
                self._take(self._sock.recv(65536))
        except BlockingIOError:
            pass
        except OSError:
            self.peer_gone = True
        while b"\n" in self._buffer:
            yield self._next()

    def is_closed(self) -> bool:
        """Whether the other side has closed, without reading what it sent."""
        try:
            self._sock.setblocking(False)
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _take(self, data: bytes) -> None:
        self.peer_gone = not data
        self._buffer += data
        if len(self._buffer) > _MESSAGE_LIMIT:
            raise OSError(errno.EMSGSIZE, "a message of more than 1 MiB")

    def _next(self) -> JSON | None:
        head, found, rest = self._buffer.partition(b"\n")
        if not found:
            return None
        self._buffer = rest
        return codec.loads(head)


def pair() -> tuple[Line, socket.socket]:
    """Two connected ends: one to keep, one for a child process to inherit."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Line(ours), theirs


def inherited(fileno: int) -> Line:
    """The end of :func:`pair` that this process was started with."""
    return Line(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fileno))


def connect(path: Path, timeout: float) -> Line:
    """A conversation with whoever listens on the Unix socket ``path``. Raises OSError when nobody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return Line(sock)


class Listener:
    """A Unix socket that only this user can reach; a leftover file of that name is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.bind(str(path))
            path.chmod(0o600)
            self._sock.listen(64)
            self._sock.setblocking(False)
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> Line | None:
        """The next caller, or None."""
        try:
            return Line(self._sock.accept()[0])
        except OSError:
            return None

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._sock.close()


def can_listen(folder: Path) -> bool:
    """Whether the file system of ``folder`` takes Unix sockets (shared folders of virtual machines often do not)."""
    try:
        Listener(folder / ".probe").close()
    except OSError:
        return False
    return True


def port_is_free(port: int) -> bool:
    """Whether ``port`` of the loopback address can be bound right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def redis_answers(port: int, password: str) -> bool:
    """Whether a Redis-protocol server on ``port`` takes ``password`` and is done loading its data."""
    expected = b"+OK\r\n+PONG\r\n"
    answer = b""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0) as sock:
            sock.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            while len(answer) < len(expected) and (part := sock.recv(256)):
                answer += part
    except OSError:
        return False
    return answer == expected
