"""Where the servers keep data and sockets, and as which user they run when this process is root.

Postgres refuses root, needs a data folder of its own user and mode, and a Unix socket's path has room for about a
hundred bytes: the home is used when it serves, else another folder is chosen and said so in the notes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmteam import codec
from llmteam.embedded import wire
from llmteam.embedded.errors import EmbeddedPlaceError
from llmteam.embedded.processes import Account, succeeds
from llmteam.embedded.state import Control, State

#: Bytes of a Unix socket's path that every supported system takes (macOS: 104 with the closing NUL).
SOCKET_PATH_LIMIT = 103
#: Postgres allows 1,023 bytes for any path; its own file names need some of them.
_DATA_PATH_LIMIT = 800
_SPACE_NEEDED = 200 * 1024 * 1024
_SERVICE_USER = "pgserver"


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of one home's servers. ``account`` is None when they run as this process's own user."""

    root: Path
    run: Path
    account: Account | None
    notes: tuple[str, ...]

    @property
    def guardian_socket(self) -> Path:
        return guardian_socket(self.run)

    @property
    def postgres_sockets(self) -> Path:
        return self.run / "pg"

    def folder(self, server: str) -> Path:
        """The folder in which ``server`` writes; it belongs to the account."""
        return self.root / server

    def config(self, name: str) -> Path:
        return self.root / "conf" / name

    def log(self, server: str) -> Path:
        return self.root / "log" / f"{server}.log"

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    def digest(self) -> str:
        return _digest(self.root)


def guardian_socket(run: Path) -> Path:
    """Where the guardian listens whose servers have their sockets in ``run``."""
    return run / "guardian.sock"


def prepare(control: Control, state: State | None) -> Place:
    """The place that ``state`` names, or one chosen now; its folders exist afterwards. Raises EmbeddedPlaceError."""
    account = _account(Path(state.root) if state else None) if os.geteuid() == 0 else None
    root, notes = _data_root(control, state, account)
    run, run_notes = _socket_folder(root, Path(state.run) if state else None)
    place = Place(root, run, account, (*_account_notes(account), *notes, *run_notes))
    for folder in (root / "conf", root / "log", run):
        _own_folder(folder, account)
    # The servers are given their logs open.
    (root / "log").chmod(0o700)
    _hand_over(place.postgres_sockets, account)
    return place


def require_space(folder: Path) -> None:
    """Raise EmbeddedPlaceError when ``folder`` has no room for a new database cluster."""
    free = shutil.disk_usage(folder).free
    if free < _SPACE_NEEDED:
        raise EmbeddedPlaceError(
            f"{folder} has {free // 1024 // 1024} MiB free, a new database needs {_SPACE_NEEDED // 1024 // 1024}: "
            "free some or set LLMTEAM_HOME elsewhere"
        )


def _digest(path: Path) -> str:
    return codec.digest(os.fsencode(path))[:12]


def _account(root: Path | None) -> Account:
    """The user for the servers of a root process: the owner of existing data, else a user that is made for them."""
    data = root / "postgres" if root else None
    if data is not None and data.exists():
        with contextlib.suppress(KeyError):
            return _as_account(pwd.getpwuid(data.stat().st_uid))
        account = _service_account()
        # The data come from a machine or image where their owner's number was another user's.
        for server in ("postgres", "valkey"):
            _give_away(root / server, account) if root else None
        return account
    return _service_account()


def _give_away(folder: Path, account: Account) -> None:
    for parent, names, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in (*names, *files))):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _service_account() -> Account:
    for name in (_SERVICE_USER, "nobody"):
        if name == _SERVICE_USER:
            _add_user(name)
        with contextlib.suppress(KeyError):
            found = _as_account(pwd.getpwnam(name))
            if found.uid != 0:
                return found
    raise EmbeddedPlaceError(
        f"running as root, which Postgres refuses, and there is neither a user {_SERVICE_USER} nor nobody: "
        f"run as another user, or add one with: useradd --system {_SERVICE_USER}"
    )


def _add_user(name: str) -> None:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return
    # Without useradd, or with a read-only /etc, nobody serves.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )


def _as_account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _account_notes(account: Account | None) -> tuple[str, ...]:
    return (f"running as root, which Postgres refuses: the servers run as user {account.name}",) if account else ()


def _data_root(control: Control, state: State | None, account: Account | None) -> tuple[Path, tuple[str, ...]]:
    if state is not None:
        root = Path(state.root)
        if reason := _unusable(root, account):
            raise EmbeddedPlaceError(f"the data are in {root}, but {reason}: put that right or move the data")
        return root, (() if root == control.folder else (f"the data are in {root}",))
    reasons: list[str] = []
    for root in _data_candidates(control):
        reason = _unusable(root, account)
        if not reason:
            return root, tuple(f"the data are in {root}, because {first}" for first in reasons[:1])
        reasons.append(f"{root}: {reason}" if reasons else f"{control.folder} cannot hold them: {reason}")
    raise EmbeddedPlaceError(f"no folder for the data ({'; '.join(reasons)}): set LLMTEAM_HOME elsewhere")


def _data_candidates(control: Control) -> Iterator[Path]:
    yield control.folder
    name = _digest(control.folder)
    if os.geteuid() == 0:
        yield Path("/var/lib/llmteam", name)
    else:
        yield Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "llmteam" / name
    yield Path("/var/tmp", f"llmteam-{os.geteuid()}-{name}")  # noqa: S108 - its owner and mode are checked


def _unusable(root: Path, account: Account | None) -> str | None:
    """Why the servers cannot work in ``root``, or None; makes it and the servers' folders."""
    if len(os.fsencode(root)) > _DATA_PATH_LIMIT:
        return "its path is too long for Postgres"
    try:
        _own_folder(root, account)
        for server in ("postgres", "valkey"):
            _hand_over(root / server, account)
    except (OSError, EmbeddedPlaceError) as exc:
        return str(exc)
    if account and not succeeds(["/bin/sh", "-c", 'cd "$0"', str(root / "postgres")], account):
        for server in ("postgres", "valkey"):
            with contextlib.suppress(OSError):
                (root / server).rmdir()
        return f"user {account.name} cannot enter a folder above it"
    return None


def _own_folder(folder: Path, account: Account | None) -> None:
    """Make ``folder``, ours alone; the account may pass through it but not list it."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or not stat.S_ISDIR(folder.lstat().st_mode):
        raise EmbeddedPlaceError(f"{folder} belongs to another user")
    folder.chmod(0o711 if account else 0o700)


def _hand_over(folder: Path, account: Account | None) -> None:
    """Make ``folder``, the account's alone."""
    folder.mkdir(exist_ok=True)
    uid, gid = (account.uid, account.gid) if account else (os.geteuid(), os.getegid())
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise EmbeddedPlaceError(f"{folder} belongs to another user")
    os.chown(folder, uid, gid, follow_symlinks=False)
    folder.chmod(0o700)
    made = folder.lstat()
    if (made.st_uid, stat.S_IMODE(made.st_mode)) != (uid, 0o700):
        raise EmbeddedPlaceError("its file system does not keep owners and permissions")


def _socket_folder(root: Path, known: Path | None) -> tuple[Path, tuple[str, ...]]:
    beside = root / "run"
    if _takes_sockets(beside):
        return beside, ()
    if known is not None and known != beside and _is_private(known) and _takes_sockets(known):
        return known, (f"the sockets are in {known}",)
    for base in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108
        if not base or not _fits(Path(base, "llmteam-12345678")):
            continue
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix="llmteam-", dir=base))
            if _takes_sockets(made):
                return made, (f"the sockets are in {made}: the path of {beside} is too long or takes no sockets",)
            made.rmdir()
    raise EmbeddedPlaceError(f"no folder for Unix sockets: neither {beside} nor the temporary folders take one")


def clear_sockets(place: Place) -> None:
    """Remove the folder of the sockets if it is not among the data; the next start makes it again."""
    if place.run.parent != place.root:
        shutil.rmtree(place.run, ignore_errors=True)


def _fits(run: Path) -> bool:
    path = os.fsencode(run / "pg" / ".s.PGSQL.5432")
    # A comma separates folders for Postgres and hosts for its clients; a quote or backslash is an escape.
    return len(path) <= SOCKET_PATH_LIMIT and not set(path) & set(b",\"'\\")


def _takes_sockets(run: Path) -> bool:
    if not _fits(run):
        return False
    try:
        run.mkdir(mode=0o711, exist_ok=True)
    except OSError:
        return False
    return wire.can_listen(run)


def _is_private(folder: Path) -> bool:
    """Whether ``folder``, made if missing, is ours and nobody else can change it."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o711)
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
