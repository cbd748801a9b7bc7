"""Keys that the home makes for itself, so that development needs no setting."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from pathlib import Path

from llmteam.embedded.errors import EmbeddedPlaceError

#: Id of the home's master key.
HOME_KEY_ID = "home"


def home_key(home: Path) -> str:
    """The key of this home that signs, made on the first call and the same ever after, in whatever process.

    It stands in ``HOME/web.key``, which only this user may read. Raises EmbeddedPlaceError when others may, or when
    the file is of no use.
    """
    return _kept(home / "web.key", secrets.token_urlsafe(32), "delete it, and links that it signed end")


def home_master_key(home: Path) -> tuple[str, bytes]:
    """The id and the 32 bytes of the key with which this home encrypts, kept in ``HOME/encryption.key`` as above.

    Without the file, what was sealed cannot be read again.
    """
    path = home / "encryption.key"
    fresh = base64.b64encode(secrets.token_bytes(32)).decode()
    text = _kept(path, fresh, f"chmod 600 {path}, or restore it: without it, what was sealed cannot be read")
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise EmbeddedPlaceError(f"{path} holds no key: restore it: without it, what was sealed cannot be read")
    return HOME_KEY_ID, raw


def _kept(path: Path, fresh: str, fix: str) -> str:
    """What the file holds; ``fresh``, if there was none."""
    with contextlib.suppress(FileNotFoundError):
        return _read(path, fix)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
        out.write(fresh)
        out.flush()
        os.fsync(out.fileno())
    try:
        # A link, since it does not replace what another process was quicker to write.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    return _read(path, fix)


def _read(path: Path, fix: str) -> str:
    with path.open(encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise EmbeddedPlaceError(f"{path} can be read by others: {fix}")
        key = file.read().strip()
    if len(key) < 32:
        raise EmbeddedPlaceError(f"{path} holds no key: {fix}")
    return key
