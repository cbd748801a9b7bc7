"""A key that the home makes for itself, so that development needs no setting."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from llmteam.embedded.errors import EmbeddedPlaceError


def home_key(home: Path) -> str:
    """The key of this home, made on the first call and the same ever after, in whatever process.

    It stands in ``HOME/web.key``, which only this user may read. Raises EmbeddedPlaceError when others may, or when
    the file is of no use.
    """
    path = home / "web.key"
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    draft = home / f".web.key.{secrets.token_hex(8)}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
        out.write(secrets.token_urlsafe(32))
        out.flush()
        os.fsync(out.fileno())
    try:
        # A link, since it does not replace what another process was quicker to write.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> str:
    with path.open(encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise EmbeddedPlaceError(f"{path} can be read by others: delete it, and links that it signed end")
        key = file.read().strip()
    if len(key) < 32:
        raise EmbeddedPlaceError(f"{path} holds no key: delete it, and links that it signed end")
    return key
