"""Where a process finds its licence and the key that checks it: in settings, or in files that nobody else may write."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from llmteam.crypto import VerifyKey
from llmteam.errors import ConfigurationError
from llmteam.licensing.keys import MAX_LENGTH
from llmteam.settings import Settings

#: Bytes that are read of a file.
_MOST = 2 * MAX_LENGTH


class LicenseFileError(ConfigurationError):
    """A file with a licence or its public key cannot be read, or others than its owner may write it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class FoundKey:
    """The text of a licence key, which is never shown, and where it was found."""

    source: str
    text: str

    def __repr__(self) -> str:
        return f"FoundKey(source={self.source!r})"


def find_key(settings: Settings) -> FoundKey | None:
    """The licence of this process, or None.

    Looked for in ``LLMTEAM_LICENSE_KEY``, in the file of ``LLMTEAM_LICENSE_FILE``, in ``~/.llmteam/license.key``; never
    where the process happens to have been started. Raises :class:`LicenseFileError`.
    """
    if settings.license_key is not None:
        return FoundKey("LLMTEAM_LICENSE_KEY", settings.license_key)
    if settings.license_file is not None:
        return FoundKey(str(settings.license_file), read_file(settings.license_file))
    home = Path("~/.llmteam/license.key").expanduser()
    return FoundKey(str(home), read_file(home)) if home.exists() else None


def public_key(settings: Settings) -> VerifyKey | None:
    """The key that checks licences, or None when none is set. Raises :class:`ConfigurationError`."""
    given = settings.license_public_key
    if given is None:
        return None
    pem = given if given.startswith("-----BEGIN") else read_file(Path(given).expanduser())
    return VerifyKey.from_pem(pem.encode())


def read_file(path: Path) -> str:
    """The text of a small file that belongs to this user or to root and that nobody else may write.

    Raises :class:`LicenseFileError`.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LicenseFileError(path, "it is no file")
            if status.st_uid not in {os.geteuid(), 0}:
                raise LicenseFileError(path, "it belongs to another user: chown it to that of this process or to root")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise LicenseFileError(path, "others may write it: chmod go-w it")
            raw = file.read(_MOST + 1)
    except OSError as exc:
        raise LicenseFileError(path, f"it cannot be read ({exc.strerror}): correct the path or its rights") from None
    if len(raw) > _MOST:
        raise LicenseFileError(path, f"it has more than {_MOST:,} bytes: this is no licence and no key")
    return raw.decode("utf-8", "replace").strip()
