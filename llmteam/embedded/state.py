"""What the servers of one home remember between starts, and the locks that keep two guardians apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmteam import codec
from llmteam.embedded.errors import EmbeddedPlaceError

_POLL = 0.02


@dataclass(frozen=True, slots=True)
class State:
    """Where the data (``root``) and the sockets (``run``) are, how to reach the broker, and whether all was stopped.

    ``clean`` is False while servers run: one that finds it so looks for processes that were left behind.
    """

    root: str
    run: str
    port: int
    password: str
    clean: bool


class Control:
    """The folder ``HOME/embedded``: state, locks, guardian's log. Only this user can read it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "embedded"
        self.start_lock = self.folder / "start.lock"
        self.guardian_lock = self.folder / "guardian.lock"
        self.log = self.folder / "guardian.log"
        self._state = self.folder / "servers.json"

    def create(self) -> None:
        """Make the folder. Raises EmbeddedPlaceError when that is not possible or it is another user's."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            owner = self.folder.stat().st_uid
        except OSError as exc:
            raise EmbeddedPlaceError(f"cannot make {self.folder}: {exc.strerror}; set LLMTEAM_HOME elsewhere") from exc
        if owner != os.geteuid():
            raise EmbeddedPlaceError(
                f"{self.folder} belongs to user id {owner}, this process runs as {os.geteuid()}: "
                "run as that user or set LLMTEAM_HOME elsewhere"
            )

    def load(self) -> State | None:
        """The state, or None before the first start. Raises EmbeddedPlaceError when the file cannot be read."""
        try:
            return State(**codec.loads(self._state.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as exc:
            # Starting afresh would hide data that stand elsewhere.
            raise EmbeddedPlaceError(
                f"{self._state} cannot be read ({type(exc).__name__}); it says where the data are: "
                "restore it, or delete it if they stand in this folder"
            ) from exc

    def save(self, state: State) -> None:
        """Replace the state in one step, on disk when this returns."""
        draft = self._state.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(codec.dumps(asdict(state)).encode())
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._state)


class Lock:
    """A lock that the kernel releases when this process ends. Threads of one process do not exclude each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self, timeout: float, wanted: Callable[[], None] = lambda: None) -> bool:
        """Wait up to ``timeout`` seconds; ``wanted`` is called meanwhile and raises to give up."""
        until = time.monotonic() + timeout
        # lockf, not flock: a child that this process forks while holding it must not keep it.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                with contextlib.suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                if time.monotonic() >= until:
                    self.release()
                    return False
                wanted()
                time.sleep(_POLL)
        except BaseException:
            self.release()
            raise

    def still_there(self) -> bool:
        """Whether the file that is locked is the one that others find: False once its folder was deleted."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        held = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[bool]:
    """Hold the lock on ``path`` inside the block; yields whether it was got in time."""
    lock = Lock(path)
    got = lock.acquire(timeout)
    try:
        yield got
    finally:
        lock.release()
